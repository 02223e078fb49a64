"""A pytest plugin that writes the outcome of each test down as it ends, so that a suite that hangs leaves what it had.

Runs in the suites' own environment: the standard library and pytest alone.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

WORST = ("passed", "xfailed", "xpassed", "skipped", "failed", "error")
"""Of several reports of one test (set-up, call, teardown, subtests) the one furthest right counts."""


class Recorder:
    """Writes a line of JSON for each report."""

    def __init__(self, file: Path) -> None:
        self._file = file.open("a", buffering=1)

    def _write(self, **line: object) -> None:
        self._file.write(json.dumps(line) + "\n")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        outcome: str = report.outcome
        if hasattr(report, "wasxfail"):
            outcome = "xfailed" if report.skipped else "xpassed"
        elif report.when != "call" and report.failed:
            outcome = "error"
        elif report.when != "call" and report.passed:
            return
        self._write(test=report.nodeid, outcome=outcome, why="" if outcome == "passed" else _last_line(report))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._write(test=report.nodeid, outcome="error", why=_last_line(report))

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        self._write(end=int(exitstatus))


def _last_line(report: pytest.TestReport | pytest.CollectReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash is not None else str(report.longrepr).strip().rpartition("\n")[2]
    return text[:300]


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Recorder(Path(os.environ["COMPAT_RECORD"])))
