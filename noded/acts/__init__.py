"""What a noded does, step by step, without a clock, a file, a process or a task in it.

An *act* is a generator: it yields *effects* (`effects`), frozen values that say what is to be done next, and receives what came
of each.  `noded.hands` carries them out on a real PostgreSQL, `tests.sim.hands` in simulated time; both run this code, so that
what the simulator proves is what the product does.  Between two effects nothing else happens: a noded dies at an effect, or it
does not die.

Reading order: `effects`; `memory`, what a noded knows while it lives; `gate`, whether an order is accepted and still holds;
`running`, how PostgreSQL is started and configured; `fence`, how a promise is kept; `promotion`; `synchronous`; `remaking`;
`orders`, one act for each order; `startup`, the first act of all; `police` and `wholeness`, which look again and again; `acts`,
all together.  The rules that they go by are in `noded.law`.
"""
