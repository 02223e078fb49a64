"""The operator's command line.

May not know: how anything is decided.  It asks the manager over HTTP and the supervisor of a local cluster on its socket, and
says what it was told; only `verifying/` and `superuser` speak SQL.

Begin with `main`, which puts the groups together: `lifecycle` (up, down), `watching` (status, events, history), `steering`
(switchover, failover), `nodes`, `configuring`, `restarting`, `rehearsing` (drill, verify), `connecting` (psql, dsn),
`keeping` (secrets), `examining` (logs, doctor).  `options` is what all of them share; `api` is where the manager is
asked; everything printed goes through `output`, and how it looks is decided in the pure `render`, `listing`, `drillview` and
`flightstory`.  `local/` is what they do about a cluster on this machine.
"""
