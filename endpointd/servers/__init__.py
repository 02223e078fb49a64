"""Which server a client gets, and when: `connector` finds one and waits for one, `loginslots` (pure) says whose turn it is."""
