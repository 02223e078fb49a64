"""Notices programs whose event loop stands still: frozen, or caught in something that does not end.

Programs say that their loop turns by sd_notify(3), as they would to systemd; the kernel says who speaks.  Silence is counted in
the supervisor's own rounds, so that a machine that stood still, or a supervisor that did, is held against nobody; and no round
counts in which nobody listened.  Whether a program has spoken at all since its start is told apart: that one may be starting.
It ends nobody, and PostgreSQL never speaks to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

SPEAKS_BY = "WATCHDOG_USEC"
"""The environment variable by which a program is told to speak."""
ROUND_S = 1.0
WORDS_EVERY_S = 1.0
_WORDS_PER_PATIENCE = 5
"""sd_notify's habit, see daemonkit.lifecycle: so many words within the time that is asked for."""
_CREDENTIALS = struct.Struct("iII")
"""struct ucred: pid, uid, gid. Source: unix(7)."""
_MESSAGE_BYTES = 4096
_MESSAGES_MAX = 1000
"""In one turn of the loop."""


@dataclass(frozen=True, slots=True)
class Silence:
    """How long a program has said nothing."""

    rounds: int
    """In a row, since its last word or since it was first looked for."""
    has_spoken: bool
    """Whether it has said a word since its start."""


class Watchdog:
    """Listens on *path*."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        self._heard: set[int] = set()
        self._silent: dict[int, Silence] = {}
        self._awaited: dict[int, asyncio.Event] = {}

    @property
    def environment(self) -> Mapping[str, str]:
        """What programs are started with, so that they speak."""
        return {"NOTIFY_SOCKET": str(self._path), SPEAKS_BY: str(int(WORDS_EVERY_S * _WORDS_PER_PATIENCE * 1e6))}

    def listen(self) -> None:
        """Listen, anew if the socket's path is gone: /tmp is cleaned now and then. Raises OSError."""
        if self._socket is not None and self._path.exists():
            return
        self.close()
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            listener.bind(str(self._path))
        except OSError:
            listener.close()
            raise
        self._socket = listener
        asyncio.get_running_loop().add_reader(listener, self._hear)

    def close(self) -> None:
        """Listen no more."""
        listener, self._socket = self._socket, None
        if listener is not None:
            asyncio.get_running_loop().remove_reader(listener)
            listener.close()

    def end_round(self, pids: set[int]) -> dict[int, Silence]:
        """End a round: return for how long each of *pids* has not spoken. Others are forgotten."""
        heard, self._heard = self._heard, set()
        step = 1 if self._socket is not None else 0
        before, new = self._silent, Silence(-step, has_spoken=False)
        self._silent = {
            pid: Silence(0, has_spoken=True) if pid in heard else replace(was, rounds=was.rounds + step)
            for pid in pids
            for was in (before.get(pid, new),)
        }
        return dict(self._silent)

    async def wait_until_ready(self, pid: int) -> None:
        """Wait until *pid* says that it serves (READY=1); call it before that can be."""
        ready = self._awaited[pid] = asyncio.Event()
        try:
            await ready.wait()
        finally:
            del self._awaited[pid]

    def _hear(self) -> None:
        listener = self._socket
        if listener is None:
            return
        with contextlib.suppress(BlockingIOError):
            for _ in range(_MESSAGES_MAX):
                text, ancillary, _, _ = listener.recvmsg(_MESSAGE_BYTES, socket.CMSG_SPACE(_CREDENTIALS.size))
                words = text.splitlines()
                for level, kind, data in ancillary:
                    if (level, kind) != (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                        continue
                    pid, uid, _ = _CREDENTIALS.unpack(data)
                    if uid not in (os.getuid(), 0):
                        continue
                    if b"WATCHDOG=1" in words:
                        self._heard.add(pid)
                    if b"READY=1" in words and pid in self._awaited:
                        self._awaited[pid].set()
