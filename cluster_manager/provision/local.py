"""Nodes of a cluster on one machine: the supervisor makes them and is asked on its Unix socket.

It writes down what it was ordered before it does it, and finishes it after whatever interruption; it lays out directories and
ports, and names new nodes to this manager in its settings file.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from cluster_manager.provision.provisioner import ByOthers, Declined, Gone, Leads, Made, Proposed, Unheard
from daemonkit.exits import Failure
from daemonkit.linesocket import PeerGone, PeerSilent, ask
from pgtopology.supervision import Answer, Order

DEADLINE_S = 8.0
"""For the answer, which comes when the order is written down and not when it is carried out."""


NO_NODE = "the supervisor does not say which node it added"


class LocalProvisioner:
    """Asks the supervisor that listens on *socket*."""

    def __init__(self, socket: Path, *, deadline_s: float = DEADLINE_S) -> None:
        self._socket = socket
        self._deadline_s = deadline_s

    async def propose(self, name: str | None, zone: str | None) -> Proposed | Declined | ByOthers | Unheard:
        """Say which node would be made. A supervisor of an earlier version makes it at once, which `make` then finds done."""
        answer = await self._ask(Order(do="add", name=name, zone=zone, rehearse=True))
        if isinstance(answer, Answer):
            return Proposed(answer.node) if answer.node is not None else Unheard(NO_NODE)
        return answer

    async def make(self, name: str | None, zone: str | None) -> Made | Declined | ByOthers | Unheard:
        """Make the node *name*, or the first that is free, in *zone*. One that is there already is Made."""
        answer = await self._ask(Order(do="add", name=name, zone=zone))
        if isinstance(answer, Answer):
            return Made(answer.node) if answer.node is not None else Unheard(NO_NODE)
        return answer

    async def lead_out(self, name: str, *, purge: bool) -> Leads | Gone | Declined | ByOthers | Unheard:
        """Have the node *name*, which the document says is leaving, taken away, with *purge* its data too: Leads until Gone."""
        order = Order(do="remove", name=name, purge=purge, marked=True)
        answer = await self._ask(order)
        if isinstance(answer, Answer):
            return Gone() if answer.gone else Leads()
        return answer

    async def _ask(self, order: Order) -> Answer | Declined | Unheard:
        try:
            return await ask(self._socket, order, Answer, timeout_s=self._deadline_s)
        except Failure as failure:
            return Declined(failure.line)
        except PeerSilent:
            return Unheard(f"the supervisor does not answer within {self._deadline_s:g} s")
        except (PeerGone, msgspec.DecodeError):
            return Unheard("no supervisor answers; start one with `endpointctl up`")
