"""The embedded cluster on one machine: its directory, its plan, its settings files and the supervisor of its processes."""
