"""Standard output for a command that must finish its work even when the terminal is closed in the middle of it.

A closed terminal answers every write with an error.  The first such error lets go of it: from then on output goes nowhere,
and the command can still stop its cluster in good order.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import TextIO, cast


def lasting_output() -> TextIO:
    """Return standard output as a stream that never fails."""
    return cast("TextIO", LastingOutput(sys.stdout))


class LastingOutput(io.TextIOBase):
    """Writes to *stream*, which is standard output, for as long as somebody is there."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """That of the stream: rich chooses its characters by it."""
        return self._stream.encoding

    def write(self, text: str) -> int:
        """Write *text*, or lose it."""
        try:
            return self._stream.write(text)
        except OSError:
            let_go_of_terminal()
            return len(text)

    def flush(self) -> None:
        """Flush what was written, or lose it."""
        try:
            self._stream.flush()
        except OSError:
            let_go_of_terminal()
            with contextlib.suppress(OSError):
                self._stream.flush()

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """Return the stream's descriptor."""
        return self._stream.fileno()


def let_go_of_terminal() -> None:
    """Send standard output and standard error nowhere, for the rest of the process."""
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
