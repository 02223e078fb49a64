"""Monotonic reads: within one session a counter that only grows is never seen to go back."""

from __future__ import annotations

from dataclasses import dataclass, field

from testkit.checks.outcomes import Checked

NAME = "reader"


@dataclass(slots=True)
class ReaderMemory:
    """What sessions on the reader endpoint saw."""

    sessions: int = 0
    reads: int = 0
    newest: dict[int, int] = field(default_factory=dict)
    """The counter as each session saw it last."""
    steps_back: list[str] = field(default_factory=list)

    def open(self) -> int:
        """Return the number of a new session."""
        self.sessions += 1
        return self.sessions

    def close(self, session: int) -> None:
        """Forget a session that ended."""
        self.newest.pop(session, None)

    def note_read(self, session: int, counter: int, server: str) -> None:
        """Remember that *session*, served by *server*, saw *counter*."""
        self.reads += 1
        before = self.newest.get(session, counter)
        if counter < before:
            self.steps_back.append(f"session {session} on {server} saw {before} and then {counter}")
        self.newest[session] = counter


def check_reads(memory: ReaderMemory, *, acknowledged: int, at_end: int) -> Checked:
    """Say whether all was monotonic, and the counter *at_end* is not below the highest *acknowledged*."""
    violations = list(memory.steps_back)
    if at_end < acknowledged:
        violations.append(f"the counter ended as {at_end}, but {acknowledged} was acknowledged")
    summary = f"{memory.reads} reads in {memory.sessions} sessions, the counter at {at_end}"
    return Checked(checker=NAME, summary=summary, violations=tuple(violations))
