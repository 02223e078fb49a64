"""A proxy of ours in front of a cluster, beside the cluster's own, to be measured."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
from msgspec.structs import replace

from daemonkit.logs import LogSettings
from daemonkit.toml import to_toml
from endpointd.settings import Settings, read_settings
from testkit.cluster import Cluster
from testkit.ports import free_port

START_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Running:
    """Where it serves."""

    port: int
    pid: int


@contextlib.contextmanager
def running_proxy(
    cluster: Cluster,
    folder: Path,
    tree: Path,
    *,
    rules: tuple[str, ...] = (),
    change: Callable[[Settings], Settings] = lambda settings: settings,
) -> Iterator[Running]:
    """Run *tree*'s proxy with the settings of the cluster's own, on other ports, and with what else is to *change*."""
    folder.mkdir()
    settings = read_settings(cluster.data_dir / "settings" / "endpointd.toml")
    port = free_port()
    changed = change(
        replace(
            settings,
            proxy=replace(settings.proxy, name=folder.name, cache=folder / "topology.json", takeover=None),
            writer=replace(settings.writer, port=port, rules=rules),
            reader=replace(settings.reader, port=free_port()),
            http=replace(settings.http, port=free_port()),
            instances=(),
            logs=LogSettings(level="warning"),
        )
    )
    (folder / "endpointd.toml").write_text(to_toml(changed))
    command = [sys.executable, "-m", "endpointd.daemon", "--config", str(folder / "endpointd.toml")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=tree, stdout=log, stderr=log)
    try:
        _wait_for_answer(cluster, port, folder / "log")
        yield Running(port, process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30.0)


def _wait_for_answer(cluster: Cluster, port: int, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            psycopg.connect(cluster.dsn("writer"), port=port, connect_timeout=5).close()
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise RuntimeError(f"no answer from a proxy:\n{log.read_text()}") from None
            time.sleep(0.1)
        else:
            return
