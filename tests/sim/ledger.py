"""The durable state of a simulated noded, kept on its host's disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from noded.law.promise import State
from tests.sim.switches import Switch

if TYPE_CHECKING:
    from tests.sim.noded import Noded


class Ledger:
    """The durable state of one noded, and what a broken one makes of it."""

    def __init__(self, noded: Noded) -> None:
        self._noded = noded
        self._host = noded.host
        self.value = noded.host.disk

    @property
    def unreadable(self) -> str | None:
        """Why the file cannot be read; `value` is then empty."""
        return self._host.unreadable

    def renew(self) -> None:
        """Put a file that cannot be read aside."""
        self._host.world.counts["quarantine lifted"] += 1
        self._host.unreadable = None

    def store(self, state: State) -> None:
        """Make *state* durable, and go by it."""
        before, host, broken = self.value, self._host, self._host.broken
        if state == before:
            return
        if broken is Switch.WIPED_COUNTS and state.incarnation is not None:
            state = replace(state, whole=before.whole or state.whole, incarnation=before.incarnation or state.incarnation)
        if broken is Switch.FOREIGN_FOLLOWS and state.foreign:
            return
        self.value = state
        if broken is Switch.PROMISE_NOT_DURABLE and state.promised > host.disk.promised:
            late = host.disk
            host.disk = replace(state, promised=late.promised, seen=late.seen, following=late.following)
            host.world.after(3000.0, self._noded, self._make_durable)
        else:
            host.disk = state
        if (state.promised, state.seen) != (before.promised, before.seen):
            host.checks.state_changed(host.name, state.promised, (state.seen.epoch, state.seen.revision))
        if state.whole and not before.whole:
            host.checks.data_lost(host)

    def _make_durable(self) -> None:
        self._host.disk = self.value
