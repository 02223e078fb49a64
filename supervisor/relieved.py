"""Processes that another one has relieved: they end by themselves when their sessions have, and are not started again."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping

from daemonkit.logs import get_logger
from daemonkit.processes import PinnedProcess, find_all_by_command, pin
from daemonkit.proctitle import DRAINING, called
from deployment.local.layout import Layout
from supervisor.commands import program_command
from supervisor.patience import PATIENCE_ROUNDS
from supervisor.watchdog import Silence


def find_draining(layout: Layout, name: str) -> list[PinnedProcess]:
    """Return the processes of the proxy called *name* that were relieved, pinned: they call themselves so."""
    found = find_all_by_command(name, called(DRAINING, program_command(layout, name)))
    return [process for record in found if (process := pin(record)) is not None]


class Relieved:
    """Those of one program."""

    def __init__(self, name: str) -> None:
        self._processes: dict[int, PinnedProcess] = {}
        self._log = get_logger(name=name)

    @property
    def pids(self) -> tuple[int, ...]:
        """Of those that live."""
        return tuple(self._processes)

    def take(self, process: PinnedProcess) -> None:
        """Look after *process* from now on; it is closed here."""
        pid = process.record.pid
        if pid in self._processes:
            process.close()
            return
        self._processes[pid] = process
        asyncio.get_running_loop().add_reader(process.fileno(), self._ended, pid)

    def reload(self) -> None:
        """Have them read their settings anew."""
        for process in self._processes.values():
            process.send(signal.SIGHUP)

    def note_silences(self, silences: Mapping[int, Silence]) -> None:
        """End those whose loop stands still: their sessions hang, and would for ever."""
        for pid, process in self._processes.items():
            silence = silences.get(pid)
            if silence is not None and silence.has_spoken and silence.rounds >= PATIENCE_ROUNDS:
                self._log.error("the loop of a process that drains stands still, and it is ended", pid=pid)
                process.send(signal.SIGKILL)

    def _ended(self, pid: int) -> None:
        process = self._processes.pop(pid)
        asyncio.get_running_loop().remove_reader(process.fileno())
        process.close()
        self._log.info("a relieved process has ended", pid=pid)
