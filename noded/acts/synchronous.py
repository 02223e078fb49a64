"""Puts a list of synchronous standbys in force on the writer, and proves it.

SHOW is no proof: backends skip the wait while the checkpointer has not read the first list (S1), and a walsender that has
not read the new list releases commits by the old one (S20).  Hence the order: a new backend shows the list; if there may have
been none before, the checkpointer has read it; if more copies are needed than before, every walsender has begun anew, because
nothing shows which list it goes by; every walsender counts as the list says; and a commit passes under it.
"""

from __future__ import annotations

from msgspec.structs import replace

from noded.acts.effects import (
    AwaitAgreement,
    AwaitRead,
    AwaitShown,
    CommitBarrier,
    EndWalsenders,
    Failed,
    InProof,
    InTurn,
    Late,
    Poke,
    Prover,
    Recall,
    Steps,
    Store,
)
from noded.acts.gate import Gate, OrderRefused, patience_s
from noded.acts.memory import Memory
from noded.acts.running import Running
from noded.law import promise as rules
from pgtopology.lsn import Lsn
from pgtopology.node import NodeName, Role
from pgtopology.orders import Refusal, SynchronousOrder
from pgtopology.quorum import Voters, synchronous_standby_names


class Synchronous:
    """The list in force, and what is known of who goes by it."""

    def __init__(self, memory: Memory, gate: Gate, running: Running) -> None:
        self._memory = memory
        self._gate = gate
        self._running = running

    def put_in_force(self, order: SynchronousOrder) -> Steps[Lsn]:
        """Carry out an accepted *order*; return the WAL end after a commit under its list."""
        memory, wanted = self._memory, order.in_force
        was_empty, bounce = yield from InTurn(self._write(order))
        lacking = ["the list was not taken up in time"]
        try:
            lsn = yield from InProof(
                lambda prover: self._proof(prover, wanted, was_empty=was_empty, bounce=bounce, lacking=lacking),
                patience_s(order),
            )
        except Late as late:
            raise OrderRefused(Refusal.FAILED, lacking[-1]) from late
        except Failed as error:
            raise OrderRefused(Refusal.FAILED, str(error)) from error
        self._gate.check_not_overtaken(order)
        if memory.state.in_force == wanted:
            memory.proven_list = wanted
        yield from Poke()
        return lsn

    def _proof(self, prover: Prover, wanted: Voters, *, was_empty: bool, bounce: bool, lacking: list[str]) -> Steps[Lsn]:
        """Return the WAL end after a commit under *wanted*'s list; what is *lacking* on the way is its last line."""
        memory, writer = self._memory, self._memory.state.node
        names = synchronous_standby_names(wanted, writer)
        others = tuple(voter.sync_name for voter in wanted.members if voter.name != writer)
        yield from AwaitShown(names)
        if was_empty and names:
            lacking.append("the checkpointer did not prove in time that it has read the list")
            yield from AwaitRead(prover)
        if memory.state.in_force == wanted:
            memory.list_is_proven = bool(names)
        if bounce:
            lacking.append("the walsenders did not begin anew in time")
            yield from EndWalsenders(prover)
        lacking.append("a walsender has not read the list in time")
        yield from AwaitAgreement(prover, others if wanted.others_needed(writer) else ())
        lacking.append("no quorum acknowledged a commit under the list in time")
        return (yield from CommitBarrier(prover))

    def _write(self, order: SynchronousOrder) -> Steps[tuple[bool, bool]]:
        """Have PostgreSQL read the list; return what is to be proven of it."""
        memory, wanted = self._memory, order.in_force
        self._gate.check_not_overtaken(order)
        yield from self._check_is_ours()
        was_empty = not memory.list_is_proven
        bounce = needs_bounce(memory.proven_list, wanted, memory.state.node)
        yield from Store(replace(memory.state, in_force=wanted))
        memory.list_is_proven = False
        memory.proven_list = memory.proven_list if memory.proven_list == wanted else None
        yield from self._gate.guard(self._running.start_or_reload(writer=True))
        return was_empty, bounce

    def _check_is_ours(self) -> Steps[None]:
        """Raise OrderRefused if PostgreSQL was promoted by nobody's order: a list in force would release its commits (S3)."""
        known = yield from Recall()
        if known.role is Role.PRIMARY and not rules.may_remain_primary(self._memory.state, known.timeline):
            raise OrderRefused(Refusal.FAILED, f"PostgreSQL is on timeline {known.timeline}, which nobody claimed for it")


def needs_bounce(proven: Voters | None, wanted: Voters, writer: NodeName) -> bool:
    """Return whether walsenders must begin anew: one of them may still release commits that fewer copies have (S20).

    One that knows of no list, or only of names not in the new one, releases nobody or shows it by its priority.
    """
    needed = wanted.others_needed(writer)
    return needed > 1 and (proven is None or proven.others_needed(writer) < needed)
