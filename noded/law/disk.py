"""Small durable writes on a disk that may not answer.

What must be on disk before an order goes on is waited for on the loop, because nothing may come between; but a loop that stands
still cannot say that the disk does.  So a thread writes, the loop waits for a moment, and a write that takes longer has failed
for whoever asked.  It may still be done later: then it is as if noded had ended before it could answer, and whoever asks for
the same again finds it done.  Until it is over, every other write fails at once.
"""

from __future__ import annotations

import errno
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path

from daemonkit.durable import write_durably

PATIENCE_S = 0.4
"""Below the silence after which a node counts as gone, which is 0.6 s."""


class _Work:
    """One thing to do, and what became of it."""

    def __init__(self, do: Callable[[], None], key: object) -> None:
        self.do = do
        self.key = key
        self.began_at = time.monotonic()
        self.done = threading.Event()
        self.error: BaseException | None = None


class Disk:
    """The thread that writes, one thing after another."""

    def __init__(self, *, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._queue: queue.SimpleQueue[_Work] = queue.SimpleQueue()
        self._late: _Work | None = None
        """What was given up and is not known to be over, or was the last thing done."""
        self._thread: threading.Thread | None = None

    def write(self, path: Path, data: bytes, *, key: object = None) -> None:
        """Replace *path* with *data*, durably. Raises OSError; after ETIMEDOUT it may still come about."""
        self.run(lambda: write_durably(path, data), key=key)

    def run(self, do: Callable[[], None], *, key: object = None) -> None:
        """Do it, or raise OSError: its own, or ETIMEDOUT after a moment.

        Who asks for the same *key* again waits for the same work, or finds it done: for what nobody undoes in between.
        """
        work = self._again(key)
        if work is None:
            work = _Work(do, key)
            if self._thread is None:
                # A daemon, because a write that hangs must not keep the program from ending.
                self._thread = threading.Thread(target=self._live, name="disk", daemon=True)
                self._thread.start()
            self._queue.put(work)
        if not work.done.wait(self._patience_s):
            self._late = work
            raise self._is_slow(work)
        if work.error is not None:
            raise work.error

    def _again(self, key: object) -> _Work | None:
        """Return what was given up and is asked for again, if nothing was done since. Raises OSError if it is in the way."""
        late = self._late
        if late is None:
            return None
        if key is None or key != late.key:
            if not late.done.is_set():
                raise self._is_slow(late)
            late = None
        elif late.done.is_set() and late.error is not None:
            late = None
        self._late = None
        return late

    @staticmethod
    def _is_slow(work: _Work) -> OSError:
        waited_s = time.monotonic() - work.began_at
        return OSError(errno.ETIMEDOUT, f"the disk has not completed a write for {waited_s:.1f} s")

    def _live(self) -> None:
        while True:
            work = self._queue.get()
            try:
                work.do()
            except BaseException as error:
                work.error = error
            work.done.set()
