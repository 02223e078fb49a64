"""Load, faults and figures on real PostgreSQL: local clusters of our own, hurt in every way we know, and judged.

May not know: `tests`, and how the product decides.  It sees what clients and operators see, and signals processes that it
started; only `faults/liar` reaches inside, a noded that breaks its promise so that the checkers are seen to notice.

Begin with `failover` (kill the primary N times), which needs little more than `blows` and the `testkit`: clusters, clients
and checkers.  `faults/catalogue` lists what may happen and what must come of it; `soak` draws `mishaps` from a seed.
`patroni/` runs the same beside Patroni.  How to run all that: docs/faults.md.
"""
