"""One PostgreSQL server: its programs, its processes, its configuration, and our sessions in it.  Knows no orders.

Programs: `binaries`, `features`, `tools` (run to their end), `failures` (what they raise).  Processes: `processes`,
`confinement`, `postmaster`, `doorway` (its socket).  Configuration: `conf`, `privileges`.  Sessions: `walsender` (replication
protocol), `sessions` (SQL), `slots`.  Then `instance`, which joins all of these into the server of this node; `source`,
another node's server; and `disk_space`.
"""
