"""All faults, in the order in which they are played, and which of them make the short form."""

from __future__ import annotations

from collections.abc import Sequence

from bench.faults import disks, local, network, tenants
from bench.faults.fault import Fault

FAULTS: tuple[Fault, ...] = (*local.FAULTS, *tenants.FAULTS, *disks.FAULTS, *network.FAULTS)
SHORT = ("kill-postgres", "freeze-node", "promoted-by-hand", "switchover")


def choose(names: Sequence[str]) -> tuple[Fault, ...]:
    """Return the faults called *names*, which may be numbers of scenarios; all without any. Raises ValueError."""
    known = {fault.name for fault in FAULTS} | {str(fault.scenario) for fault in FAULTS}
    for name in names:
        if name not in known:
            raise ValueError(f'there is no fault "{name}"; --list names them')
    return tuple(fault for fault in FAULTS if not names or fault.name in names or str(fault.scenario) in names)
