"""The cluster of docker-compose.yml as the container test handles it: up, down, one container, and what the manager says.

Everything it makes carries one project name, so that `remove` finds all of it again, whatever happened before.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.compose.engine import Engine
from tests.compose.images import PACKAGES, ROOT
from tests.compose.shell import CommandError, run, works

NET = "172.31.231"
"""Not the default, so that a cluster of the user's on the same engine stays out of the way."""
PREFIX = "endpointd-test-"
"""Of projects; the process id of the test follows."""
NODES_UP_S = 90.0
HTTP_S = 3.0
POLL_S = 0.05
LOGS = ROOT / "test-logs"

Status = dict[str, Any]


class Stack:
    """One project of docker-compose."""

    def __init__(self, engine: Engine, image: str, folder: Path) -> None:
        self.project = f"{PREFIX}{os.getpid()}"
        self.image = image
        self.secrets = folder / "secrets"
        self.config = folder / "compose.toml"
        defaults = {
            "WRITER": 6432, "READER": 6433, "POOLED_WRITER": 6434, "POOLED_READER": 6435, "MANAGER": 6480, "DNS": 6453,
        }  # fmt: skip
        taken = list(defaults.values()) if engine.is_own else _free_ports(len(defaults))
        self.ports: dict[str, int] = dict(zip(defaults, taken, strict=True))
        self.env = {
            "COMPOSE_PROJECT_NAME": self.project,
            "ENDPOINTD_NAME": self.project,
            "ENDPOINTD_IMAGE": image,
            "ENDPOINTD_NET": NET,
            "ENDPOINTD_CONFIG": str(self.config),
            "ENDPOINTD_SECRETS": str(self.secrets),
            "ENDPOINTD_NODES": "n1,n2,n3",
            **{f"ENDPOINTD_{name}_PORT": str(port) for name, port in self.ports.items()},
        }
        self.command = compose_command()
        self.logs = LOGS / f"compose-{os.getpid()}.log"

    # The project.

    def prepare(self) -> None:
        """Make the secrets, by the documented command, and the settings: the shipped ones, but patient with us.

        Faults follow one another here more quickly than failovers upon silence may.
        """
        shipped = (ROOT / "config" / "compose.toml").read_text()
        patient = re.sub(r"^(soft_interval_s|hold_after) = [0-9.]+", r"\1 = 0", shipped, flags=re.MULTILINE)
        assert patient.count(" = 0 ") == 2, "config/compose.toml has other settings of [failover] than this test knows"
        self.config.write_text(patient)
        self.config.chmod(0o644)
        run([str(ROOT / "docker" / "prepare"), str(self.secrets)])

    def check_file(self) -> None:
        """Have docker-compose.yml parsed. Raises CommandError."""
        self.compose("config", "-q")

    def up(self, *options: str) -> float:
        """Start what is not running and return how long it took until the cluster was healthy."""
        begun = time.monotonic()
        self.compose(*options, "up", "-d", "--no-build", timeout_s=300.0)
        self.wait_healthy(nodes=len(self.env["ENDPOINTD_NODES"].split(",")))
        return time.monotonic() - begun

    def down(self) -> float:
        """Remove all containers, not the volumes, and return how long it took. What they said is kept."""
        self.keep_logs()
        begun = time.monotonic()
        self.compose("--profile", "n4", "down", timeout_s=300.0)
        return time.monotonic() - begun

    def keep_logs(self) -> None:
        """Append what the containers said so far to `logs`. Raises CommandError, OSError."""
        self.logs.parent.mkdir(parents=True, exist_ok=True)
        with self.logs.open("a") as kept:
            kept.write(self.compose("logs", "--no-color", "-t") + "\n")

    def kill_all(self) -> None:
        """End every container as a loss of power would."""
        self.docker("kill", *(self.container(service) for service in ("n1", "n2", "n3", "manager", "proxy")))

    def remove(self) -> None:
        """Remove everything that belongs to the project."""
        _remove_project(self.project)
        works(["docker", "image", "rm", "-f", self.image])
        works(["docker", "image", "prune", "-f", "--filter", "label=endpointd.stage"])
        works(["docker", "image", "rm", *PACKAGES])

    def remove_leftovers(self) -> None:
        """Remove the projects of earlier runs that were killed."""
        listed = run(["docker", "ps", "-a", "--format", '{{.Label "com.docker.compose.project"}}']).split()
        for project in {name for name in listed if name.startswith(PREFIX)}:
            if not Path("/proc", project.removeprefix(PREFIX)).exists():
                _remove_project(project)

    def compose(self, *arguments: str, timeout_s: float = 120.0) -> str:
        """Run docker-compose in the project."""
        return run([*self.command, *arguments], env=self.env, cwd=str(ROOT), timeout_s=timeout_s)

    # One container.

    def container(self, service: str) -> str:
        """Return the id of the container of *service*, running or not."""
        label = f"label=com.docker.compose.project={self.project}"
        found = run(["docker", "ps", "-aq", "--filter", label, "--filter", f"label=com.docker.compose.service={service}"])
        if not found:
            raise CommandError(f"there is no container of {service}")
        return found.splitlines()[0]

    def docker(self, *arguments: str) -> str:
        """Run docker."""
        return run(["docker", *arguments])

    def disconnect(self, node: str) -> None:
        """Cut the node off from everybody."""
        self.docker("network", "disconnect", f"{self.project}_nodes", self.container(node))

    def connect(self, node: str) -> None:
        """Undo `disconnect`: the engine has forgotten the container's address."""
        address = f"{NET}.{10 + int(node[1:])}"
        self.docker("network", "connect", "--ip", address, "--alias", node, f"{self.project}_nodes", self.container(node))

    def execute(self, service: str, script: str) -> str:
        """Run a line of shell in the container of *service*."""
        return self.docker("exec", self.container(service), "bash", "-c", script)

    # What it is like.

    def dsn(self, door: str) -> str:
        """Return the URI of an endpoint as seen from this machine, or of a node in its network."""
        password = (self.secrets / "superuser").read_text().strip()
        address = (
            f"127.0.0.1:{self.ports[door.upper()]}" if door in ("writer", "reader") else f"{NET}.{10 + int(door[1:])}:5432"
        )
        return f"postgresql://postgres:{password}@{address}/postgres"

    def status(self) -> Status:
        """Return the manager's status. Raises OSError if it does not answer."""
        token = (self.secrets / "api-token").read_text().strip()
        url = f"http://127.0.0.1:{self.ports['MANAGER']}/v1/status"
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=HTTP_S) as answer:  # noqa: S310
            return json.loads(answer.read())

    def wait(self, is_met: Callable[[Status], bool], wanted: str, *, timeout_s: float = NODES_UP_S) -> Status:
        """Return the first status for which *is_met*. Raises TimeoutError with the last one."""
        deadline = time.monotonic() + timeout_s
        last = "no manager answered"
        while time.monotonic() < deadline:
            try:
                status = self.status()
                if is_met(status):
                    return status
                nodes = ", ".join(f"{node['name']} {node['state']}" for node in status["nodes"])
                last = f"{status['state']}, {status['diagnosis']}, {status['reason']}; {nodes}"
            except (OSError, urllib.error.URLError, ValueError) as error:
                last = str(error)
            time.sleep(POLL_S)
        raise TimeoutError(f"not {wanted} within {timeout_s:g} s: {last}")

    def wait_healthy(self, *, nodes: int = 3) -> Status:
        """Wait until there are *nodes* nodes, all at work, a quorum and a proxy that routes by it."""

        def is_healthy(status: Status) -> bool:
            states = sorted(node["state"] for node in status["nodes"])
            return (
                status["state"] == "healthy"
                and status["durability"] == "quorum"
                and states == ["running"] + ["streaming"] * (nodes - 1)
                and all(node["whole"] for node in status["nodes"])
                and any(proxy["epoch"] == status["epoch"] for proxy in status["proxies"])
            )

        return self.wait(is_healthy, f"healthy with {nodes} nodes")


def compose_command() -> list[str]:
    """Return how docker-compose is called here: version 2 if it is there, else 1. Raises CommandError."""
    if works(["docker", "compose", "version"]):
        return ["docker", "compose"]
    if shutil.which("docker-compose") is not None:
        return ["docker-compose"]
    raise CommandError("neither `docker compose` nor docker-compose is installed")


def _remove_project(project: str) -> None:
    label = f"label=com.docker.compose.project={project}"
    for listing, removing in (
        (["ps", "-aq"], ["rm", "-f", "-v"]),
        (["network", "ls", "-q"], ["network", "rm"]),
        (["volume", "ls", "-q"], ["volume", "rm", "-f"]),
    ):
        found = run(["docker", *listing, "--filter", label]).split()
        if found:
            run(["docker", *removing, *found])


def _free_ports(count: int) -> list[int]:
    with_sockets = [socket.socket() for _ in range(count)]
    try:
        for each in with_sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in with_sockets]
    finally:
        for each in with_sockets:
            each.close()
