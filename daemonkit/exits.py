"""How a command ends: the exit codes of the operator's contract, and the exception that carries one with its reason.

Every failure is one line on stderr that says what is wrong and what to do; a command that was asked for JSON says it on
stdout too, in its one document.  Codes: 0 done, 1 refused or failed, 2 wrong
usage, 3 accepted but not finished within the time given.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """The four codes of the operator's contract (docs/operations/README.md)."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    UNFINISHED = 3


class Failure(Exception):  # noqa: N818 - reads aloud: raise Failure("...")
    """The command cannot do what was asked; *message* is one line without a full stop, *hint* says what to do."""

    exit_code = ExitCode.FAILED

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def line(self) -> str:
        """Message and hint on one line."""
        text = f"{self.message}; {self.hint}" if self.hint else self.message
        return " ".join(text.split())

    def document(self, *, format_version: int) -> dict[str, object]:
        """What `--json` shows: *error* says what is wrong, *hint* (or null) what to do."""
        return {
            "format_version": format_version,
            "error": " ".join(self.message.split()),
            "hint": " ".join(self.hint.split()) if self.hint else None,
            "exit_code": int(self.exit_code),
        }


class Unfinished(Failure):
    """The order was accepted, but its end was not seen within the time given."""

    exit_code = ExitCode.UNFINISHED


class WrongUsage(Failure):
    """The arguments contradict one another or name something that does not exist."""

    exit_code = ExitCode.USAGE
