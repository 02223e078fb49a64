"""The cluster as values: what is known, agreed, ordered and reported.  The words in which our programs speak to one another.

May not know: I/O, clocks, chance, any of the programs.  Only the standard library and msgspec.

Begin with `document`, the one thing that the manager writes and everyone follows; `epoch` and `timeline` are the numbers in
it.  Then the three rules that carry the guarantees: `quorum`, how many copies make a commit and how many promises a failover;
`succession`, which document may follow which; `timing`, the times two programs rely on.  Then what is said: `observation`
(noded to manager), `orders` (manager to noded), `report` (manager and proxy), and to people `status`, `event`, `history`,
`explanation`, `drill`, `handover`, `flight`.  `parameters`, `hba`, `desired` and `configuration` are PostgreSQL's settings.
"""
