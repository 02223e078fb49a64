"""A fuzzer guided by coverage: what reaches lines that nothing reached before is kept, and changed further. Pure but for time.

Only each TRACE_EVERY-th input is traced, because tracing costs more than what is traced.  An input is bytes; a target takes
them and raises whatever it takes for a fault.  The same seed tries the same inputs, as long as the code is the same.
"""

from __future__ import annotations

import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

TRACE_EVERY = 20
CORPUS_MAX = 2000
INPUT_BYTES_MAX = 4096
HANG_S = 2.0
"""Of the processor, for one input: they take microseconds."""

_ROOT = str(Path(__file__).parents[2])
_WATCHED = tuple(f"{_ROOT}/{package}/" for package in ("pgwire", "pgtopology", "endpointd", "daemonkit", "tests/fuzz"))
_INTERESTING = (0, 1, 4, 5, 8, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


class HangError(Exception):
    """An input takes too long."""


@dataclass(frozen=True, slots=True)
class Fault:
    """An input that a target did not bear."""

    data: bytes
    error: BaseException


@dataclass(slots=True)
class Outcome:
    """What came of a run."""

    inputs: int = 0
    kept: int = 0
    """Inputs that reached something new."""
    lines: int = 0
    """Reached at all."""
    took_s: float = 0.0
    fault: Fault | None = None


@dataclass
class Fuzzer:
    """One target's run. *seeds* are what it begins with, *tokens* what is put in now and then."""

    target: Callable[[bytes], None]
    seeds: Sequence[bytes]
    tokens: Sequence[bytes]
    seed: int
    _lines: set[tuple[str, int]] = field(default_factory=set[tuple[str, int]])

    def run(self, inputs: int) -> Outcome:
        """Try *inputs* of them, or as many as it takes to find a fault."""
        draw = random.Random(self.seed)
        corpus = list(self.seeds)
        outcome = Outcome()
        began = time.monotonic()
        for number in range(inputs):
            data = corpus[number] if number < len(self.seeds) else self._changed(draw, corpus)
            is_traced = number < len(self.seeds) or number % TRACE_EVERY == 0
            outcome.inputs += 1
            try:
                found = self._try(data, is_traced=is_traced)
            except Exception as error:
                outcome.fault = Fault(data, error)
                break
            if found:
                outcome.kept += 1
                corpus.append(data)
                if len(corpus) > CORPUS_MAX:
                    del corpus[draw.randrange(len(self.seeds), len(corpus))]
        outcome.lines = len(self._lines)
        outcome.took_s = time.monotonic() - began
        return outcome

    def _try(self, data: bytes, *, is_traced: bool) -> bool:
        """Give *data* to the target; return whether it reached something new. Raises what the target raises, and HangError."""
        signal.setitimer(signal.ITIMER_VIRTUAL, HANG_S)
        known = len(self._lines)
        try:
            if not is_traced:
                self.target(data)
                return False
            before = sys.gettrace()
            sys.settrace(self._trace)
            try:
                self.target(data)
            finally:
                sys.settrace(before)
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
        return len(self._lines) > known

    def _trace(self, frame: FrameType, event: str, _argument: Any) -> Any:
        file = frame.f_code.co_filename
        if not file.startswith(_WATCHED):
            return None
        if event == "line":
            self._lines.add((file, frame.f_lineno))
        return self._trace

    def _changed(self, draw: random.Random, corpus: Sequence[bytes]) -> bytes:
        data = bytearray(draw.choice(corpus))
        for _ in range(1 << draw.randrange(5)):
            _change(draw, data, corpus, self.tokens)
        return bytes(data[:INPUT_BYTES_MAX])


def _change(draw: random.Random, data: bytearray, corpus: Sequence[bytes], tokens: Sequence[bytes]) -> None:
    """Do one of the usual things to *data*."""
    at = draw.randrange(len(data) + 1)
    match draw.randrange(8):
        case 0 if data:
            data[min(at, len(data) - 1)] = draw.randrange(256)
        case 1 if data:
            data[min(at, len(data) - 1)] ^= 1 << draw.randrange(8)
        case 2:
            data[at:at] = draw.randbytes(draw.randrange(1, 9))
        case 3:
            del data[at : at + draw.randrange(1, 17)]
        case 4:
            size = draw.choice((1, 2, 4))
            value = draw.choice(_INTERESTING) & ((1 << 8 * size) - 1)
            data[at : at + size] = value.to_bytes(size, "big")
        case 5 if tokens:
            data[at:at] = draw.choice(tokens)
        case 6:
            other = draw.choice(corpus)
            begin = draw.randrange(len(other) + 1)
            data[at:at] = other[begin : begin + draw.randrange(1, 65)]
        case _:
            data[at:at] = data[at : at + draw.randrange(1, 33)]


def watch_for_hangs() -> None:
    """Have an input that takes too long raise HangError. Of the main thread only."""

    def hang(_number: int, _frame: FrameType | None) -> None:
        raise HangError(f"an input took more than {HANG_S:g} s of the processor")

    signal.signal(signal.SIGVTALRM, hang)
