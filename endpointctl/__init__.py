"""The operator's command line: one file per group of commands, and `local/`, the supervisor of an embedded cluster."""
