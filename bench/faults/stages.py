"""Clusters for faults: the ordinary local one, whose archive can be made to hang, and its special forms.

A stage that cannot be set up on this machine is a sentence that says why.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from bench.faults.fault import Stage
from bench.faults.sessions import HANG_FLAG
from deployment.cluster import PostgresSettings
from testkit.cluster import Cluster
from testkit.not_possible import NotPossible

HANG_S = 60


@contextlib.contextmanager
def opened(stage: Stage, folder: Path, *, pg_bin: str | None) -> Iterator[Cluster | str]:
    """Set up the cluster of *stage* below *folder* and take it down at the end."""
    with contextlib.ExitStack() as stack:
        try:
            cluster: Cluster | str = stack.enter_context(_stage(stage, folder / stage, pg_bin=pg_bin))
        except NotPossible as error:
            cluster = str(error)
        yield cluster


@contextlib.contextmanager
def _stage(stage: Stage, folder: Path, *, pg_bin: str | None) -> Iterator[Cluster]:
    folder.mkdir()
    folder.chmod(0o755)
    options = ("--pg-bin", pg_bin) if pg_bin is not None else ()
    match stage:
        case Stage.LOCAL:
            cluster = Cluster(folder / "c", options=options, postgres=_archiving(folder))
            try:
                cluster.up()
                yield cluster
            finally:
                cluster.remove()
        case Stage.DISKS:
            from bench.faults.disks import on_small_disk

            with on_small_disk(folder, options) as cluster:
                yield cluster
        case Stage.NETWORK:
            from testkit.spread import in_namespaces

            with in_namespaces(folder, pg_bin=pg_bin) as cluster:
                yield cluster


def _archiving(folder: Path) -> PostgresSettings:
    """Return preferences under which WAL is archived to nowhere, and not while the flag is there."""
    command = f"test ! -e '{folder / HANG_FLAG}' || sleep {HANG_S}"
    # Logical, so that users' logical slots can be among what is hurt.
    return PostgresSettings(settings={"archive_mode": "on", "archive_command": command, "wal_level": "logical"})
