"""Several processes that are one proxy: the main one, and the workers that it starts (decision 40).

All accept at the same listening sockets, each has sessions, a routing table and a feed of its own.  The main one counts for all
of them.

`words` (pure) is what they say to each other, `line` carries it.  `crew` is the main one's side, `membership` a worker's.
`ledger` (pure) is who has a place, `gathering` (pure) makes one answer to GET /metrics of several.
"""
