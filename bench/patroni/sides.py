"""The two kinds of cluster behind one face: started, asked who writes, told to switch over, removed.

Each side says how to reach its writer and which processes the writer's node consists of; what is done to them is the same
for all and is not decided here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import asyncpg
import msgspec

from bench.patroni.install import Programs
from bench.patroni.texts import HOST, Member, Variant, direct_dsn, haproxy_dsn, haproxy_settings, is_healthy, patroni_settings
from daemonkit.proctable import children
from deployment.local.plan import PortUse
from noded.postgres.binaries import Binaries
from noded.postgres.processes import members
from supervisor.ports import free_base_port
from testkit.cluster import ROOT, Cluster
from testkit.processes import send

NODES = 3
STOP_TIMEOUT_S = 15.0
HEALTHY_TIMEOUT_S = 240.0
ASK_TIMEOUT_S = 2.0
WRITER_TIMEOUT_S = 30.0

_IDENTITY = "SELECT current_setting('port') || ' since ' || pg_postmaster_start_time()"
_STANDBYS = "SELECT count(*)::text FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = 'quorum'"


class RefusedError(Exception):
    """A system did not do what it was asked for; the text is its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The processes of the writer's node."""

    node: str
    postmaster: int
    agent: int


class Side(Protocol):
    """A cluster under test."""

    @property
    def name(self) -> str:
        """What the table calls it."""
        ...

    @property
    def dsn(self) -> str:
        """The URI that clients write through."""
        ...

    def start(self) -> None:
        """Start everything; `wait_healthy` waits until it is usable."""
        ...

    def wait_healthy(self) -> None:
        """Wait until all nodes stream and could take over. Raises TimeoutError."""
        ...

    def target(self) -> Target:
        """Return the node that writes now. Raises TimeoutError if none does."""
        ...

    def switchover(self) -> None:
        """Hand the writer over to another node. Raises RefusedError."""
        ...

    def logs(self) -> list[Path]:
        """Return the files in which its processes wrote."""
        ...

    def remove(self) -> None:
        """Stop every process."""
        ...


class Endpointd:
    """endpointd as `endpointctl up` makes it."""

    name = "endpointd"

    def __init__(self, home: Path, binaries: Binaries) -> None:
        self._cluster = Cluster(home, nodes=NODES, options=("--pg-bin", str(binaries.directory)))
        self._dsn: str | None = None

    @property
    def dsn(self) -> str:
        if self._dsn is None:
            self._dsn = self._cluster.dsn("writer")
        return self._dsn

    def start(self) -> None:
        self._cluster.up()

    def wait_healthy(self) -> None:
        self._cluster.wait_healthy(timeout_s=HEALTHY_TIMEOUT_S)

    def target(self) -> Target:
        writer = self._cluster.writer()
        assert writer.pid is not None, f"{writer.name} has no postmaster"
        return Target(node=writer.name, postmaster=writer.pid, agent=self._cluster.pid_of(writer.name))

    def switchover(self) -> None:
        done = self._cluster.ctl("switchover", check=False)
        if done.returncode != 0:
            raise RefusedError(f"endpointctl ended with {done.returncode}: {done.stderr.strip()}")

    def logs(self) -> list[Path]:
        return sorted((self._cluster.data_dir / "logs").rglob("*.log"))

    def remove(self) -> None:
        self._cluster.remove()


class Etcd:
    """One member of etcd, which all Patroni clusters of a run keep their leases in. No fault touches it."""

    def __init__(self, home: Path, program: str) -> None:
        self.log = home / "etcd.log"
        self._home = home
        self._program = program
        base = free_base_port([PortUse(0, "etcd"), PortUse(1, "etcd's peers")])
        self.port, self._peer_port = base, base + 1
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it takes writes. Raises TimeoutError."""
        client, peer = f"http://{HOST}:{self.port}", f"http://{HOST}:{self._peer_port}"
        self._process = _launch(
            [
                self._program,
                *("--name", "e1", "--data-dir", str(self._home / "etcd")),
                *("--listen-client-urls", client, "--advertise-client-urls", client),
                *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"e1={peer}"),
            ],
            self.log,
        )
        _until(lambda: b'"true"' in (_get(f"{client}/health") or b""), "etcd healthy", 30.0)

    def remove(self) -> None:
        """Stop it."""
        _stop(self._process)


class Patroni:
    """A Patroni cluster with HAProxy in front, in one *variant* of its settings."""

    def __init__(self, home: Path, variant: Variant, *, programs: Programs, binaries: Binaries, etcd: Etcd) -> None:
        self.name = variant.name
        self._home = home
        self._variant = variant
        self._programs = programs
        self._binaries = binaries
        self._etcd = etcd
        self._password = secrets.token_urlsafe(16)
        uses = [PortUse(offset, "Patroni") for offset in (0, *(10 + n for n in range(NODES)), *(20 + n for n in range(NODES)))]
        self._port = free_base_port(uses)
        self._members = [
            Member(name=f"n{n + 1}", port=self._port + 10 + n, rest_port=self._port + 20 + n, home=home / f"n{n + 1}")
            for n in range(NODES)
        ]
        self._keepers: dict[str, subprocess.Popen[bytes]] = {}
        self._haproxy: subprocess.Popen[bytes] | None = None

    @property
    def dsn(self) -> str:
        if self._programs.haproxy is None:
            return direct_dsn(self._password, self._members)
        return haproxy_dsn(self._password, self._port)

    def start(self) -> None:
        for member in self._members:
            member.home.mkdir(parents=True, mode=0o700)
            member.settings.write_text(
                patroni_settings(
                    self._variant,
                    member,
                    pg_bin=self._binaries.directory,
                    pg_major=self._binaries.major,
                    etcd_port=self._etcd.port,
                    password=self._password,
                )
            )
            keeper = [sys.executable, "-m", "bench.patroni.keeper"]
            command = [*keeper, *self._binaries.wrapper, self._programs.patroni, str(member.settings)]
            self._keepers[member.name] = _launch(command, member.log)
        if self._programs.haproxy is not None:
            settings = self._home / "haproxy.cfg"
            settings.write_text(haproxy_settings(self._variant, self._members, port=self._port))
            self._haproxy = _launch([self._programs.haproxy, "-db", "-f", str(settings)], self._home / "haproxy.log")

    def wait_healthy(self) -> None:
        # The members' own reports are as old as their last round; what the primary sees of its standbys is of now.
        def is_met() -> bool:
            cluster = self._status()
            return cluster is not None and is_healthy(cluster, nodes=NODES) and ask(self.dsn, _STANDBYS) == str(NODES - 1)

        try:
            _until(is_met, f"{self.name} healthy", HEALTHY_TIMEOUT_S, pause_s=0.25)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; last seen: {self._status()}") from None

    def target(self) -> Target:
        port = wait_for_writer(self.dsn).partition(" ")[0]
        member = next(member for member in self._members if str(member.port) == port)
        postmaster = int((member.pgdata / "postmaster.pid").read_text().partition("\n")[0])
        return Target(node=member.name, postmaster=postmaster, agent=self._agent(member))

    def switchover(self) -> None:
        command = [self._programs.patronictl, "-c", str(self._members[0].settings), "switchover", self.name, "--force"]
        try:
            done = subprocess.run(command, env=_environment(), capture_output=True, text=True, timeout=180, check=False)
        except subprocess.TimeoutExpired as error:
            raise RefusedError(str(error)) from error
        if done.returncode != 0:
            raise RefusedError(f"patronictl ended with {done.returncode}: {done.stdout.strip()} {done.stderr.strip()}")

    def logs(self) -> list[Path]:
        return [*(member.log for member in self._members), self._home / "haproxy.log"]

    def remove(self) -> None:
        """End the keepers, then the agents, then the servers: each would start the next one again."""
        agents = [pid for member in self._members if member.name in self._keepers for pid in self._agents(member)]
        for keeper in self._keepers.values():
            keeper.kill()
            keeper.wait()
        for pid in agents:
            send(pid, signal.SIGKILL)
        for member in self._members:
            _end_server(member.pgdata)
        _stop(self._haproxy)

    def _status(self) -> dict[str, object] | None:
        for member in self._members:
            answer = _get(f"http://{HOST}:{member.rest_port}/cluster")
            if answer is not None:
                return msgspec.json.decode(answer, type=dict[str, object])
        return None

    def _agent(self, member: Member) -> int:
        agents = self._agents(member)
        assert len(agents) == 1, f"{member.name} has {len(agents)} Patronis"
        return agents[0]

    def _agents(self, member: Member) -> list[int]:
        keeper = self._keepers[member.name].pid
        return [pid for pid in children(keeper) if os.fsencode(member.settings) in _words(pid)]


def identity(dsn: str) -> str | None:
    """Return which server process *dsn* leads to now; None if to none."""
    return ask(dsn, _IDENTITY)


def wait_for_writer(dsn: str, *, other_than: str | None = None, timeout_s: float = WRITER_TIMEOUT_S) -> str:
    """Return which server process *dsn* leads to once it is another than *other_than*. Raises TimeoutError."""
    deadline = time.monotonic() + timeout_s
    while (found := identity(dsn)) is None or found == other_than:
        if time.monotonic() > deadline:
            raise TimeoutError(f"clients reached no {'other ' if other_than else ''}writer within {timeout_s:g} s")
        time.sleep(0.1)
    return found


def ask(dsn: str, query: str) -> str | None:
    """Return the one text that *query* yields at *dsn*; None if there is no answer in time."""

    async def _ask() -> str:
        async with asyncio.timeout(ASK_TIMEOUT_S):
            connection = await asyncpg.connect(dsn, statement_cache_size=0)
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                return str(await connection.fetchval(query))
        finally:
            connection.terminate()

    try:
        return asyncio.run(_ask())
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
        return None


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("PG", "PATRONI", "ETCD"))}


def _launch(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    # A session of its own: ^C is for us, and we end the others.
    with log.open("ab") as out:
        return subprocess.Popen(
            command, cwd=ROOT, env=_environment(), stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )


def _stop(process: subprocess.Popen[bytes] | None) -> None:
    if process is None:
        return
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _end_server(pgdata: Path) -> None:
    """End everything that works in *pgdata*: politely enough that its shared memory goes with it."""
    with contextlib.suppress(OSError, ValueError):
        postmaster = int((pgdata / "postmaster.pid").read_text().partition("\n")[0])
        if postmaster in members(pgdata):
            send(postmaster, signal.SIGQUIT)
    try:
        _until(lambda: not members(pgdata), "PostgreSQL gone", STOP_TIMEOUT_S)
    except TimeoutError:
        for pid in members(pgdata):
            send(pid, signal.SIGKILL)


def _words(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def _get(url: str) -> bytes | None:
    try:
        with urllib.request.urlopen(url, timeout=ASK_TIMEOUT_S) as answer:  # noqa: S310 - http to 127.0.0.1
            return answer.read()
    except OSError:
        return None


def _until(is_met: Callable[[], bool], wanted: str, timeout_s: float, *, pause_s: float = 0.05) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_met():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not {wanted} within {timeout_s:g} s")
        time.sleep(pause_s)
