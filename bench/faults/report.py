"""What came of all faults: as a table for people, JSON for tools, and one picture. No cluster, no clock."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from bench.faults.run import Result
from bench.timeline import picture
from testkit.checks.figures import figures

TOLD_MAX = 3


def table(results: Sequence[Result]) -> Table:
    """Return one row for each fault."""
    shown = Table(title="faults under clients that remember what they were told")
    for title in ("#", "fault", "outage p50", "p99", "max s", "epochs", "expected", "met", "checkers"):
        shown.add_column(title, justify="right" if title in ("#", "outage p50", "p99", "max s") else "left")
    for result in results:
        fault = result.fault
        if result.not_possible is not None:
            shown.add_row(
                str(fault.scenario),
                fault.name,
                "",
                "",
                "",
                "",
                str(fault.expect),
                f"not possible here: {result.not_possible}",
                "",
            )
            continue
        outages = [run.outage_s for run in result.runs]
        numbers = figures(outages) if outages else None
        cells = (f"{numbers.p50:.2f}", f"{numbers.p99:.2f}", f"{numbers.max:.2f}") if numbers else ("", "", "")
        epochs = ",".join(str(run.epochs) for run in result.runs)
        shown.add_row(str(fault.scenario), fault.name, *cells, epochs, str(fault.expect), _met(result), _verdict(result))
    return shown


def describe(result: Result) -> list[str]:
    """Return what there is to say of one fault, in lines."""
    lines: list[str] = []
    for number, run in enumerate(result.runs, start=1):
        recovered = f", {run.recovered_s:.2f} s after it was undone" if run.recovered_s is not None else ""
        moved = f"{run.victim} -> {run.successor}" if run.victim != run.successor else f"{run.victim} stays"
        lines.append(
            f"  {number}: {moved}, {run.outage_s:.2f} s without a commit{recovered}, {run.epochs} epochs, "
            f"healthy after {run.healthy_s:.1f} s"
        )
        lines += [f"     MISSED: {missed}" for missed in run.missed]
        lines += [f"     {note}" for note in run.notes]
    if result.broken is not None:
        lines.append(f"  BROKEN: {result.broken}")
    if result.not_possible is not None:
        return [f"  not possible here: {result.not_possible}"]
    told = ", ".join(f"{code} x {count}" for code, count in sorted(result.errors.items()))
    lines.append(f"  clients were told: {told or 'nothing'}")
    return [*lines, *(f"  {check}" for check in result.checks)]


def document(results: Sequence[Result], **about: object) -> str:
    """Return the report as JSON."""
    return json.dumps({"format_version": 1, **about, "faults": [_fault(result) for result in results]}, indent=2) + "\n"


def drawing(results: Sequence[Result], title: str) -> str:
    """Return the picture: of each fault the repetition with the longest outage."""
    panels = [max(result.runs, key=lambda run: run.outage_s).panel for result in results if result.runs]
    return picture(title, panels)


def _fault(result: Result) -> dict[str, Any]:
    outages = [run.outage_s for run in result.runs]
    numbers = figures(outages) if outages else None
    return {
        "name": result.fault.name,
        "scenario": result.fault.scenario,
        "does": result.fault.does,
        "expected": str(result.fault.expect),
        "not_possible": result.not_possible,
        "is_good": result.is_good,
        "outage_s": {"p50": numbers.p50, "p99": numbers.p99, "max": numbers.max} if numbers else None,
        "runs": [
            {
                "victim": run.victim,
                "successor": run.successor,
                "epochs": run.epochs,
                "outage_s": run.outage_s,
                "recovered_s": run.recovered_s,
                "healthy_s": run.healthy_s,
                "missed": run.missed,
                "notes": run.notes,
                "steps_s": {name: at - run.panel.zero for at, name in run.panel.marks},
            }
            for run in result.runs
        ],
        "broken": result.broken,
        "errors": result.errors,
        "checks": [
            {"checker": check.checker, "summary": check.summary, "violations": check.violations[:TOLD_MAX]}
            for check in result.checks
        ],
    }


def _met(result: Result) -> str:
    if result.broken is not None:
        return "BROKEN"
    missed = [run for run in result.runs if run.missed]
    return f"MISSED {len(missed)} of {len(result.runs)}" if missed else "yes"


def _verdict(result: Result) -> str:
    found = [check.checker for check in result.checks if not check.is_clean]
    return f"VIOLATED: {', '.join(found)}" if found else "clean"
