"""Whole clusters in simulated time: the real decisions, promises and laws, on simulated machines, under seeded faults.

How to read it: `world` (time, chance, processes) and `network` know nothing of clusters.  On them stand a simulated PostgreSQL
(`datadir`, `committing`, `streaming`, `postgres`), a host with its noded (`node`, `noded`, `hands`, `ledger`, `reporter`), a
`store`, managers (`manager`) and proxies with clients (`proxy`); `cluster` puts them together and plays one seed.
`mishaps`, `operators` and `faults` disturb it, `checkers/` look on, and `coverage` says what must have occurred.  `switches`
takes one sentence of the law away at a time, and a checker must notice.

What is real: `cluster_manager.loop` and all that it decides by, `noded.acts` and `promise`, `pgtopology`, `table` and
`freshness` of `endpointd.routing`.  What is modelled after the source: what comes of the effects of noded's acts and how long
they take, and PostgreSQL's recovery, streaming and synchronous replication.

    python -m tests.sim --seeds 500 --jobs 2   many seeds; stops at the first that fails, and prints how to replay it
    python -m tests.sim --seeds 500 --coverage and how often each fault, diagnosis and action occurred
    python -m tests.sim --focus usurp          every run dwells on one fault
    python -m tests.sim --seed 17 --trace      one seed, everything that happens in it
    python -m tests.sim --play failover        one failover, from the blow to the next writer, without chance
    python -m tests.sim --switches             how many seeds each broken sentence survives
    python -m tests.sim --break empty_names    seeds with one sentence broken
"""
