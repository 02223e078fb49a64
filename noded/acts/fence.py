"""Keeps a promise: nobody's WAL but the elected one's comes in any more, and says how far local WAL reaches.

The order of the steps is the law (docs/law.md, F3): the promise is durable before anything here begins; then the password goes,
then the configuration, then the receiver, and the process table has the last word.  A primary, and whatever cannot be
proven a standby, is stopped and started as a standby.  Every request runs all of it again.
"""

from __future__ import annotations

from dataclasses import dataclass

from noded.acts.effects import (
    AskEnd,
    AskRole,
    EndBlockers,
    EndHeartbeat,
    EndReceiver,
    ForgetPassword,
    Look,
    Now,
    Pause,
    Reconfigure,
    RemovePlaceholders,
    ResumeReplay,
    Sample,
    Steps,
    Stop,
    Unanswered,
    WalkWal,
)
from noded.acts.memory import Memory
from noded.acts.running import Running
from noded.law.promise import standby_configuration
from pgtopology.lsn import Lsn
from pgtopology.node import Position, Role
from pgtopology.orders import StopMode

POSITION_POLL_S = 0.003
CONFLICT_CHECK_EVERY = 10
"""Polls between two looks for sessions that hold up replay."""
REFUSED_S = 0.6
"""A server that has refused our sessions for so long is asked no longer: its files are."""
SILENT_S = 1.5
"""The same for one that says nothing, which may only be busy."""
MUTE_STOP_S = 2.0
RESCANNED_S = 0.15
"""Longer than wal_retrieve_retry_interval: a startup process that sleeps between attempts has looked at pg_wal again."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """The position cannot be told yet; the node is fenced all the same."""

    reason: str
    mute: bool = False
    """PostgreSQL runs, and answers no session of ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """The node is fenced."""

    was_primary: bool = False
    position: Position | None = None
    """Where its WAL ends, if its files said so before it was started again: a primary that ended in good order."""
    unknown: str = ""
    """Why no position can be told, if that is known already."""


class Replay:
    """What answers tell of the replay of local WAL: whether it has reached the end (S6)."""

    def __init__(self) -> None:
        self.reason = "PostgreSQL is starting"
        """Why the end is not known yet."""
        self._mute_since: float | None = None
        self._quiet_since: tuple[Lsn, float] | None = None
        self._replaying = 0
        """Answers in which replay went on."""
        self._counted = 0

    def unanswered(self, answer: Unanswered, now: float) -> Unknown | None:
        """Give up on a server that has answered nothing for long."""
        self.reason = f"PostgreSQL does not answer: {answer.reason}"
        self._mute_since = self._mute_since or now
        is_long = now - self._mute_since >= (REFUSED_S if answer.refuses else SILENT_S)
        return Unknown(self.reason, mute=True) if is_long else None

    def sampled(self, found: Sample, now: float) -> Position | Unknown | None:
        """Return the position if it is the end of local WAL."""
        self._mute_since = None
        if not found.standby:
            # A promotion that ended between the two answers gave the second one its timeline.
            return Unknown("PostgreSQL is not a standby")
        if not found.at_end:
            self._quiet_since = None
            self._replaying += 1
            self.reason = f"local WAL is being replayed ({found.waits_for or 'working'})"
            return None
        if found.received > found.replayed or not found.replayed:
            if self._quiet_since is None or self._quiet_since[0] != found.replayed:
                self._quiet_since = found.replayed, now
                self.reason = "received WAL is not replayed yet"
            # What was received behind the replayed position is the beginning of a record that never came whole.
            if now - self._quiet_since[1] < RESCANNED_S:
                return None
        return Position(timeline=found.timeline, lsn=found.lsn, replayed_lsn=found.replayed)

    def is_held_up(self) -> bool:
        """Return whether it is time to end sessions that may hold up replay: at its first answer, and now and then."""
        due = self._replaying > self._counted and self._counted % CONFLICT_CHECK_EVERY == 0
        self._counted = self._replaying
        return due


class Fence:
    """Cuts the node off, and reads how far its WAL reaches."""

    def __init__(self, memory: Memory, running: Running) -> None:
        self._memory = memory
        self._running = running

    def keep(self, stop_mode: StopMode, fast_s: float) -> Steps[Cut]:
        """Keep the promise that is durable by now. Raises Failed, OSError: then nothing was promised to anybody."""
        memory = self._memory
        if memory.blocked is not None:
            yield from ForgetPassword()
            yield from Stop(StopMode.IMMEDIATE)
            return Cut(unknown=memory.blocked)
        if memory.work is not None:
            # The data is in nobody's service; whatever the work ends with is started as the promise says.
            yield from ForgetPassword()
            return Cut(unknown=f"{memory.work} is under way")
        present = yield from Look()
        if not present.has_data:
            return Cut(unknown="there is no data")
        yield from EndHeartbeat()
        unusable = memory.state.work
        if unusable is not None or (not present.running and present.why_not_yet is not None):
            yield from Stop(StopMode.IMMEDIATE)
            return Cut(unknown=f"an unfinished {unusable} left the data unusable" if unusable else present.why_not_yet or "")
        return (yield from self.cut(stop_mode, fast_s=fast_s, promoting=memory.promoting))

    def cut(self, stop_mode: StopMode, *, fast_s: float | None = None, promoting: bool) -> Steps[Cut]:
        """Cut this node off from every upstream, and end it as a primary.

        *promoting*: it may be on the way to become one. Raises Failed, OSError: then nothing was promised to anybody.
        """
        if not (yield from Look()).running:
            yield from Stop(StopMode.IMMEDIATE)
            return Cut(position=(yield from self._running.start()))
        if promoting or (yield from AskRole()) is not Role.STANDBY:
            was_primary = not (yield from Look()).standby_signal
            yield from Stop(StopMode.IMMEDIATE if promoting else stop_mode, fast_s)
            return Cut(was_primary=was_primary, position=(yield from self._running.start()))
        yield from Reconfigure(standby_configuration(self._memory.state))
        if (yield from EndReceiver()):
            # One that was cut off between two history files leaves the number below a claim taken and the claimed one free, and
            # whoever promotes this node by hand would get that (decision 0010). A start removes them too.
            yield from RemovePlaceholders()
        else:
            yield from Stop(StopMode.IMMEDIATE)
            yield from self._running.start()
        return Cut()

    def read_position(self, timeout_s: float) -> Steps[Position | Unknown]:
        """Return the end of local WAL, once it was reached (S6)."""
        now = yield from Now()
        deadline, replay = now + timeout_s, Replay()
        while now < deadline:
            present = yield from Look()
            if not present.running:
                return Unknown("PostgreSQL ended")
            if present.ready:
                found = yield from AskEnd()
                now = yield from Now()
                judged = replay.unanswered(found, now) if isinstance(found, Unanswered) else replay.sampled(found, now)
                if judged is not None:
                    return judged
                if replay.is_held_up():
                    yield from EndBlockers()
                if isinstance(found, Sample) and found.paused:
                    yield from ResumeReplay()
            yield from Pause(POSITION_POLL_S)
            now = yield from Now()
        return Unknown(replay.reason)

    def read_position_by_files(self) -> Steps[Position | Unknown]:
        """Return the end of local WAL of a fenced standby that answers nobody: stopped, read, started again (decision 0012).

        Raises Failed, OSError.
        """
        yield from Stop(StopMode.FAST, MUTE_STOP_S)
        if not (yield from Look()).standby_signal:
            return Unknown("PostgreSQL was promoted meanwhile")
        found = yield from WalkWal()
        yield from self._running.start()
        return Unknown(found) if isinstance(found, str) else found
