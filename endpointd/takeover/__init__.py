"""One proxy relieves another without a connection refused: a restart, or an upgrade (decision 0035).

`words` (pure) is what they say, `channel` carries it with descriptors beside it.  `incumbent` is the one that serves, at its
private socket; `predecessor` is how its successor meets it; `colleagues` asks whoever else of this proxy's name is here.
Nothing here knows what the descriptors are for, nor what a session is.
"""
