"""Load, faults and figures on real PostgreSQL: local clusters of our own, hurt in every way we know, and judged.

May not know: how the product decides.  It sees what clients and operators see, and signals processes that it started; only
`faults/liar` reaches inside, a noded that breaks its promise so that the checkers are seen to notice.

Begin with `failover` (kill the primary N times), which needs little more than `cluster` (starts, watches and removes one),
`blows` and `ledger`.  `faults/catalogue` lists what may happen and what must come of it; `soak` draws `mishaps` from a seed.
`clients/` are those who remember every acknowledgement, and `checks/` judges, purely, what they were told.  `patroni/` runs
the same beside Patroni.  How to run all that: docs/faults.md.
"""
