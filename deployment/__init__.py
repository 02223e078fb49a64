"""A cluster described once, wherever it runs: on one machine, in containers, on hosts of its own.

`cluster` is the description: nodes, addresses, what the operator chose.  `render` makes of it what each daemon reads, in that
daemon's own settings types, for the machine the daemon runs on; `daemonkit.toml` makes the file.  Who describes: the local
cluster (`local`) from its plan, `containers` from config/compose.toml and the environment.
"""
