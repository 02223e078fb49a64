"""Keeps the durable state on disk, beside PGDATA.

One JSON file, replaced as a whole and fsynced before the new value can be seen: what `state` returns is always on disk.
A file that cannot be read is an error and never an empty state, because an empty one has promised nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from daemonkit.durable import read_or_none, write_durably
from noded.promise import STATE_FORMAT_VERSION, State
from pgtopology.node import NodeName


class StateError(Exception):
    """The state file is unreadable, or is another node's."""


class DurableState:
    """The state of one node: the value and its file."""

    def __init__(self, path: Path, *, cluster: str, node: NodeName) -> None:
        """Read the file, or begin with an empty state if there is none. Raises StateError."""
        self._path = path
        self._listeners: list[Callable[[], None]] = []
        data = read_or_none(path)
        self._state = State(cluster=cluster, node=node) if data is None else _decode(path, data)
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
        """Make *state* durable and return it. Raises OSError; the old state then still holds."""
        if state != self._state:
            write_durably(self._path, msgspec.json.encode(state))
            self._state = state
            for listener in self._listeners:
                listener()
        return state


def _decode(path: Path, data: bytes) -> State:
    try:
        state = msgspec.json.decode(data, type=State)
    except msgspec.DecodeError as error:
        raise StateError(f"{path} cannot be read: {error}") from error
    if state.format_version > STATE_FORMAT_VERSION:
        raise StateError(f"{path} was written by a newer version")
    return state
