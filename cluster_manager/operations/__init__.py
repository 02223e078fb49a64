"""What operators may have done beyond a plain request to the loop: which is refused, what is asked of nodes, what is tried
first.

`node_orders` (stop, start, restart, reinit), `node_changes` (one more, one less, which a provisioner carries out),
`configuring` (PostgreSQL's settings), `handover` (a switchover rehearsed, pure), `drill` (the loss of a node rehearsed).  Knows
no HTTP: what cannot be done is an exception of `not_done`.
"""
