"""Real nodeds for tests: each a process of its own with a real PostgreSQL, driven over HTTP as a manager would."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import asyncpg
import msgspec

from daemonkit.httpclient import HttpClient, HttpError
from noded.postgres import processes
from pgtopology.codec import decode, encode
from pgtopology.epoch import Epoch, Revision
from pgtopology.node import Address, NodeName, sync_name
from pgtopology.observation import Observation
from pgtopology.orders import (
    Acknowledged,
    CheckpointOrder,
    CloneOrder,
    ConfigureOrder,
    FollowOrder,
    InitOrder,
    Order,
    PromiseAnswer,
    PromiseOrder,
    PromoteOrder,
    RewindOrder,
    StartOrder,
    StopOrder,
    SynchronousAnswer,
    SynchronousOrder,
    Upstream,
)
from pgtopology.quorum import Voter, Voters, make_voters
from pgtopology.timeline import Timeline
from testkit.ports import free_port
from testkit.processes import send_all
from testkit.warm import Forked, WarmProgram

NODED = WarmProgram("noded.daemon", ["--version"])
SHORT = tempfile.gettempdir() if len(tempfile.gettempdir()) <= 40 else "/tmp"
"""Servers listen on sockets in it, whose paths must not be long."""
TOKEN = "token-of-the-tests"
PATHS = {
    InitOrder: "/init",
    PromiseOrder: "/promise",
    FollowOrder: "/follow",
    PromoteOrder: "/promote",
    CloneOrder: "/clone",
    RewindOrder: "/rewind",
    SynchronousOrder: "/settings",
    ConfigureOrder: "/configure",
    StartOrder: "/start",
    StopOrder: "/stop",
    CheckpointOrder: "/checkpoint",
}

_T = TypeVar("_T")
_O = TypeVar("_O", bound=Order)


@dataclass
class Member:
    """One noded."""

    name: NodeName
    directory: Path
    sockets: Path
    secrets: Path
    pg_port: int = field(default_factory=free_port)
    http_port: int = field(default_factory=free_port)
    process: Forked | None = None
    programs: Path | None = None
    """Of another PostgreSQL than the tests' own."""
    settings: str = ""
    """Tables at the end of its settings."""

    @property
    def upstream(self) -> Upstream:
        """This node as others follow it."""
        return Upstream(self.name, Address("127.0.0.1", self.pg_port))

    @property
    def log(self) -> Path:
        """What this noded says."""
        return self.directory.parent / f"{self.name}.log"

    async def start(self, *, verifiers: str | None = None) -> None:
        """Start the daemon and wait until it answers. *verifiers*: of tokens that it accepts besides ours."""
        others = self.secrets / "verifiers"
        if verifiers is not None:
            others.write_text(verifiers)
            others.chmod(0o600)
        names = ("superuser", "control", "replication", "probe")
        config = self.directory.parent / f"{self.name}.toml"
        config.write_text(
            f'[node]\ncluster = "test"\nname = "{self.name}"\ndir = "{self.directory}"\nsocket_dir = "{self.sockets}"\n'
            f"{self._binaries()}\n"
            f'[postgres]\nhost = "127.0.0.1"\nport = {self.pg_port}\n'
            f'[http]\nhost = "127.0.0.1"\nport = {self.http_port}\ntoken_file = "{self.secrets / "token"}"\n'
            + (f'verifiers_file = "{others}"\n' if verifiers is not None else "")
            + "[secrets]\n"
            + "".join(f'{name} = "{self.secrets / name}"\n' for name in names)
            + self.settings
        )
        with self.log.open("ab") as log:
            self.process = NODED.start(["--config", str(config)], env=os.environ, out=log.fileno(), err=log.fileno())
        await self.until(lambda _observation: True)

    def _binaries(self) -> str:
        """Return which PostgreSQL the tests use: the bundled one, or the one ENDPOINTD_TEST_PG_BIN names."""
        named = self.programs or os.environ.get("ENDPOINTD_TEST_PG_BIN")
        return f'pg_bin = "{named}"' if named else "prefer_bundled = true"

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal the daemon and wait for its end."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(number)
        async with asyncio.timeout(20):
            return await self.process.wait()

    def client(self) -> HttpClient:
        """Return a client of this noded."""
        return HttpClient(f"http://127.0.0.1:{self.http_port}", TOKEN)

    async def observe(self) -> Observation:
        """Return the present observation."""
        async with self.client() as client:
            return decode(await client.get("/status", timeout_s=5), Observation)

    async def until(self, condition: Callable[[Observation], object], timeout_s: float = 60) -> Observation:
        """Return the first observation that fulfils *condition*."""
        latest: Observation | None = None
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    with contextlib.suppress(HttpError):
                        async with self.client() as client:
                            async for line in client.lines("/events", idle_timeout_s=5):
                                latest = decode(line, Observation)
                                if condition(latest):
                                    return latest
                    await asyncio.sleep(0.02)
        except TimeoutError as error:
            raise AssertionError(f"{self.name} did not come to it; the latest is {latest}") from error


@dataclass
class Cluster:
    """What a manager would remember."""

    members: list[Member]
    epoch: int = 1
    revision: int = 1
    system_identifier: str | None = None
    voters: Voters | None = None
    passwords: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Member:
        return next(member for member in self.members if member.name == name)

    async def order(self, kind: type[_O], member: Member, answer: type[_T], **fields: object) -> _T:
        """Send an order of the present epoch under a new revision."""
        self.revision += 1
        return await self.send(self.make(kind, member, **fields), member, answer)

    def make(self, kind: type[_O], member: Member, **fields: object) -> _O:
        """Return an order of the present epoch and revision."""
        common: dict[str, object] = {
            "cluster": "test",
            "node": member.name,
            "system_identifier": self.system_identifier,
            "epoch": Epoch(self.epoch),
            "revision": Revision(self.revision),
            "voters": self.voters,
            "slots": tuple(v.sync_name for v in self.voters.members) if self.voters is not None else (),
        }
        return msgspec.convert({**common, **fields}, kind)

    async def send(self, order: Order, member: Member, answer: type[_T]) -> _T:
        """Send *order* as it is."""
        async with member.client() as client:
            return decode(await client.post(PATHS[type(order)], encode(order), timeout_s=10), answer)

    async def found(self) -> None:
        """Make the first node the writer of epoch 1 on timeline 2, with w = 1."""
        first = self.members[0]
        await self.order(InitOrder, first, Acknowledged)
        seen = await first.until(lambda o: o.activity == "idle" and o.incarnation and o.role == "standby")
        self.system_identifier = seen.system_identifier
        self.voters = await self.voters_of([first], 1)
        await self.promise(first)
        await self.promote(first, 2)

    async def promise(self, member: Member, **fields: object) -> PromiseAnswer:
        """Have *member* promise the present epoch."""
        return await self.order(PromiseOrder, member, PromiseAnswer, **fields)

    async def promote(self, member: Member, timeline: int) -> Observation:
        """Make *member* the primary on *timeline* and wait for its first acknowledged heartbeat."""
        await self.order(PromoteOrder, member, Acknowledged, timeline=Timeline(timeline))
        return await member.until(lambda o: o.role == "primary" and o.heartbeat and o.heartbeat.acknowledged_age_ms is not None)

    async def follow(self, member: Member, upstream: Member) -> None:
        """Let *member* follow *upstream*."""
        await self.order(FollowOrder, member, Acknowledged, upstream=upstream.upstream)

    async def clone(self, member: Member, source: Member) -> Observation:
        """Copy *source* to *member* and wait until the copy counts."""
        before = await member.observe()
        await self.order(CloneOrder, member, Acknowledged, source=source.upstream, destroys=before.incarnation)
        return await member.until(lambda o: o.whole and o.incarnation != before.incarnation)

    async def settings(self, writer: Member, voters: Voters, **fields: object) -> SynchronousAnswer:
        """Put *voters*' list in force on *writer*."""
        return await self.order(SynchronousOrder, writer, SynchronousAnswer, in_force=voters, **fields)

    async def voters_of(self, members: list[Member], w: int) -> Voters:
        """Return *members* as voters with their present data."""
        voters: list[Voter] = []
        for member in members:
            incarnation = (await member.observe()).incarnation
            assert incarnation is not None
            voters.append(Voter(member.name, incarnation))
        return make_voters(voters, w)

    async def wal_end(self, primary: Member) -> int:
        """Return how far the WAL of *primary* is flushed now; what its noded says of that may be older than the last commit."""
        (row,) = await self.sql(primary, "SELECT (pg_current_wal_flush_lsn() - '0/0')::int8 AS lsn")
        return row["lsn"]

    async def sql(self, member: Member, statement: str, timeout_s: float = 5) -> list[asyncpg.Record]:
        """Run *statement* as the superuser over TCP."""
        connection = await asyncpg.connect(
            host="127.0.0.1",
            port=member.pg_port,
            user="postgres",
            password=self.passwords["superuser"],
            database="postgres",
            ssl=False,
            timeout=5,
        )
        try:
            return await connection.fetch(statement, timeout=timeout_s)
        finally:
            connection.terminate()

    async def streaming(self, member: Member) -> Observation:
        """Wait until *member* streams."""
        return await member.until(lambda o: o.receiver and o.receiver.streaming)


def slot_of(observation: Observation) -> str:
    """Return the sync name of an observed node."""
    assert observation.incarnation is not None
    return sync_name(observation.node, observation.incarnation)


@contextlib.asynccontextmanager
async def running_members(
    count: int, *, programs: Path | None = None, settings: str = "", verifiers: str | None = None
) -> AsyncGenerator[Cluster, None]:
    """Give *count* nodeds without data; everything is gone afterwards. See Member and its `start` for the rest."""
    root = Path(tempfile.mkdtemp(prefix="noded-", dir=SHORT))
    store = root / "secrets"
    store.mkdir(mode=0o700)
    passwords = {name: secrets.token_hex(8) for name in ("superuser", "control", "replication", "probe")}
    for name, value in {**passwords, "token": TOKEN}.items():
        (store / name).write_text(value)
        (store / name).chmod(0o600)
    members = [
        Member(NodeName(f"n{i}"), root / f"n{i}", root / f"s{i}", store, programs=programs, settings=settings)
        for i in range(1, count + 1)
    ]
    cluster = Cluster(members, passwords=passwords)
    try:
        async with asyncio.TaskGroup() as tasks:
            for member in members:
                tasks.create_task(member.start(verifiers=verifiers))
        yield cluster
    finally:
        await asyncio.gather(*(member.stop() for member in members if member.process is not None), return_exceptions=True)
        for member in members:
            _kill_left(member)
        shutil.rmtree(root, ignore_errors=True)


def _kill_left(member: Member) -> None:
    """Kill what a failed test left of *member*, by the data directory it works in."""
    if member.process is not None and member.process.returncode is None:
        member.process.kill()
    send_all(processes.members(member.directory / "pgdata"), signal.SIGKILL)
