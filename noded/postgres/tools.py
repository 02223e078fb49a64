"""Runs PostgreSQL's own programs (initdb, pg_basebackup, pg_rewind …) to their end.

They run in a session of their own, so that ^C at a terminal reaches noded alone, and are killed when the caller is
cancelled.  What they print is kept up to a limit; lines can be watched for progress.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Sequence

OUTPUT_BYTES_MAX = 1 << 16
_OF_OUR_SUPERVISOR = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
"""Whoever supervises us is told of us, not of PostgreSQL."""
_CHUNK_BYTES = 1 << 12
_LOOK_S = 0.5
"""After so long without a word it is looked whether the program still runs."""


class ToolError(Exception):
    """A program failed; the text is the last of what it said."""

    def __init__(self, message: str, *, output: str = "") -> None:
        super().__init__(message)
        self.output = output
        """All that it said, within the limit; empty if it did not come to an end."""


async def run_tool(
    command: Sequence[str],
    *,
    timeout_s: float,
    stdin: bytes = b"",
    watch: Callable[[str], None] | None = None,
) -> str:
    """Run *command* and return what it printed. Raises ToolError, also when it takes longer than *timeout_s*."""
    # What it is run through has a path too, and is not what failed.
    paths = [word.rpartition("/")[2] for word in command if "/" in word and not word.startswith("-")]
    name = next((word for word in paths if word != "unshare"), command[0])
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environment(),
        start_new_session=True,
    )
    output = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            if stdin:
                await _feed(process, stdin)
            if not await _collect(process, output, watch):
                _kill_session(process)
            status = await process.wait()
    except TimeoutError as error:
        raise ToolError(f"{name} did not end within {timeout_s:.0f} s") from error
    finally:
        await _end(process)
    text = output.decode(errors="replace")
    if status != 0:
        raise ToolError(f"{name} failed: {last_words(text) or f'exit status {status}'}", output=text)
    return text


def environment() -> dict[str, str]:
    """Return the environment of PostgreSQL and its programs: ours, without what it would take for its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG") and name not in _OF_OUR_SUPERVISOR}
    return {**kept, "LC_ALL": "C"}


def last_words(text: str) -> str:
    """Return the last lines of *text* that say something, as one line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "; ".join(lines[-3:])


async def _feed(process: asyncio.subprocess.Process, stdin: bytes) -> None:
    assert process.stdin is not None
    # A program that ended at once says why in its output; a loop's own words for a closed pipe differ.
    with contextlib.suppress(ConnectionError, RuntimeError):
        process.stdin.write(stdin)
        await process.stdin.drain()
        process.stdin.close()


async def _collect(process: asyncio.subprocess.Process, output: bytearray, watch: Callable[[str], None] | None) -> bool:
    """Read what it prints to the end; False if it has ended itself, and somebody it left behind may print more."""
    assert process.stdout is not None
    while True:
        try:
            async with asyncio.timeout(_LOOK_S):
                chunk = await process.stdout.read(_CHUNK_BYTES)
        except TimeoutError:
            if process.returncode is not None:
                return False
            continue
        if not chunk:
            return True
        output += chunk
        del output[:-OUTPUT_BYTES_MAX]
        if watch is not None:
            watch(chunk.decode(errors="replace"))


async def _end(process: asyncio.subprocess.Process) -> None:
    """Leave nothing behind: the program's whole session goes, also when we were cancelled."""
    if process.returncode is None:
        _kill_session(process)
        await process.wait()


def _kill_session(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
