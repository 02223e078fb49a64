"""How PostgreSQL is brought into line with the durable state: every start is that of a standby (S10, S18)."""

from __future__ import annotations

from noded.acts.effects import AskRole, Failed, Look, ReadTimeline, Reconfigure, Start, Steps, Stop, Store
from noded.acts.memory import Memory
from noded.law import promise as rules
from pgtopology.node import Position, Role
from pgtopology.orders import StopMode


class Running:
    """Starts and configures."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def is_primary(self, *, by_files: bool = True) -> Steps[bool]:
        """Return whether PostgreSQL is a primary, or on the way to it, or nobody can say that it is not.

        *by_files*: whether its files may say so where no session does.
        """
        if self._memory.promoting:
            return True
        return (yield from AskRole(by_files)) is Role.PRIMARY

    def start(self) -> Steps[Position | None]:
        """Start PostgreSQL as the durable state says; return where its WAL ends, if its files say so.

        No process of the data directory may be left. One that keeps ending is started only after a pause. Raises Failed,
        OSError.
        """
        memory = self._memory
        present = yield from Look()
        if not present.standby_signal:
            # Data is given it when it is made. So recovery was ended: by nobody's order, unless onto the claimed timeline.
            yield from Store(rules.recovery_ended(memory.state, (yield from ReadTimeline())))
        if present.why_not_yet is not None:
            raise Failed(present.why_not_yet)
        memory.read = None
        return (yield from Start(rules.standby_configuration(memory.state)))

    def start_or_reload(self, *, writer: bool = False) -> Steps[None]:
        """Bring PostgreSQL into line with the durable state. Raises Failed, OSError."""
        state = self._memory.state
        if state.work is not None:
            raise Failed(f"an unfinished {state.work} left the data unusable")
        if (yield from Look()).running:
            configuration = rules.writer_configuration(state) if writer else rules.standby_configuration(state)
            yield from Reconfigure(configuration)
        else:
            yield from Stop(StopMode.IMMEDIATE)
            yield from self.start()
        self._memory.problem = None
