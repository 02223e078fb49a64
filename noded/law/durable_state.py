"""Keeps the durable state on disk, beside PGDATA.

One JSON file, replaced as a whole and fsynced before the new value can be seen: what `state` returns is always on disk, or was
before a change that was asked for and was not completed in time (disk.py).
A file that cannot be read is never taken for an empty state, because an empty one has promised nothing: the node is then
quarantined, its file left as it is, until an operator has it made anew.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from daemonkit.durable import fsync_dir, read_or_none
from noded.law.disk import Disk
from noded.law.promise import STATE_FORMAT_VERSION, State
from pgtopology.node import NodeName


class StateError(Exception):
    """The state file is another node's, or a newer version's."""


class DurableState:
    """The state of one node: the value and its file."""

    def __init__(self, path: Path, *, cluster: str, node: NodeName, disk: Disk | None = None) -> None:
        """Read the file, or begin with an empty state if there is none. Raises StateError."""
        self._path = path
        self.disk = disk if disk is not None else Disk()
        """Where everything small is written that belongs to the node."""
        self._listeners: list[Callable[[], None]] = []
        self.unreadable: str | None = None
        """Why the file cannot be read; `value` is then empty, and nothing is stored until `renew`."""
        self.problem: str | None = None
        """Why the last change could not be made durable, until one can."""
        self._state = State(cluster=cluster, node=node)
        try:
            data = read_or_none(path)
            self._state = self._state if data is None else _decode(path, data)
        except (OSError, msgspec.DecodeError, RecursionError) as error:
            self.unreadable = f"{path} cannot be read: {error}"
        if (self._state.cluster, self._state.node) != (cluster, node):
            raise StateError(
                f'{path} belongs to node "{self._state.node}" of cluster "{self._state.cluster}", '
                f'not to "{node}" of "{cluster}"'
            )

    @property
    def value(self) -> State:
        """The state as it is on disk."""
        return self._state

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call *listener* after every change."""
        self._listeners.append(listener)

    def store(self, state: State) -> State:
        """Make *state* durable and return it. Raises OSError; the old state then still holds here, and after a restart perhaps
        the new one, as if noded had ended before it could say that it was done."""
        if state != self._state:
            if self.unreadable is not None:
                raise OSError(self.unreadable)
            try:
                self.disk.write(self._path, msgspec.json.encode(state), key=state)
            except OSError as error:
                self.problem = f"the durable state cannot be written: {error.strerror or error}"
                raise
            self._state = state
            self.problem = None
            for listener in self._listeners:
                listener()
        return state

    def try_again(self) -> bool:
        """Find out whether the state can be written again after it could not; return whether that is so."""
        if self.problem is None:
            return False
        try:
            self.disk.write(self._path, msgspec.json.encode(self._state))
        except OSError:
            return False
        self.problem = None
        return True

    def renew(self) -> None:
        """Put an unreadable file aside, durably; from now on the empty state may grow. Raises OSError."""
        if self.unreadable is not None:
            if self._path.exists():
                self._path.replace(self._path.with_name(f"{self._path.name}.unreadable"))
                fsync_dir(self._path.parent)
            self.unreadable = None


def _decode(path: Path, data: bytes) -> State:
    state = msgspec.json.decode(data, type=State)
    if state.format_version > STATE_FORMAT_VERSION:
        raise StateError(f"{path} was written by a newer version")
    return state
