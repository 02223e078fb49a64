"""The manager: observations in, decisions, the topology document and names out. It never sees a client's bytes.

Floors, from the top; each knows only those below it, and those on one line do not know one another:

    `daemon`                            the program, which puts the parts together
    `api/`                              HTTP for operators: requests, answers, who asked
    `operations/`                       what operators may order beyond a plain request, and may have tried
    `shell/`                            the loop on asyncio: listens to nodes, carries orders to them, asks the store
    `settings`                          the settings file
    `loop/`  `record/`                  the cycle as a pure core; what is told and kept of what happened
    `observing/`  `report/`             what is remembered of one node; the cluster as people and Prometheus see it
    `decision/`                         a view in, a plan out
    `store/`  `dns/`  `proxies/`        the document's place; names; the feed
    `provision/`                        who makes the machines of nodes, and takes them away
    `not_done`                          why an operator's order was not carried out

Begin with `decision`, whose package is a reading order of its own, then `loop`, then `shell.reconciler`.
"""
