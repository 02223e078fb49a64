"""What SQL, clients and time do to a server, looked after again and again; none of it is urgent, all of it may fail.

`housekeeping` makes the rounds: `slot_keeper` (by `slot_chores`, pure), `horizon`, `impostors`, `former_readers`.  `audit`
looks at what the cluster's promises rest on: `relaxations`, `roles`.  `logins` tries those that a failover would need.  `told`
is what was put right lately.
"""
