"""The supervisor of a local cluster: the parent of its processes, a daemon like the others.

Whoever commands a cluster knows it by its Unix socket and by what is said there (`pgtopology.supervision`); what can be done
without it, and how one is begun, is behind one door (`door`).

Reading order: `daemon`, its program; `supervising`, one of it and the orders that it takes; `program`, one supervised program;
`watchdog`, which notices those that stand still; `changing`, how nodes come and go; `keepsakes`, files that are put back;
`stopping`, the order of the end.  At the door: `starting`, from the wish for a cluster to its running supervisor; `presence`,
whether one runs; `ports`, who holds them; `tokens`.
"""
