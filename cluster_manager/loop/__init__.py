"""The manager's cycle as a pure core: look, decide, write or order, and look again.

`core.Loop.handle(event, now_ms)` takes what happened (`events`) and returns what is to be done about it (`effects`).  It owns
what one manager process remembers: the document (`known`), the operator's request and its lifetime, edits, the nodes as they
were heard (`nodes`), the orders under way with what was answered to them in this epoch (`orderbook`), and whether anything may
be decided at all: only with the lease, and only while the store owes no answer.  What an order of each kind carries is in
`orders`.

Nothing here has a clock, a socket, a task or a log.  Two shells run it: `shell.reconciler` on asyncio, HTTP and the store;
`tests/sim/manager.py` in simulated time.  Neither decides or remembers anything of its own.
"""
