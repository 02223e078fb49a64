"""Where nodes come from: the seam between the manager, which takes the order, and whoever has machines.

`provisioner` is the seam; `local` asks the supervisor of a cluster on one machine; `external` is for containers and hosts,
whose nodes others make and name in the manager's settings.  What operators may order is `operations.node_changes`; what a node
does once it runs is no matter of these files.
"""
