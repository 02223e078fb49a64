"""Does one thing to a healthy cluster under recording clients, ends its writer, undoes the thing, and judges.

A trial is one thing and one way in which the writer ends.  It leaves the cluster healthy, or says that it is to be thrown
away.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import time
from dataclasses import dataclass, field
from enum import StrEnum

import psycopg

from testkit.ledger import Recorder
from tests.hostile.keeper import Standing
from tests.hostile.lookout import Lookout, Seen, lies
from tests.hostile.stand import Stand
from tests.hostile.tenant import Refused, Tenant
from tests.hostile.thing import Ends, Manner, Thing

BOUND_S = 5.0
"""In which there must be a writer again."""
PATIENCE_S = 10.0
"""How much longer is waited, to say how long it was."""
HEAL_S = 60.0
UNDO_S = 10.0
CLIENTS = 3
SOME = 15
"""Acknowledged writes that show that it goes on."""


class Blow(StrEnum):
    """How the writer ends."""

    KILL = "kill"
    """SIGKILL to its postmaster."""
    SWITCHOVER = "switchover"


class Verdict(StrEnum):
    """What came of it."""

    WELL = "well"
    REFUSED = "refused"
    TOLD = "told"
    """No writer within the bound; status had said so."""
    FAILED = "FAILED"


@dataclass(slots=True)
class Trial:
    """What came of one thing and one blow."""

    thing: Thing
    blow: Blow
    verdict: Verdict = Verdict.WELL
    before: str = ""
    """What status said before the blow."""
    outage_s: float | None = None
    """The longest time without an acknowledgement from the blow on; None if there was no end to it, or no blow."""
    alone_s: float = 0.0
    """The same before the blow, by the thing alone."""
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    is_broken: bool = False
    """The cluster did not become healthy again."""
    took_s: float = 0.0


def play(stand: Stand, thing: Thing, blow: Blow, *, bound_s: float = BOUND_S) -> Trial:
    """Return what comes of *thing* and *blow* on *stand*."""
    begun = time.monotonic()
    trial = Trial(thing, blow)
    stand.open()
    cluster = stand.cluster
    status = cluster.wait_healthy(timeout_s=HEAL_S)
    assert status.writer is not None
    dsn = stand.keeper.dsn
    recorder = Recorder(dsn, clients=CLIENTS)
    with Lookout(cluster) as lookout:
        try:
            with contextlib.ExitStack() as stack:
                stack.enter_context(recorder)
                nodes = {name: stand.doors[name] for name in stand.nodes}
                standing = stack.enter_context(stand.keeper.standing(nodes)) if thing.by_standing else None
                tenant = stack.enter_context(stand.tenant())
                recorder.wait_for_more(SOME, timeout_s=30.0)
                try:
                    did_at = time.monotonic()
                    tenant.do(thing.deeds, status.writer)
                except Refused as refused:
                    trial.verdict = Verdict.REFUSED
                    trial.notes.append(str(refused))
                else:
                    _strike(stand, trial, tenant, recorder, lookout, did_at, bound_s)
                _undo(stand, trial, tenant, standing)
                if not trial.is_broken:
                    _heal(stand, trial, recorder)
        except TimeoutError as error:
            trial.problems.append(f"{error}")
            trial.is_broken = True
    acknowledged = [*recorder.diary.times("set"), time.monotonic()]
    if not thing.locks_out:
        trial.problems += lies(lookout.seen, acknowledged)
    try:
        _audit(stand, trial, recorder)
    except (psycopg.Error, OSError, TimeoutError) as error:
        trial.problems.append(f"the checker could not look: {type(error).__name__}: {error}")
        trial.is_broken = True
    if thing.ends is Ends.REFUSED and trial.verdict is not Verdict.REFUSED:
        trial.problems.append("it was not refused")
    if trial.problems or trial.is_broken:
        trial.verdict = Verdict.FAILED
    trial.took_s = time.monotonic() - begun
    return trial


def _strike(
    stand: Stand, trial: Trial, tenant: Tenant, recorder: Recorder, lookout: Lookout, did_at: float, bound_s: float
) -> None:
    """Let the thing work, look at what is told, end the writer and wait for another."""
    cluster, thing = stand.cluster, trial.thing
    time.sleep(thing.settle_s)
    try:
        possible, drilled = stand.drill()
    except OSError as error:
        possible, drilled = False, f"drill: {error}"
    seen = lookout.between(did_at, time.monotonic())
    told = _told(seen, possible, drilled)
    trial.before = told or (seen[-1].state if seen else "not seen")
    if thing.spared:
        trial.verdict = Verdict.TOLD
        if told is None or not _names(thing, told):
            trial.problems.append(f'status did not say what would come of it: "{told}"')
        return
    status = cluster.wait(lambda status: status.writer is not None, "with a writer", timeout_s=bound_s + PATIENCE_S)
    assert status.writer is not None
    struck_at = time.monotonic()
    trial.alone_s = _pause_s(recorder, did_at, struck_at)
    if trial.blow is Blow.KILL:
        pid = cluster.node(status.writer, status).pid
        assert pid is not None
        cluster.kill_pid(pid)
        moved = True
    else:
        done = cluster.ctl("switchover", "--timeout", "30", check=False)
        moved = done.returncode == 0
        if not moved:
            trial.notes.append(f"switchover ended with {done.returncode}: {(done.stderr or done.stdout).strip()}")
    try:
        if moved:
            cluster.wait(
                lambda now: now.epoch > status.epoch and now.writer is not None,
                f"in another epoch with a writer after a {trial.blow}",
                timeout_s=bound_s + PATIENCE_S,
            )
            published_s = time.monotonic() - struck_at
        else:
            published_s = 0.0
        if thing.locks_out:
            trial.outage_s = published_s
        else:
            recorder.wait_for_more(SOME, timeout_s=bound_s + PATIENCE_S)
            trial.outage_s = recorder.outage_s(struck_at)
    except TimeoutError as error:
        trial.notes.append(str(error))
    if not moved and not thing.locks_out and told is None and not (thing.tells and _names(thing, trial.notes[-1])):
        trial.problems.append("the handover was refused, though status said that all is well")
    if trial.outage_s is None or trial.outage_s > bound_s:
        words = "none" if trial.outage_s is None else f"{trial.outage_s:.1f} s"
        if thing.ends is Ends.TOLD and told is not None:
            trial.verdict = Verdict.TOLD
        elif told is None:
            trial.problems.append(f"a writer after {words}, though status said that a failover was possible")
        else:
            trial.problems.append(f"a writer after {words}")
    if trial.alone_s > bound_s and not thing.locks_out:
        trial.problems.append(f"{trial.alone_s:.1f} s without a commit before anything was killed")
    if told is not None and thing.tells and not _names(thing, told):
        trial.problems.append(f'what was told does not name it: "{told}"')
    trial.notes += tenant.heard[:2]


def _names(thing: Thing, words: str) -> bool:
    """Return whether *words* name the thing."""
    return re.search(thing.tells, words, re.IGNORECASE) is not None


def _told(seen: list[Seen], possible: bool, drilled: str) -> str | None:
    """Return how status or drill said that a failover would fail, or None."""
    risk = next((look.at_risk for look in reversed(seen) if look.at_risk is not None), None)
    if risk is not None:
        return f"at risk: {risk}"
    stuck = next((look for look in reversed(seen) if look.state == "stuck"), None)
    if stuck is not None:
        return f"stuck: {stuck.words}"
    if not possible:
        return f"drill: {drilled}"
    return None


def _pause_s(recorder: Recorder, begin: float, end: float) -> float:
    times = [at for at in recorder.diary.times("set") if begin <= at <= end]
    edges = [begin, *times, end]
    return max(later - earlier for earlier, later in itertools.pairwise(edges))


def _undo(stand: Stand, trial: Trial, tenant: Tenant, standing: Standing | None) -> None:
    """Let the tenant go, and have the keeper undo what was done."""
    tenant.leave()
    deadline = time.monotonic() + UNDO_S
    for deed in trial.thing.undo:
        while True:
            try:
                if deed.manner is Manner.COMMAND:
                    stand.cluster.ctl(*(str(part) for part in deed.statements))
                elif standing is not None:
                    standing.run(str(stand.cluster.status().writer), deed.statements)
                elif deed.at == "nodes":
                    for name in stand.nodes:
                        stand.keeper.run(deed.statements, database=deed.database, door=stand.doors[name])
                else:
                    stand.keeper.run(deed.statements, database=deed.database)
                break
            except (psycopg.Error, AssertionError, OSError, KeyError) as error:
                if trial.verdict is Verdict.REFUSED:
                    # What was not done cannot be undone; what was done before the refusal can.
                    break
                if time.monotonic() > deadline:
                    trial.problems.append(f"it could not be undone: {type(error).__name__}: {error}")
                    trial.is_broken = True
                    return
                time.sleep(0.2)


def _heal(stand: Stand, trial: Trial, recorder: Recorder) -> None:
    try:
        stand.cluster.wait_healthy(timeout_s=HEAL_S)
        recorder.wait_for_more(SOME, timeout_s=30.0)
    except TimeoutError as error:
        trial.problems.append(f"after the undoing: {error}")
        trial.is_broken = True


def _audit(stand: Stand, trial: Trial, recorder: Recorder) -> None:
    """Compare what clients were told with what is there, and look whether dead rows can be removed."""
    verdict = recorder.check(stand.keeper.dsn)
    if not verdict.is_clean:
        trial.problems.append(str(verdict))
        trial.is_broken = True
    if not trial.is_broken:
        left = stand.keeper.sweep()
        if left is not None:
            trial.problems.append(left)
            trial.is_broken = True
