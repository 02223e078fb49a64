"""What all tests share: marks by folder (`-m "not integration"` is the fast half), and no way to a cluster that runs here."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from testkit.leftovers import ended_with_us
from tests.versions import VersionError, programs

# The same examples in every run, so that a red run means a change; HYPOTHESIS_PROFILE=explore looks for new ones.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("explore", max_examples=2000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

_INTEGRATION = Path(__file__).parent / "integration"

TOLD = "told"
"""The property of a test's report under which it has lines to be shown at the end of the run."""


_DEFAULT_PORTS = range(6400, 6500)
"""What a developer's own cluster listens on; no test may know whether there is one."""
_LOOPBACK = ("127.", "::1", "localhost", "::ffff:127.")
_reached: list[str] = []


def _note_default_ports(event: str, arguments: tuple[object, ...]) -> None:
    """Refuse a connection of this process to a port of a cluster that may run here, and note it for the test's end."""
    if event != "socket.connect" or not isinstance(arguments[1], tuple) or len(arguments[1]) < 2:
        return
    host, port = arguments[1][:2]
    if port in _DEFAULT_PORTS and str(host).startswith(_LOOPBACK):
        _reached.append(f"{host}:{port}")
        raise ConnectionRefusedError(f"tests do not reach {host}:{port}")


sys.addaudithook(_note_default_ports)


@pytest.fixture(autouse=True)
def _reaches_no_running_cluster() -> Iterator[None]:  # pyright: ignore[reportUnusedFunction]
    """Fail whoever looked for a cluster on the default ports: with one there the outcome would be another."""
    _reached.clear()
    yield
    assert not _reached, f"a cluster of somebody's may listen there: {', '.join(_reached)}"


@pytest.fixture(scope="session", autouse=True)
def _leaves_nothing_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:  # pyright: ignore[reportUnusedFunction]
    """End what was started here, also when this process is killed."""
    with ended_with_us(tmp_path_factory.getbasetemp()):
        yield


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the tests that start PostgreSQL be run on another one than the bundled."""
    parser.addoption("--pg-bin", metavar="DIR", help="PostgreSQL's programs for tests that start servers, as --pg-bin=DIR")
    parser.addoption("--pg-version", type=int, metavar="N", help="the same, of a pinned build of this major version")


def pytest_configure(config: pytest.Config) -> None:
    """Tell everything that starts a server which one: the nodeds of tests/noded, and `endpointctl up`."""
    for name in [name for name in os.environ if name.startswith(("ENDPOINTD_API", "ENDPOINTD_TOKEN"))]:
        del os.environ[name]
    # Not the directory of a cluster that its user works with; who wants one names it.
    os.environ["ENDPOINTD_DATA_DIR"] = "/nonexistent/endpointd-tests-name-their-cluster"
    named, version = config.getoption("--pg-bin"), config.getoption("--pg-version")
    if named is not None and version is not None:
        raise pytest.UsageError("--pg-bin and --pg-version: only one of them can be used")
    if version is not None:
        try:
            named = str(programs(version))
        except VersionError as error:
            raise pytest.UsageError(f"--pg-version: {error}") from error
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
