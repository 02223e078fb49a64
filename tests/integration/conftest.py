"""The cluster the end-to-end tests run against, and what is kept of it when one of them fails.

Starting three PostgreSQL servers takes seconds, so the tests share a cluster.  Each test gets it healthy and must leave it
able to become healthy again; when a test fails, everything the cluster wrote is copied to test-logs/TEST, and the next test
gets a new cluster.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from deployment.local.preferences import Preferences
from testkit.cluster import ROOT, Cluster
from tests.conftest import TOLD

LOGS = ROOT / "test-logs"


def pg_options() -> tuple[str, ...]:
    """Return the options of `up` that name the PostgreSQL these tests run on; none means the bundled one."""
    named = os.environ.get("ENDPOINTD_TEST_PG_BIN")
    return ("--pg-bin", named) if named else ()


class Shared:
    """The cluster of this run, replaced when a test broke it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made = 0
        self._cluster: Cluster | None = None

    def get(self) -> Cluster:
        """Return the cluster, healthy."""
        if self._cluster is None:
            self._made += 1
            self._cluster = Cluster(self._folder / f"c{self._made}", options=pg_options())
            self._cluster.up()
        self._cluster.wait_healthy()
        return self._cluster

    def discard(self) -> None:
        """Remove the cluster."""
        if self._cluster is not None:
            cluster, self._cluster = self._cluster, None
            cluster.remove()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    holder = Shared(tmp_path_factory.mktemp("e"))
    yield holder
    holder.discard()


@pytest.fixture
def cluster(shared: Shared, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A healthy cluster of three nodes that other tests used before and will use after."""
    found = shared.get()
    request.node.stash[_clusters] = [found]
    yield found
    if request.node.stash.get(_failed, False):
        shared.discard()


@pytest.fixture
def make_cluster(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[type[Cluster]]:
    """Makes clusters for one test alone; they are removed after it."""
    made: list[Cluster] = []
    request.node.stash[_clusters] = made

    class Own(Cluster):
        def __init__(
            self,
            *,
            nodes: int = 3,
            options: tuple[str, ...] = (),
            may_flap: bool = True,
            preferences: Preferences | None = None,
            pg_bin: Path | None = None,
        ) -> None:
            on = ("--pg-bin", str(pg_bin)) if pg_bin is not None else pg_options()
            super().__init__(
                tmp_path_factory.mktemp("o") / "c",
                nodes=nodes,
                options=(*on, *options),
                may_flap=may_flap,
                preferences=preferences,
            )
            made.append(self)

    yield Own
    for one in made:
        one.remove()


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Have a line shown at the end of the run."""
    return lambda line: record_property(TOLD, line)


_clusters: pytest.StashKey[list[Cluster]] = pytest.StashKey()
_failed: pytest.StashKey[bool] = pytest.StashKey()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[_failed] = True
        for number, cluster in enumerate(item.stash.get(_clusters, [])):
            folder = LOGS / re.sub(r"[^\w.-]+", "_", f"{item.name}-{report.when}-{number}")
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                cluster.keep_logs(folder)
                report.sections.append(("cluster", f"its logs were kept in {folder}"))
    return report
