"""What every long-running program of ours is made of, one noun a file.

May not know: PostgreSQL, clusters, what the program is for.

Begin with `program`, the skeleton of a daemon, which `loading` loads quickly: it reads `settings` and `secrets`, sets up
`logs`, takes its reload and its end from `lifecycle`.  Others reach it through `reception` and `admission` (strangers),
`httpserver` and `principals` (tokens and what they open); it reaches others through `httpclient`, as commands do through
`oneshot`.  `durable` and `kept` are files, `escape` makes text of others safe to look at, `proctable` and `parentage` look at
processes, `looplag` says how late the event loop is.
"""
