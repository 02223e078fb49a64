"""PostgreSQL's protocol 3.0 to 3.2 as values: bytes in, values out, and back.

May not know: sockets, tasks, clocks, the cluster.  Only the standard library and msgspec.

Begin with `startup`, the first packet of a connection, and `framing`, which finds where messages begin and end without
looking at what is in them.  Then `messages`, the few that we write or read; `scram`, both roles of a login, message by
message; `errors`, what can be wrong with a peer's bytes; `sqlstate`.  `outcome` answers another question: what an error
proves of the transaction it ends.
"""
