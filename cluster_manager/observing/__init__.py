"""What is remembered of one node between its observations. Pure: times are arguments.

`watched` is one node as the loop keeps it, `news` says whether an observation tells anything that the one before did not,
`wal_starvation` how long a standby has been given nothing.
"""
