"""The Docker engine the container test runs on: the one there is, or one of its own.

An engine of its own (root, with Docker's packages installed) has its own network namespace, so that no address of a bridge
and no published port ever appears on this machine's real network, and its own data directory.  It reaches nothing outside:
images must be made here.  This process can enter that namespace to reach the published ports.  What a killed run left behind is
removed by the next one.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.compose.shell import CommandError, run, works

HOME = Path("/var/tmp/endpointd-compose-test")
"""Not in /tmp, which may be memory; an engine's data takes about 3 GB."""
NEEDED = ("docker", "dockerd", "containerd", "runc", "iptables", "ip", "unshare", "debootstrap")
PACKAGES = "docker.io docker-compose containerd runc iptables iproute2 debootstrap"
START_S = 40.0
STOP_S = 30.0
CLONE_NEWNET = 0x40000000


class EngineError(Exception):
    """No engine can be had here; the text says why and what would help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A running engine."""

    version: str
    pid: int | None = None
    """Of an engine started for this test; it is cut off from everything, so bases and wheels are made by us."""

    @property
    def is_own(self) -> bool:
        """Whether the engine was started for this test."""
        return self.pid is not None

    @property
    def folder(self) -> Path | None:
        """Where files of this run may lie, so that a later one finds what was left; None: anywhere."""
        return HOME if self.is_own else None

    def enter_network(self) -> None:
        """Move this thread, and those it will start, to where the engine publishes ports. There is no way out from there."""
        if self.pid is None:
            return
        with Path(f"/proc/{self.pid}/ns/net").open() as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET) != 0:
                raise EngineError(f"cannot enter the engine's network: {os.strerror(ctypes.get_errno())}")


@contextlib.contextmanager
def engine() -> Iterator[Engine]:
    """Give an engine for the length of the block; `docker` finds it by the environment. Raises EngineError."""
    if works(["docker", "info"], timeout_s=20.0):
        yield Engine(version=_version())
        return
    if os.geteuid() != 0:
        raise EngineError("no Docker engine answers (DOCKER_HOST), and only root can start one")
    missing = [program for program in NEEDED if shutil.which(program) is None]
    if missing:
        raise EngineError(
            f"no Docker engine answers, and {', '.join(missing)} are missing to start one (Debian: apt-get install {PACKAGES})"
        )
    HOME.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (HOME / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise EngineError(f"another container test runs ({HOME})") from error
        _clear()
        try:
            yield Engine(pid=_start(), version=_version())
        finally:
            _clear()


def _start() -> int:
    settings = {
        "data-root": str(HOME / "data"),
        "exec-root": str(HOME / "exec"),
        "hosts": [f"unix://{HOME}/docker.sock"],
        "pidfile": str(HOME / "pid"),
    }
    (HOME / "daemon.json").write_text(json.dumps(settings))
    with (HOME / "log").open("wb") as log:
        daemon = subprocess.Popen(
            ["unshare", "-n", "sh", "-c", f"ip link set lo up && exec dockerd --config-file {HOME}/daemon.json"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    os.environ["DOCKER_HOST"] = f"unix://{HOME}/docker.sock"
    deadline = time.monotonic() + START_S
    while not works(["docker", "info"], timeout_s=10.0):
        if daemon.poll() is not None or time.monotonic() > deadline:
            words = "\n".join((HOME / "log").read_text(errors="replace").splitlines()[-5:])
            raise EngineError(f"dockerd does not start here:\n{words}")
        time.sleep(0.2)
    return daemon.pid


def _version() -> str:
    return run(["docker", "version", "--format", "{{.Server.Version}}"])


def _clear() -> None:
    """Stop the engine of this directory with all its containers, and remove its data."""
    env = {"DOCKER_HOST": f"unix://{HOME}/docker.sock"}
    with contextlib.suppress(OSError, ValueError):
        pid = int((HOME / "pid").read_text())
        if "dockerd" in Path(f"/proc/{pid}/cmdline").read_text():
            with contextlib.suppress(CommandError):
                containers = run(["docker", "ps", "-aq"], env=env, timeout_s=20.0).split()
                if containers:
                    run(["docker", "rm", "-f", "-v", *containers], env=env)
            _end(pid)
    for mount in _mounts():
        works(["umount", "-l", mount])
    for path in [path for path in HOME.iterdir() if path.name != "lock"]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _end(pid: int) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + STOP_S
        while time.monotonic() < deadline:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            if not Path(f"/proc/{pid}").exists():
                return
            time.sleep(0.1)


def _mounts() -> list[str]:
    """Return what is mounted below our directory, innermost first."""
    points = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    return sorted((point for point in points if point.startswith(f"{HOME}/")), reverse=True)
