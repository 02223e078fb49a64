"""A client, from its first byte to its last.

`listener` accepts it, after an `introduction` if a balancer brings it, `registry` counts it, `session` is its life: a `login`,
which does what a `conversation` (pure) `commands`, and then a relay that is watched over.  `cancelling` carries cancel
requests, `elsewhere` to others.  How it ends is said in `farewell` and told by `disconnections`.
"""
