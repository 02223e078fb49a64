"""A cluster on one machine: what was decided about it, and where everything of it lies. Files only.

Reading order: `layout`, the directory; `plan`, what cluster.json holds; `planning`, how that changes when a node comes or goes;
`preferences`, what an operator may choose; `directory`, which makes and checks the files; `settings_files`, the plan as a
description of a cluster and as the daemons' settings; `postmaster`, whether PostgreSQL runs in a data directory.
"""
