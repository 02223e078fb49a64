"""Which programs of a local cluster are down, and why: the supervisor knows, and no manager could.

The manager tells what it hears of; a program that never starts tells nobody anything.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from daemonkit.exits import Failure
from daemonkit.linesocket import PeerGone, PeerSilent, ask
from deployment.local.layout import Layout
from pgtopology.supervision import Answer, Order, ProgramReport, ProgramState

ASK_TIMEOUT_S = 1.0

_WORDS = {
    ProgramState.FAILED: "is down: it refuses its settings, and is tried again now and then",
    ProgramState.PAUSING: "is down: it ended, and is started again",
    ProgramState.STOPPED: "is down: it was stopped by an order",
}


@dataclass(frozen=True, slots=True)
class Standing:
    """What the supervisor says."""

    programs: tuple[ProgramReport, ...] | None
    """None if it says nothing."""
    trouble: tuple[str, ...]
    """One line for each program that is down, or about the supervisor."""


async def ask_standing(layout: Layout) -> Standing:
    """Return how the programs of the cluster in *layout* are."""
    try:
        answer = await ask(layout.control_socket, Order(do="list"), Answer, timeout_s=ASK_TIMEOUT_S)
    except PeerSilent:
        return Standing(None, ("the supervisor does not answer: nothing that ends is started again",))
    except (PeerGone, Failure):
        return Standing(None, ("there is no supervisor: nothing that ends is started again (`endpointctl up` starts one)",))
    return Standing(answer.programs, tuple(line for line in map(_trouble, answer.programs) if line is not None))


def trouble_in(standing: Standing | None) -> tuple[str, ...]:
    """Return one line for each thing that is wrong."""
    return standing.trouble if standing is not None else ()


def with_programs(status: bytes, standing: Standing | None) -> bytes:
    """Return the JSON of *status* with what the supervisor says under `programs`, if the cluster is a local one."""
    if standing is None:
        return status
    document = msgspec.json.decode(status, type=dict[str, object])
    return msgspec.json.encode(document | {"programs": standing.programs})


def _trouble(program: ProgramReport) -> str | None:
    words = _WORDS.get(program.state)
    if words is None:
        return None
    return f"{program.name} {words}{': ' + program.reason if program.reason else ''}"
