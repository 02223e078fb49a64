"""Nodes of a cluster on one machine: the supervisor makes them and is asked on its Unix socket.

It writes down what it was ordered before it does it, and finishes it after whatever interruption; it lays out directories and
ports, and names new nodes to this manager in its settings file.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from cluster_manager.provision.provisioner import ByOthers, Declined, Leads, Made, Unheard
from daemonkit.exits import Failure
from daemonkit.linesocket import PeerGone, PeerSilent, ask
from pgtopology.supervision import Answer, Order

DEADLINE_S = 8.0
"""For the answer, which comes when the order is written down and not when it is carried out."""


class LocalProvisioner:
    """Asks the supervisor that listens on *socket*."""

    def __init__(self, socket: Path, *, deadline_s: float = DEADLINE_S) -> None:
        self._socket = socket
        self._deadline_s = deadline_s

    async def make(self, name: str | None, zone: str | None) -> Made | Declined | ByOthers | Unheard:
        """Make the node *name*, or the first that is free, in *zone*. One that is there already is Made."""
        answer = await self._ask(Order(do="add", name=name, zone=zone))
        if isinstance(answer, Answer):
            return Made(answer.node) if answer.node is not None else Unheard("the supervisor does not say which node it added")
        return answer

    async def lead_out(self, name: str, *, purge: bool) -> Leads | Declined | ByOthers | Unheard:
        """Have the node *name*, which the document says is leaving, taken away, with *purge* its data too."""
        order = Order(do="remove", name=name, purge=purge, marked=True)
        answer = await self._ask(order)
        return Leads() if isinstance(answer, Answer) else answer

    async def _ask(self, order: Order) -> Answer | Declined | Unheard:
        try:
            return await ask(self._socket, order, Answer, timeout_s=self._deadline_s)
        except Failure as failure:
            return Declined(failure.line)
        except PeerSilent:
            return Unheard(f"the supervisor does not answer within {self._deadline_s:g} s; give the order again")
        except (PeerGone, msgspec.DecodeError):
            return Unheard("no supervisor answers; start one with `endpointctl up`")
