"""A cluster for the things to be tried on: three nodes, a keeper inside, and a new one whenever a thing has broken it."""

from __future__ import annotations

import json
from pathlib import Path

from deployment.cluster import PostgresSettings
from testkit.cluster import Cluster
from tests.hostile.keeper import Keeper
from tests.hostile.tenant import Tenant

SETTINGS = {"max_prepared_transactions": "10", "wal_level": "logical"}
"""So that a tenant can do more."""


class Stand:
    """The cluster of this run."""

    nodes = ("n1", "n2", "n3")

    def __init__(self, folder: Path, *, pg_bin: str | None = None, major: int = 0) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._options = ("--pg-bin", pg_bin) if pg_bin is not None else ()
        self._made = 0
        self.major = major
        self.cluster = self._next()
        self.is_open = False

    def open(self) -> None:
        """Have a healthy cluster with a keeper in it, a new one if there is none."""
        if not self.is_open:
            self.cluster.up()
            self.cluster.wait_healthy()
            version = self.cluster.writer().server_version
            self.major = int(version.split(".")[0]) if version else self.major
            self.doors = {name: self.cluster.dsn(name) for name in ("writer", "reader", *self.nodes)}
            self.keeper = Keeper(self.cluster, self.doors["writer"], self.major)
            self.keeper.move_in()
            self.is_open = True

    def renew(self, logs: Path | None = None) -> None:
        """Give this cluster up, with its logs kept in *logs*; the next `open` makes another."""
        if logs is not None:
            self.cluster.keep_logs(logs)
        self.close()

    def close(self) -> None:
        """Remove the cluster."""
        self.cluster.remove()
        self.is_open = False
        self.cluster = self._next()

    def tenant(self) -> Tenant:
        """Return a tenant who has done nothing yet."""
        return Tenant(self.cluster, self.doors)

    def drill(self) -> tuple[bool, str]:
        """Return whether a failover would be possible, and what drill says of it. Raises OSError."""
        told = json.loads(self.cluster.get("/v1/drill"))
        words = [told["verdict"], *told["in_the_way"], *(word for node in told["nodes"] for word in node["obstacles"])]
        return bool(told["possible"]), "; ".join(words)

    def _next(self) -> Cluster:
        self._made += 1
        return Cluster(self._folder / f"c{self._made}", options=self._options, postgres=PostgresSettings(settings=SETTINGS))
