"""What a noded does first: bring data, state and a PostgreSQL that may be running into agreement.

A PostgreSQL that outlived its noded is adopted if what it does agrees with the durable state (S10); half-made data is
removed; data that the state does not know, or that cannot be read, is quarantined: not started and not touched, because nobody
knows what it has acknowledged.
"""

from __future__ import annotations

from noded.acts.effects import (
    Adopt,
    AskRole,
    AwaitReady,
    EndTools,
    Failed,
    InTurn,
    Look,
    MakePlace,
    Note,
    ReadIdentifier,
    ReadTimeline,
    Reconfigure,
    RemoveData,
    RewriteSettings,
    Steps,
    Stop,
    Store,
    SweepUp,
)
from noded.acts.fence import Fence
from noded.acts.memory import Memory
from noded.acts.running import Running
from noded.law import promise as rules
from noded.law.promise import Work
from pgtopology.node import Role
from pgtopology.orders import StopMode

READY_S = 1.0

_WAY_OUT = "restore it, or have the node made anew (endpointctl node reinit)"


class Startup:
    """The first act."""

    def __init__(self, memory: Memory, running: Running, fence: Fence) -> None:
        self._memory = memory
        self._running = running
        self._fence = fence

    def start_up(self) -> Steps[None]:
        """Leave PostgreSQL as the durable state says. What cannot be done stands in the memory afterwards."""
        yield from InTurn(self._tried())

    def _tried(self) -> Steps[None]:
        try:
            yield from self._in_turn()
        except (Failed, OSError) as error:
            yield from Note("postgresql was not started", {"error": str(error)}, "error")
            self._memory.problem = f"PostgreSQL was not started: {error}"

    def _in_turn(self) -> Steps[None]:
        memory = self._memory
        yield from MakePlace()
        if memory.unreadable is not None:
            memory.blocked = f"{memory.unreadable}; {_WAY_OUT}"
            yield from Stop(StopMode.IMMEDIATE)
            return
        yield from EndTools()
        yield from self._clear_unfinished()
        if not (yield from self._data_is_ours()):
            # Nothing of what cannot be vouched for runs on.
            yield from Stop(StopMode.IMMEDIATE)
        elif (yield from Adopt()):
            yield from self.adopt()
        else:
            yield from Stop(StopMode.IMMEDIATE)
            if memory.state.wanted and memory.state.work is None:
                yield from self._running.start()

    def _clear_unfinished(self) -> Steps[None]:
        """Remove half-made data directories."""
        memory, work = self._memory, self._memory.state.work
        if work in (Work.INIT, Work.CLONE):
            # Whichever directory stands now, it is unknown whether it is the old or the new one; both were given up.
            yield from Stop(StopMode.IMMEDIATE)
            yield from RemoveData()
            yield from Store(rules.no_data(memory.state))
        if work is not None:
            memory.problem = f"an earlier {work} was interrupted"
        yield from SweepUp()

    def _data_is_ours(self) -> Steps[bool]:
        """Return whether there is data and it is what the state speaks of."""
        memory, known = self._memory, self._memory.state.system_identifier
        present = yield from Look()
        if not present.has_data:
            if known is not None:
                memory.problem = f"the data directory {present.directory} is gone"
                yield from Store(rules.no_data(memory.state))
            return False
        if known is None:
            memory.blocked = f"{present.directory} has data that {present.state_file} knows nothing of; {_WAY_OUT}"
            return False
        try:
            found = yield from ReadIdentifier()
        except Failed as error:
            memory.blocked = f"{present.directory} cannot be used: {error}; {_WAY_OUT}"
            return False
        if found != known:
            memory.blocked = f"{present.directory} is of system {found}, but {present.state_file} speaks of system {known}"
            return False
        return True

    def adopt(self) -> Steps[None]:
        """Bring a PostgreSQL that is running already into agreement with the state.

        A writer that may remain one is left as it is; it beats again when PostgreSQL too says that its timeline is the claimed
        one.
        """
        state = self._memory.state
        if not state.wanted or state.work is not None:
            yield from Stop(StopMode.FAST)
            return
        yield from RewriteSettings()
        yield from AwaitReady(READY_S)
        ended = not (yield from Look()).standby_signal
        may_remain = rules.may_remain_primary(state, (yield from ReadTimeline()) if ended else None)
        configuration = rules.standby_configuration(state)
        primary = (yield from AskRole()) is Role.PRIMARY
        if primary and may_remain:
            yield from Reconfigure(rules.writer_configuration(state))
        elif primary or configuration.upstream is None:
            # A promotion may have been on its way when the other noded died; then only a stop is a proof.
            yield from self._fence.cut(StopMode.IMMEDIATE, promoting=may_remain)
        else:
            yield from Reconfigure(configuration)
