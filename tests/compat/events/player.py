"""One driver's program while an event goes on: what it is told and what it says."""

from __future__ import annotations

import contextlib
import queue
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import msgspec

DEADLINE_S = 90.0


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that the application did, and the error it was shown, if any."""

    step: str
    after_s: float = 0.0
    error: str | None = None
    sqlstate: str | None = None
    text: str = ""

    def __str__(self) -> str:
        if self.error is None:
            return f"{self.step}: done"
        return f"{self.step}: {self.error} {self.sqlstate or 'without SQLSTATE'}: {self.text}"


class _Line(msgspec.Struct, frozen=True):
    ready: bool = False
    committed: bool = False
    step: str | None = None


@dataclass(slots=True)
class Player:
    """A driver in an event."""

    driver: str
    process: subprocess.Popen[str]
    steps: list[Step] = field(default_factory=list)
    _lines: queue.Queue[str | None] = field(default_factory=queue.Queue)

    @classmethod
    def start(cls, driver: str, command: list[str], environment: dict[str, str], log: Path) -> Player:
        """Start the program."""
        with log.open("a") as errors:
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        player = cls(driver, process)
        assert process.stdout is not None
        threading.Thread(target=player._read, args=(process.stdout,), daemon=True).start()
        return player

    def _read(self, output: IO[str]) -> None:
        for line in output:
            self._lines.put(line)
        self._lines.put(None)

    def wait(self, word: str | None) -> bool:
        """Take in what it says until it says *word*, or ends; return whether it did say it, or has ended for None."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            try:
                text = self._lines.get(timeout=max(deadline - time.monotonic(), 0.01))
            except queue.Empty:
                self.steps.append(Step(step="the program", error="nothing came", text=f"within {DEADLINE_S:g} s"))
                return False
            if text is None:
                return word is None
            line = msgspec.json.decode(text, type=_Line)
            if line.step is not None:
                self.steps.append(msgspec.json.decode(text, type=Step))
            elif word is not None and getattr(line, word):
                return True

    def tell(self) -> None:
        """Let it go on."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.write("go\n")
            self.process.stdin.flush()

    def end(self) -> None:
        """End it, if it has not ended."""
        self.process.kill()
        self.process.wait()
