"""What befalls the writer's node, the same for every system, and how long clients cannot write then.

A node is its postmaster and its agent (noded or Patroni).  Both systems have an init that starts a killed agent again at
once; no init is touched.
"""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Callable
from enum import StrEnum
from random import Random

from bench.patroni.report import Measurement
from bench.patroni.sides import RefusedError, Side, Target, wait_for_writer
from testkit.ledger import Recorder
from testkit.processes import send, stop, top_down

RECOVERY_TIMEOUT_S = 180.0
"""How long clients wait to write again before the run counts as failed."""
CLIENTS = 4
SPREAD_S = 10.0
"""Over what time strikes are spread: Patroni's default round, as the time to its next one is most of some of its outages."""


class Fault(StrEnum):
    """The ways to lose a writer."""

    KILL = "kill"
    """SIGKILL to the postmaster."""
    KILL_AGENT = "kill-agent"
    """SIGKILL to the agent, then to the postmaster."""
    FREEZE_NODE = "freeze-node"
    """SIGSTOP to the agent and all of PostgreSQL, until another node writes: a machine that has gone."""
    SWITCHOVER = "switchover"
    """The planned handover, by the system's own command."""


def delays_s(repeats: int, randomness: Random) -> list[float]:
    """Return how long to wait before each strike of a fault: one moment in each of *repeats* equal parts of SPREAD_S."""
    return [SPREAD_S * (repeat + randomness.random()) / repeats for repeat in range(repeats)]


def measure(side: Side, fault: Fault, *, repeat: int, delay_s: float) -> Measurement:
    """Strike the writer of a healthy *side* under recording clients; return when it is healthy again.

    *delay_s* goes by before, because health shows itself at the end of a round of Patroni's: all strikes would come early in
    the next one.  Raises TimeoutError if it was or becomes not healthy.
    """
    side.wait_healthy()
    note, outage_s = "", None
    with Recorder(side.dsn, clients=CLIENTS) as recorder:
        recorder.wait_for_more(200, timeout_s=60.0)
        time.sleep(delay_s)
        before = wait_for_writer(side.dsn)
        target = side.target()
        at = time.monotonic()
        undo = _nothing
        try:
            undo = _strike(side, fault, target)
            wait_for_writer(side.dsn, other_than=before, timeout_s=RECOVERY_TIMEOUT_S)
            recorder.wait_for_more(50, timeout_s=60.0)
            outage_s = recorder.outage_s(at)
        except (TimeoutError, RefusedError) as error:
            note = str(error)
        finally:
            undo()
        # Under load still: a former writer that comes back must not acknowledge anything.
        side.wait_healthy()
    verdict = recorder.check(side.dsn)
    return Measurement(
        repeat=repeat,
        system=side.name,
        fault=fault,
        outage_s=outage_s,
        acknowledged=verdict.acknowledged,
        in_doubt=verdict.in_doubt,
        lost=len(verdict.lost),
        fabricated=len(verdict.fabricated),
        note=note,
    )


def _strike(side: Side, fault: Fault, target: Target) -> Callable[[], None]:
    """Strike, and return what undoes it. Raises RefusedError."""
    match fault:
        case Fault.KILL:
            send(target.postmaster, signal.SIGKILL)
        case Fault.KILL_AGENT:
            send(target.agent, signal.SIGKILL)
            send(target.postmaster, signal.SIGKILL)
        case Fault.FREEZE_NODE:
            # Whoever starts others goes first, so that none is missed.
            return stop(itertools.chain([target.agent], top_down(target.postmaster)))
        case Fault.SWITCHOVER:
            side.switchover()
    return _nothing


def _nothing() -> None:
    """Undo what needs no undoing."""
