"""Plays one fault, as often as wanted, on a healthy cluster under all clients, and says what came of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.faults.fault import Arena, Fault, Missed
from bench.timeline import Panel
from bench.watch import Watcher, steps
from testkit.checks.figures import longest_pause
from testkit.checks.outcomes import Checked
from testkit.clients.appends import Appends
from testkit.clients.bank import Bank
from testkit.clients.crew import Crew
from testkit.clients.readers import Readers, Ticks
from testkit.cluster import Cluster
from testkit.ledger import Inserts
from testkit.not_possible import NotPossible

WARM_UP = 50
"""Acknowledged writes before a fault and after it."""
HEALTHY_BEFORE_S = 120.0
SHOWN_BEFORE_S = 1.0
SHOWN_AFTER_S = 1.5
SHOWN_MAX_S = 25.0
SHOWN_MIN_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One repetition."""

    victim: str
    successor: str
    epochs: int
    outage_s: float
    """The longest time without an acknowledged write."""
    recovered_s: float | None
    """From the undoing to the first acknowledged write; None where writes had not stopped."""
    healthy_s: float
    missed: tuple[str, ...]
    notes: tuple[str, ...]
    panel: Panel


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of a fault."""

    fault: Fault
    runs: tuple[Run, ...] = ()
    checks: tuple[Checked, ...] = ()
    errors: dict[str, int] = field(default_factory=dict)
    """How often clients were told which SQLSTATE."""
    not_possible: str | None = None
    broken: str | None = None
    """Why the fault could not be played to its end."""

    @property
    def is_good(self) -> bool:
        """Whether all was as expected and no checker found anything; a fault that is not possible here is neither."""
        kept = all(not run.missed for run in self.runs) and self.broken is None
        return kept and all(check.is_clean for check in self.checks)


def make_crew(cluster: Cluster, *, seed: int, clients: int = 4) -> Crew:
    """Return clients of every kind, through the endpoints."""
    writer, reader = cluster.dsn("writer"), cluster.dsn("reader")
    bank, ticks = Bank(writer, seed=seed), Ticks(writer)
    return Crew(
        (
            Inserts(writer, clients=clients),
            Appends(writer, seed=seed),
            bank,
            ticks,
            Readers(reader, ticks, bank.memory),
        )
    )


def play(cluster: Cluster, fault: Fault, *, repeat: int, seed: int) -> Result:
    """Inflict *fault* on *cluster* *repeat* times and return what came of it."""
    runs: list[Run] = []
    extra: list[Checked] = []
    not_possible = broken = None
    cluster.wait_healthy(timeout_s=HEALTHY_BEFORE_S)
    crew = make_crew(cluster, seed=seed)
    with crew:
        for repetition in range(repeat):
            try:
                run, checks = _once(cluster, crew, fault, repetition)
            except NotPossible as error:
                not_possible = str(error)
                break
            except (TimeoutError, OSError, AssertionError) as error:
                broken = f"{type(error).__name__}: {error}"
                break
            runs.append(run)
            extra += checks
    checks = [*crew.check_all(cluster.dsn("writer")), *extra]
    errors: dict[str, int] = {}
    for trouble in crew.diary.troubles:
        code = trouble.sqlstate or f"no SQLSTATE ({trouble.text.partition(':')[0]})"
        errors[code] = errors.get(code, 0) + 1
    return Result(fault=fault, runs=tuple(runs), checks=tuple(checks), errors=errors, not_possible=not_possible, broken=broken)


def _once(cluster: Cluster, crew: Crew, fault: Fault, repetition: int) -> tuple[Run, Sequence[Checked]]:
    before = cluster.wait_healthy(timeout_s=HEALTHY_BEFORE_S)
    arena = Arena(cluster=cluster, crew=crew, before=before, repetition=repetition)
    missed: list[str] = []
    with Watcher(cluster, [node.name for node in before.nodes]) as watcher:
        crew.wait_for_more(WARM_UP, timeout_s=60.0)
        _wait_s(SHOWN_BEFORE_S)
        try:
            with fault.strike(arena):
                # A fault may have had to move the writer first.
                before = arena.before
                if fault.expect.moves:
                    cluster.wait_for_epoch_after(before.epoch, timeout_s=60.0)
                if fault.expect.recovered_s is None:
                    crew.wait_for_more(WARM_UP, timeout_s=60.0)
                arena.undoes()
        except Missed as error:
            missed.append(str(error))
        before = arena.before
        undone_at = arena.undone_at or time.monotonic()
        crew.wait_for_more(WARM_UP, timeout_s=60.0)
        resumed_at = time.monotonic()
        after = cluster.wait_healthy(timeout_s=HEALTHY_BEFORE_S)
        healthy_s = time.monotonic() - undone_at
        _wait_s(max(0.0, SHOWN_AFTER_S - (time.monotonic() - resumed_at)))
    times = crew.diary.times(crew.workloads[0].name)
    outage = longest_pause(times, arena.struck_at)
    outage_s = outage[1] - outage[0]
    first_after = next((at for at in times if at > undone_at), time.monotonic())
    last_before = max((at for at in times if at <= undone_at), default=0.0)
    recovered_s = first_after - undone_at if undone_at - last_before > 0.5 else None
    epochs = after.epoch - before.epoch
    missed += judge(fault, epochs=epochs, outage_s=outage_s, recovered_s=recovered_s, healthy_s=healthy_s)
    shown_until = max(arena.struck_at + SHOWN_MIN_S, outage[1] + SHOWN_AFTER_S, undone_at + SHOWN_AFTER_S)
    shown_until = min(shown_until, arena.struck_at + SHOWN_MAX_S)
    begin = arena.struck_at - SHOWN_BEFORE_S
    marks = [(arena.struck_at, "fault"), *steps(cluster, after_epoch=before.epoch)]
    if undone_at - arena.struck_at > 0.05:
        marks.append((undone_at, "undone"))
    panel = Panel(
        title=f"{fault.name}: {fault.does}",
        note=f"{outage_s:.2f} s without a commit, {epochs} epoch{'' if epochs == 1 else 's'}",
        is_good=not missed,
        zero=arena.struck_at,
        begin=begin,
        end=shown_until,
        lanes=watcher.lanes,
        acknowledged=[at for at in times if begin <= at <= shown_until],
        errors=[trouble.at for trouble in crew.diary.troubles if begin <= trouble.at <= shown_until],
        outage=outage,
        marks=marks,
    )
    run = Run(
        victim=before.writer or "",
        successor=after.writer or "",
        epochs=epochs,
        outage_s=outage_s,
        recovered_s=recovered_s,
        healthy_s=healthy_s,
        missed=tuple(missed),
        notes=tuple(arena.notes),
        panel=panel,
    )
    return run, arena.checks


def judge(fault: Fault, *, epochs: int, outage_s: float, recovered_s: float | None, healthy_s: float) -> list[str]:
    """Return what was expected of *fault* and did not come."""
    expect = fault.expect
    missed: list[str] = []
    least, most = expect.epochs
    if not least <= epochs <= most:
        missed.append(f"{epochs} epochs were used, expected {least}" + (f" to {most}" if most > least else ""))
    if expect.outage_s is not None and outage_s > expect.outage_s:
        missed.append(f"{outage_s:.2f} s without a commit, expected at most {expect.outage_s:g} s")
    if expect.recovered_s is not None and recovered_s is not None and recovered_s > expect.recovered_s:
        missed.append(f"{recovered_s:.2f} s from the undoing to the first commit, expected at most {expect.recovered_s:g} s")
    if healthy_s > expect.healthy_s:
        missed.append(f"healthy after {healthy_s:.1f} s, expected within {expect.healthy_s:g} s")
    return missed


def _wait_s(seconds: float) -> None:
    """Let the clients go on; the picture shows what was before and after."""
    time.sleep(seconds)
