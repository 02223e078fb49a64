"""What all tests share: marks by folder, so that `-m "not integration"` is the fast half."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples in every run, so that a red run means a change; HYPOTHESIS_PROFILE=explore looks for new ones.
settings.register_profile("repeatable", derandomize=True)
settings.register_profile("explore", max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

_INTEGRATION = Path(__file__).parent / "integration"

TOLD = "told"
"""The property of a test's report under which it has lines to be shown at the end of the run."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the tests that start PostgreSQL be run on another one than the bundled."""
    parser.addoption("--pg-bin", metavar="DIR", help="PostgreSQL's programs for tests that start servers, as --pg-bin=DIR")


def pytest_configure(config: pytest.Config) -> None:
    """Tell everything that starts a server which one: the nodeds of tests/noded, and `endpointctl up`."""
    named = config.getoption("--pg-bin")
    if named is not None:
        if not (Path(named) / "postgres").exists():
            raise pytest.UsageError(f"--pg-bin: there is no {named}/postgres")
        os.environ["ENDPOINTD_TEST_PG_BIN"] = str(Path(named).absolute())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything below tests/integration, and run it after the fast tests."""
    for item in items:
        if _INTEGRATION in item.path.parents:
            item.add_marker(pytest.mark.integration)
    items.sort(key=lambda item: item.get_closest_marker("integration") is not None)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what was measured. It comes with the reports, so that it comes from other processes (``-n 2``) too."""
    passed: list[pytest.TestReport] = terminalreporter.stats.get("passed", [])
    lines = [str(line) for report in passed for name, line in report.user_properties if name == TOLD]
    if lines:
        terminalreporter.section("seconds until a node streamed again")
        for line in lines:
            terminalreporter.write_line(line)
