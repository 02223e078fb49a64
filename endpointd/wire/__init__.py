"""Connections: a `link` is one, ours at one end; `dial` makes one to a server. Nothing else touches a transport."""
