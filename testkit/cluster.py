"""A local cluster of our own for tests and benchmarks: started, watched, hurt and removed through what operators have.

Everything goes through `endpointctl` and the manager's API; the only thing done behind their backs is killing processes,
by the pids that status and the supervisor's records name.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeGuard

import msgspec

from cluster_manager.settings import FailoverSettings
from daemonkit.linesocket import ask
from daemonkit.toml import to_toml
from deployment.cluster import PostgresSettings
from deployment.local.layout import Layout
from deployment.local.postmaster import postmaster_of
from deployment.local.preferences import Preferences
from pgtopology.codec import decode
from pgtopology.status import NodeStatus, Status
from pgtopology.supervision import Answer, Order, ProgramReport
from testkit.processes import command
from testkit.warm import WarmProgram

ROOT = Path(__file__).parents[1]
UP_TIMEOUT_S = 90.0
ENDPOINTCTL = WarmProgram("endpointctl.main", ["status", "--version"])

MAY_FLAP = FailoverSettings(soft_interval_s=0, hold_after=0)
"""No failover is held back, however many came before: tests and benchmarks strike again and again."""


class Cluster:
    """One cluster in *data_dir*, on ports of its own."""

    def __init__(
        self,
        data_dir: Path,
        *,
        nodes: int = 3,
        options: tuple[str, ...] = (),
        postgres: PostgresSettings | None = None,
        may_flap: bool = True,
        preferences: Preferences | None = None,
    ) -> None:
        """*postgres* is given to every node; without *may_flap* the manager holds failovers back as it does for operators.

        *preferences*: all else that `up --config` takes.
        """
        self.data_dir = data_dir
        self._nodes = nodes
        self._preferences = msgspec.structs.replace(
            preferences if preferences is not None else Preferences(),
            postgres=postgres if postgres is not None else PostgresSettings(),
            failover=MAY_FLAP if may_flap else FailoverSettings(),
        )
        self.options = options
        """Of `up`, beside those that every cluster of the tests has."""
        self._dsns: dict[str, tuple[list[int], str]] = {}

    def ctl(self, *arguments: str, check: bool = True, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run endpointctl on this cluster and return what came of it; with *check*, an exit code but 0 is an error."""
        done = ENDPOINTCTL.run(arguments, env=self.environment(), timeout_s=timeout_s)
        if check and done.returncode != 0:
            said = f"{done.stdout}\n{done.stderr}".strip()
            raise AssertionError(f"endpointctl {' '.join(arguments)} ended with {done.returncode}: {said}")
        return done

    def environment(self) -> dict[str, str]:
        """Return the environment in which endpointctl means this cluster."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "ENDPOINTD_"))}
        return kept | {"ENDPOINTD_DATA_DIR": str(self.data_dir)}

    def up(self) -> None:
        """Start it, or bring it back, and wait until it is usable."""
        arguments = ["up", "--detach", "--wait", "--base-port", "auto", "--timeout", f"{UP_TIMEOUT_S:g}"]
        if not (self.data_dir / "cluster.json").exists():
            arguments += ["--nodes", str(self._nodes)]
        file = self.data_dir.with_name(f"{self.data_dir.name}-preferences.toml")
        file.write_text(to_toml(self._preferences))
        arguments += ["--config", str(file)]
        self.ctl(*arguments, *self.options, timeout_s=UP_TIMEOUT_S + 30.0)

    def down(self) -> None:
        """Stop it and keep the data."""
        self.ctl("down")

    def remove(self) -> None:
        """Stop it and remove everything."""
        if self.data_dir.exists():
            self.ctl("down", "--purge", "--yes")

    def renew(self) -> None:
        """Throw everything away and begin anew."""
        self.remove()
        self.up()

    def keep_logs(self, folder: Path) -> None:
        """Copy what the cluster wrote, and what it says of itself now, to *folder*, which is emptied before."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name in ("logs", "settings", "manager/journal.jsonl", "cluster.json"):
            source = self.data_dir / name
            if source.is_dir():
                shutil.copytree(source, folder / source.name)
            elif source.exists():
                shutil.copy(source, folder)
        for log in (*self.data_dir.glob("nodes/*/*.log"), *self.data_dir.glob("nodes/*/log/*.log")):
            shutil.copy(log, folder / f"{log.relative_to(self.data_dir / 'nodes').parts[0]}-{log.name}")
        for arguments in (("status", "--json"), ("status",), ("events", "--all"), ("explain",), ("doctor",)):
            done = self.ctl(*arguments, check=False, timeout_s=20.0)
            (folder / ("-".join(arguments).replace("--", "") + ".txt")).write_text(done.stdout + done.stderr)

    def plan(self) -> dict[str, object]:
        """Return what was decided when the cluster was made."""
        return json.loads((self.data_dir / "cluster.json").read_text())

    def port(self, offset: int) -> int:
        """Return the port at *offset* from the base port."""
        base = self.plan()["base_port"]
        assert isinstance(base, int)
        return base + offset

    @property
    def api(self) -> str:
        """URL of the manager."""
        return f"http://127.0.0.1:{self.port(80)}"

    @property
    def token(self) -> str:
        """The API's token."""
        return (self.data_dir / "run" / "token").read_text().strip()

    def get(self, path: str, *, timeout_s: float = 5.0) -> bytes:
        """Return the manager's answer to GET *path*. Raises OSError."""
        request = urllib.request.Request(self.api + path, headers={"Authorization": f"Bearer {self.token}"})  # noqa: S310 - http
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:  # noqa: S310 - http to 127.0.0.1
            return answer.read()

    def status(self, *, timeout_s: float = 5.0) -> Status:
        """Return the cluster's status. Raises OSError while no manager answers."""
        return decode(self.get("/v1/status", timeout_s=timeout_s), Status)

    def events(self, *, after: int = 0) -> list[dict[str, Any]]:
        """Return the events so far."""
        lines = self.get(f"/v1/events?after={after}&follow=0").splitlines()
        return [msgspec.json.decode(line, type=dict[str, Any]) for line in lines if line]

    def wait(self, is_met: Callable[[Status], bool], wanted: str, *, timeout_s: float = 30.0) -> Status:
        """Return the first status for which *is_met*; a manager that is away is waited for. Raises TimeoutError."""
        deadline = time.monotonic() + timeout_s
        last = "no status"
        while time.monotonic() < deadline:
            try:
                status = self.status()
            except OSError as error:
                last = f"no answer: {error}"
            else:
                if is_met(status):
                    return status
                nodes = ", ".join(f"{node.name} {node.role} {node.state}" for node in status.nodes)
                last = f"{status.state} ({status.diagnosis}: {status.reason}), epoch {status.epoch}, {nodes}"
            time.sleep(0.05)
        raise TimeoutError(f"not {wanted} within {timeout_s:g} s; last seen: {last}")

    def wait_healthy(self, *, timeout_s: float = 60.0) -> Status:
        """Wait until everything is as it should be, the proxy included."""
        return self.wait(is_healthy, "healthy", timeout_s=timeout_s)

    def wait_for_epoch_after(self, epoch: int, *, timeout_s: float = 30.0) -> Status:
        """Wait until there is a writer of an epoch greater than *epoch*."""
        return self.wait(
            lambda status: status.epoch > epoch and status.writer is not None,
            f"in an epoch after {epoch} with a writer",
            timeout_s=timeout_s,
        )

    def writer(self) -> NodeStatus:
        """Return the writer as status shows it."""
        status = self.status()
        assert status.writer is not None, "there is no writer"
        return self.node(status.writer, status)

    def node(self, name: str, status: Status | None = None) -> NodeStatus:
        """Return the node called *name*."""
        return next(node for node in (status or self.status()).nodes if node.name == name)

    def kill_postgres(self, name: str, number: signal.Signals = signal.SIGKILL) -> float:
        """Signal the postmaster of node *name*; return when, on the monotonic clock."""
        pid = self.node(name).pid
        assert pid is not None, f"{name} has no postmaster"
        at = time.monotonic()
        os.kill(pid, number)
        return at

    def pid_of(self, program: str) -> int:
        """Return the pid of a program: a node's noded, cluster_manager, endpointd or supervisor."""
        record = json.loads((self.data_dir / "run" / f"{program}.pid").read_text())
        return int(record["pid"])

    def kill(self, program: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Signal a program and return its pid."""
        pid = self.pid_of(program)
        os.kill(pid, number)
        return pid

    def owns(self, pid: int | None) -> TypeGuard[int]:
        """Return whether *pid* is a program or a postmaster of this cluster still, and not nobody's or another's by now."""
        return pid is not None and str(self.data_dir) in command(pid)

    def kill_pid(self, pid: int) -> None:
        """Kill one process of this cluster; one that went by itself is no error."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def program(self, do: Literal["start", "stop", "list"], name: str | None = None) -> tuple[ProgramReport, ...]:
        """Tell the supervisor to start or stop one program, or to list all."""
        answer = asyncio.run(ask(Layout(self.data_dir).control_socket, Order(do=do, name=name), Answer))
        return answer.programs

    def stop_node(self, name: str) -> None:
        """Stop a node's noded, and PostgreSQL with it, and wait until both are gone."""
        self.program("stop", name)
        layout = Layout(self.data_dir)
        self.until(lambda: not layout.record(name).exists() and postmaster_of(layout.pgdata(name)) is None, f"{name} stopped")

    def wait_gone(self, pid: int, *, timeout_s: float = 30.0) -> None:
        """Wait until process *pid* is gone."""
        self.until(lambda: not Path(f"/proc/{pid}").exists(), f"process {pid} gone", timeout_s)

    def start_node(self, name: str) -> None:
        """Start a node's noded again."""
        self.program("start", name)

    def pg(self, program: str) -> str:
        """Return the path of one of PostgreSQL's programs."""
        return str(Path(str(self.plan()["pg_bin"])) / program)

    @staticmethod
    def until(is_met: Callable[[], bool], wanted: str, timeout_s: float = 45.0) -> None:
        """Return when *is_met*. Raises TimeoutError that names what was *wanted*."""
        deadline = time.monotonic() + timeout_s
        while not is_met():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not {wanted} within {timeout_s:g} s")
            time.sleep(0.02)

    def dsn(self, door: str) -> str:
        """Return the URI of an endpoint or a node, with the password; asked anew once plan or password changed."""
        written = [(self.data_dir / name).stat().st_mtime_ns for name in ("cluster.json", "secrets/superuser")]
        known = self._dsns.get(door)
        if known is None or known[0] != written:
            known = self._dsns[door] = (written, self.ctl("dsn", door, "--with-password").stdout.strip())
        return known[1]


def is_healthy(status: Status) -> bool:
    """Return whether *status* is healthy, every voter could take over, and a proxy routes by it."""
    ready = all(node.voter and node.whole for node in status.nodes) or status.durability == "async"
    routed = any(proxy.epoch == status.epoch and not proxy.draining for proxy in status.proxies)
    return status.state == "healthy" and ready and routed
