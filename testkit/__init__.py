"""What tests and benches both need of the world: real clusters, clients that remember, those who judge, and ways to do harm.

May not know: `tests` and `bench`, which import it and never one another; and how the product decides.  It sees what clients and
operators see, and signals processes that it started.  It is not installed with the product.

Begin with `cluster`, which starts, watches and removes a local cluster, and `ledger`: writers that remember every
acknowledgement, and the verdict on what the database shows afterwards.  `clients/` are the other workloads, `checks/` judges,
purely, what all of them were told; `warm` starts programs of ours without importing them anew.
"""
