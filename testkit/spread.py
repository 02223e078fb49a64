"""A cluster whose programs are on hosts of their own, which are network namespaces.

It is described as a local cluster is, with other addresses.  There is no supervisor: nothing is killed here.
Two proxies: "near" is with the clients, "far" in the zone of the node that is cut off.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from daemonkit.principals import Scope
from daemonkit.toml import to_toml
from deployment.local.directory import make_files, make_root, write_settings
from deployment.local.layout import Layout
from deployment.local.plan import DATABASE, USER, make_plan
from deployment.local.preferences import Preferences
from deployment.local.settings_files import describe
from deployment.render import Machine, manager_settings, noded_settings, proxy_settings
from noded.postgres.binaries import find_binaries
from pgtopology.node import Address
from testkit.cluster import MAY_FLAP, ROOT, Cluster
from testkit.namespaces import Hosts

NODES = ("n1", "n2", "n3")
MANAGER, NEAR, FAR, CLIENTS = "manager", "near", "far", "clients"
BASE_PORT = 6400
UP_S = 90.0
STOP_S = 40.0


class SpreadCluster(Cluster):
    """One host for each program."""

    def __init__(self, data_dir: Path, hosts: Hosts, *, pg_bin: str | None) -> None:
        super().__init__(data_dir)
        self.hosts = hosts
        self._layout = Layout(data_dir)
        found = find_binaries(Path(pg_bin) if pg_bin is not None else None, prefer_bundled=True)
        self.planned = make_plan(node_count=len(NODES), base_port=BASE_PORT, pg_bin=str(found.directory))
        """Its nodes and ports."""
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def api(self) -> str:
        """URL of the manager."""
        return f"http://{self.hosts.address(MANAGER)}:{self.planned.manager_port}"

    def environment(self) -> dict[str, str]:
        """Return the environment in which endpointctl means this cluster."""
        kept = {name: value for name, value in super().environment().items() if not name.startswith("ENDPOINTD_")}
        return kept | {"ENDPOINTD_API": self.api, "ENDPOINTD_TOKEN_FILE": str(self._layout.token)}

    def dsn(self, door: str) -> str:
        """Return the URI of an endpoint or a node, with the password; "far" is the writer endpoint of the far proxy."""
        ports = {"writer": self.planned.writer_port, "reader": self.planned.reader_port, FAR: self.planned.writer_port}
        node = self.planned.find(door)
        host = self.hosts.address(door if node is not None or door == FAR else NEAR)
        password = self._layout.secret("superuser").read_text().strip()
        return f"postgresql://{USER}:{password}@{host}:{node.port if node is not None else ports[door]}/{DATABASE}"

    def pid_of(self, program: str) -> int:
        """Return the pid of a program."""
        return self._running[program].pid

    def up(self) -> None:
        """Lay everything out and start it."""
        make_root(self._layout)
        make_files(self._layout, self.planned)
        for name in (NEAR, FAR):
            (self._layout.proxy / name).mkdir(mode=0o700, exist_ok=True)
        write_settings({self._layout.settings_file(name): to_toml(settings) for name, settings in self._settings().items()})
        for name in (*NODES, MANAGER, NEAR, FAR):
            self._start(name)
        self.wait_healthy(timeout_s=UP_S)

    def remove(self) -> None:
        """Stop everything: proxies, manager, nodes."""
        for name in reversed([*self._running]):
            self._running[name].send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._running[name].wait(STOP_S)
        for process in self._running.values():
            if process.poll() is None:
                process.kill()
                process.wait()
        self._running.clear()
        shutil.rmtree(self.data_dir, ignore_errors=True)
        shutil.rmtree(self._layout.sockets, ignore_errors=True)

    def _start(self, name: str) -> None:
        module = {MANAGER: "cluster_manager.daemon", NEAR: "endpointd.daemon", FAR: "endpointd.daemon"}.get(
            name, "noded.daemon"
        )
        file = self._layout.settings_file(name)
        with self._layout.log(name).open("ab") as log:
            self._running[name] = subprocess.Popen(
                self.hosts.command(name, sys.executable, "-P", "-m", module, "--config", str(file)),
                cwd=self.data_dir,
                env=self.environment() | {"PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _settings(self) -> dict[str, msgspec.Struct]:
        """Return what each program reads: the local cluster's description, with hosts of their own."""
        local = describe(self.planned, Preferences(failover=MAY_FLAP))
        cluster = msgspec.structs.replace(
            local,
            nodes=tuple(
                msgspec.structs.replace(
                    node, postgres=self._moved(node.postgres, node.name), noded=self._moved(node.noded, node.name)
                )
                for node in local.nodes
            ),
            manager=self._moved(local.manager, MANAGER),
            writer=self._moved(local.writer, NEAR),
            reader=self._moved(local.reader, NEAR),
        )
        layout, feed_token = self._layout, self._layout.token_of(Scope.FEED)
        return {
            **{
                node.name: noded_settings(
                    cluster,
                    node,
                    self._machine(node.name, layout.node(node.name)),
                    socket_dir=layout.sockets / node.name,
                    pg_bin=Path(self.planned.pg_bin),
                )
                for node in cluster.nodes
            },
            MANAGER: manager_settings(cluster, self._machine(MANAGER, layout.manager)),
            **{
                name: proxy_settings(cluster, name, self._machine(name, layout.proxy / name), feed_token=feed_token)
                for name in (NEAR, FAR)
            },
        }

    def _machine(self, name: str, data: Path) -> Machine:
        return Machine(listen=self.hosts.address(name), data=data, secrets=self._layout.secrets)

    def _moved(self, address: Address, host: str) -> Address:
        return Address(self.hosts.address(host), address.port)


@contextlib.contextmanager
def in_namespaces(folder: Path, *, pg_bin: str | None) -> Iterator[Cluster]:
    """Start the cluster, and be on the clients' host. Raises NotPossible."""
    with Hosts((*NODES, MANAGER, NEAR, FAR, CLIENTS)) as hosts, hosts.entered(CLIENTS):
        cluster = SpreadCluster(folder / "c", hosts, pg_bin=pg_bin)
        try:
            cluster.up()
            yield cluster
        finally:
            cluster.remove()
