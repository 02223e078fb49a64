"""What operators order about the number of nodes: one more, or one less.

What can be refused is refused at once.  What is accepted stands in the store before anything is done about it, and the loop
carries it out: this only waits for the first answer, so that the operator is told.  Each order may be given again at any time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import assert_never

from cluster_manager.decision.leaving import NO_WRITER, why_needed
from cluster_manager.not_done import ByOthers as ForOthers
from cluster_manager.not_done import NotDone, NotFound, Refused, Unavailable
from cluster_manager.provision.provisioner import ByOthers, Declined, Gone, Leads, Made, Proposed, Provisioner, Unheard
from cluster_manager.shell.reconciler import Reconciler
from pgtopology.desired_nodes import DesiredNode, Wish
from pgtopology.node import NodeName
from pgtopology.supervision import PlannedNode

ANSWER_S = 9.0
"""For the first answer, which is a write of the store and a word of the provisioner away."""
READY_S = 3.0
"""For the first turn of a manager that has only begun: it hears the nodes first."""
POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class TakenOut:
    """What was done about a node that leaves."""

    text: str
    by_others: bool
    """Whether its programs are for others to stop."""


class NodeChanges:
    """The orders of one manager."""

    def __init__(self, reconciler: Reconciler, provisioner: Provisioner) -> None:
        self._reconciler = reconciler
        self._provisioner = provisioner
        self._adding = asyncio.Lock()
        """Two orders without a name mean two nodes: the second is proposed one when the first is made."""

    async def add(self, name: str | None, zone: str | None) -> PlannedNode:
        """Have the node *name*, or the first that is free, made and return it. Raises NotDone."""
        async with self._adding:
            await self._ready()
            if name is not None:
                self._refuse(name, zone)
            proposed = await self._provisioner.propose(name, zone)
            if not isinstance(proposed, Proposed):
                raise _not_done(proposed)
            node = proposed.node
            self._refuse(node.name, zone)
            before = self._reconciler.desired(node.name)
            if name is None and before is not None and before.node.is_unfinished:
                why = before.tries.reason or "its provisioner is at it"
                raise Refused(f'"{node.name}" is being added already ({why}); {_withdraw(node.name)}, or name another one')
            if before is None or before.node.is_unfinished:
                self._reconciler.wish(DesiredNode(name=NodeName(node.name), zone=node.zone))
            await self._until(lambda: self._is_made(node.name))
            return node

    def _refuse(self, name: str, zone: str | None) -> None:
        """Raise Refused if the record has another order about *name*."""
        earlier = self._reconciler.desired(name)
        if earlier is None:
            return
        if earlier.node.wish is Wish.LEAVING:
            raise Refused(f'"{name}" is being taken out: wait until that is done, or add another one')
        if not earlier.node.registered and zone not in (None, earlier.node.zone):
            raise Refused(f'"{name}" is being added already, in zone {earlier.node.zone}; {_withdraw(name)}')

    def _is_made(self, name: str) -> bool:
        """Return whether what can be told of the order to add *name* is known. Raises NotDone if it is bad news."""
        now = self._reconciler.desired(name)
        if now is None or now.tries.is_asked:
            return False
        if now.node.wish is Wish.LEAVING:
            raise Refused(f'"{name}" is not added: it is being taken out')
        if now.node.registered or isinstance(now.tries.answer, Made):
            return True
        if isinstance(now.tries.answer, Declined | Unheard):
            raise _not_done(now.tries.answer, f"it is tried again until it is done; {_withdraw(name)}")
        return False

    async def take_out(self, name: str, *, purge: bool) -> TakenOut:
        """Have the node *name* leave the cluster and its programs stop. Raises NotDone."""
        await self._ready()
        reconciler = self._reconciler
        document, earlier = reconciler.document, reconciler.desired(name)
        member = document.member(name) if document is not None else None
        if earlier is None and member is None:
            return await self._clear_away(name, purge=purge)
        if document is None or (member is not None and document.writer is None):
            raise Refused(NO_WRITER)
        # One that leaves, or has left, was ordered to before; its programs may be there still.
        if member is not None and not member.leaving and (why_not := why_needed(document, name)) is not None:
            raise Refused(why_not)
        before = earlier.node if earlier is not None else DesiredNode(name=NodeName(name), registered=True)
        purge = purge or (before.wish is Wish.LEAVING and before.purge)
        reconciler.wish(DesiredNode(name=before.name, zone=before.zone, wish=Wish.LEAVING, purge=purge, registered=True))
        await self._until(lambda: self._is_led(name))
        now = reconciler.desired(name)
        if now is not None and isinstance(now.tries.answer, ByOthers):
            return TakenOut(f'"{name}" leaves the cluster; {now.tries.answer.reason}', by_others=True)
        return TakenOut(f'"{name}" leaves the cluster', by_others=False)

    def _is_led(self, name: str) -> bool:
        """Return whether what can be told of the order to take *name* out is known. Raises NotDone if it is bad news."""
        now, kept = self._reconciler.desired(name), self._reconciler.why_kept(name)
        if kept is not None:
            raise Refused(kept)
        if now is None:
            return True
        if now.node.wish is not Wish.LEAVING or now.tries.is_asked:
            return False
        if isinstance(now.tries.answer, Declined | Unheard):
            raise _not_done(now.tries.answer, "it is tried again until it is done")
        return now.tries.answer is not None

    async def _clear_away(self, name: str, *, purge: bool) -> TakenOut:
        """Have whatever is left of a node that neither document nor record has put away. Raises NotDone."""
        led = await self._provisioner.lead_out(name, purge=purge)
        match led:
            case Leads():
                return TakenOut(f'"{name}" leaves the cluster', by_others=False)
            case Gone():
                raise NotFound(f'there is no node "{name}"')
            case ByOthers(reason):
                return TakenOut(f'"{name}" leaves the cluster; {reason}', by_others=True)
            case _:
                raise _not_done(led)

    async def _ready(self) -> None:
        """Give a manager that has only begun a moment to read the record; one that cannot says why when it is told the wish."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(READY_S):
                while not self._reconciler.knows_desired:  # noqa: ASYNC110 - as below
                    await asyncio.sleep(POLL_S)

    async def _until(self, is_known: Callable[[], bool]) -> None:
        """Wait until *is_known*. Raises Unavailable if that takes too long."""
        try:
            async with asyncio.timeout(ANSWER_S):
                while not is_known():  # noqa: ASYNC110 - the store, the loop and the provisioner all have a part in it
                    await asyncio.sleep(POLL_S)
        except TimeoutError as error:
            raise Unavailable("not done yet, and carried on; `endpointctl status` shows how far it is") from error


def _withdraw(name: str) -> str:
    return f"`endpointctl node remove {name}` takes that back"


def _not_done(answer: Declined | ByOthers | Unheard, more: str = "") -> NotDone:
    reason = f"{answer.reason}; {more}" if more else answer.reason
    match answer:
        case Declined():
            return Refused(reason)
        case ByOthers():
            return ForOthers(reason)
        case Unheard():
            return Unavailable(reason)
        case _:
            assert_never(answer)
