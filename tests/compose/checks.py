"""What else must hold of the image and the running containers: size, hardening, names, the daemons' deaths, the data."""

from __future__ import annotations

import asyncio
import ssl
import time

import asyncpg
import dns.message
import dns.query
import dns.rdatatype

from testkit.ledger import Recorder, Verdict
from tests.compose.faults import ACKNOWLEDGEMENTS, Outcome
from tests.compose.shell import CommandError
from tests.compose.stack import NET, Stack

SIZE_MAX = 400_000_000
TOOLS = ("gcc", "cc", "g++", "make", "pip", "pip3", "cpp", "ld")
DOMAIN = "local.endpointd.internal"
REPLAY_S = 30.0


def image(stack: Stack) -> str:
    """Return the image's size and PostgreSQL. Raises AssertionError for one that is too large or has build tools."""
    size = int(stack.docker("image", "inspect", "--format", "{{.Size}}", stack.image))
    assert size < SIZE_MAX, f"the image has {size / 1e6:.0f} MB"
    script = f"for t in {' '.join(TOOLS)}; do command -v $t; done; find / -xdev -type f -perm /6000 2>/dev/null; true"
    found = stack.docker("run", "--rm", "--entrypoint", "bash", stack.image, "-c", script)
    assert not found, f"in the image are {found.split()}"
    version = stack.docker("run", "--rm", "--entrypoint", "postgres", stack.image, "--version")
    return f"{size / 1e6:.0f} MB, {version}"


def hardening(stack: Stack) -> list[str]:
    """Return what holds of the running containers. Raises AssertionError."""
    for service in ("n1", "manager", "proxy"):
        inspected = stack.docker(
            "inspect",
            "--format",
            "{{.HostConfig.ReadonlyRootfs}} {{.Config.User}} {{.HostConfig.CapDrop}}",
            stack.container(service),
        )
        assert inspected == "true endpointd [ALL]", f"{service}: {inspected}"
        written = stack.execute(service, "touch /usr/here /etc/here 2>/dev/null; ls /usr/here /etc/here 2>/dev/null; id -u")
        assert written == "6432", f"{service}: {written}"
    _wait_for_health(stack)
    reached = stack.docker(
        *("run", "--rm", "--network", f"{stack.project}_clients", "--entrypoint", "bash", stack.image, "-c"),
        f'for a in {NET}.11/5432 {NET}.11/8008; do timeout 2 bash -c "</dev/tcp/$a" 2>/dev/null && echo $a; done; '
        "timeout 2 bash -c '</dev/tcp/proxy/6432' && echo proxy",
    )
    assert reached == "proxy", f"from the clients' network these are reached: {reached.split()}"
    answer = stack.compose("run", "--rm", "psql", "writer", "-Atc", "select 'written' where not pg_is_in_recovery()")
    assert answer.splitlines()[-1].strip() == "written", answer
    return ["read-only root, no capabilities, not root; clients reach the proxy and no server; every health check passes"]


def _wait_for_health(stack: Stack) -> None:
    deadline = time.monotonic() + 30.0
    for service in ("n1", "n2", "n3", "manager", "proxy"):
        while (
            health := stack.docker("inspect", "--format", "{{.State.Health.Status}}", stack.container(service))
        ) != "healthy":
            assert time.monotonic() < deadline, f"the health check of {service} says {health}"
            time.sleep(0.2)


def names(stack: Stack) -> str:
    """Return who the writer's name leads to, asked from this machine (UDP and TCP) and by the resolver of a container.

    Raises AssertionError if it is not the writer.
    """
    status = stack.wait_healthy()
    writer = next(node["host"] for node in status["nodes"] if node["name"] == status["writer"])
    question = dns.message.make_query(f"writer.{DOMAIN}", dns.rdatatype.A)
    for ask in (dns.query.udp, dns.query.tcp):
        answer = ask(question, "127.0.0.1", timeout=3.0, port=stack.ports["DNS"])
        found = [str(item) for record in answer.answer for item in record]
        assert found == [writer], f"{ask.__name__}: {found} instead of {writer}"
    resolved = stack.docker(
        *("run", "--rm", "--network", f"{stack.project}_nodes", "--dns", f"{NET}.5", "--entrypoint", "getent", stack.image),
        *("hosts", f"writer.{DOMAIN}"),
    ).split()
    assert resolved[:1] == [writer], f"a container resolves the writer as {resolved}"
    return f"writer.{DOMAIN} is {status['writer']} by UDP, TCP and in a container"


def encryption(stack: Stack) -> str:
    """Return how client, proxy and server speak. Raises AssertionError if somebody has a key that is not for it."""
    for service, held in (("proxy", "ca.crt endpoints.pem"), ("n1", "ca.crt n1.pem n2.pem n3.pem n4.pem n5.pem")):
        found = " ".join(stack.execute(service, "ls /etc/endpointd/tls").split())
        assert found == held, f"{service} has {found}"
    context = ssl.create_default_context(cadata=stack.execute("proxy", "cat /etc/endpointd/tls/ca.crt"))
    question = "SELECT current_setting('ssl') || ' ' || ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    spoken = asyncio.run(_ask(stack.dsn("writer"), question, context))
    if spoken == "off false":
        return "clients verify the proxy; this PostgreSQL was built without TLS"
    assert spoken == "on true", f"at the server ssl and its use are: {spoken}"
    return "clients verify the proxy, and the proxy the servers"


def daemons(stack: Stack, recorder: Recorder) -> list[Outcome]:
    """Kill the manager, then the proxy, and start each again."""
    outcomes: list[Outcome] = []
    for service in ("manager", "proxy"):
        writer = stack.wait_healthy()["writer"]
        recorder.wait_for_more(ACKNOWLEDGEMENTS, timeout_s=30.0)
        begun = time.monotonic()
        stack.docker("kill", stack.container(service))
        if service == "manager":  # writes go on without it
            recorder.wait_for_more(ACKNOWLEDGEMENTS * 5, timeout_s=30.0)
        undone = time.monotonic()
        stack.docker("start", stack.container(service))
        after = stack.wait_healthy()["writer"]
        healthy_s = time.monotonic() - undone
        recorder.wait_for_more(ACKNOWLEDGEMENTS, timeout_s=30.0)
        moved = after if after != writer else None
        outage_s = recorder.outage_s(begun)
        outcomes.append(Outcome(fault="docker kill", victim=service, outage_s=outage_s, moved_to=moved, healthy_s=healthy_s))
    return outcomes


def verdict(stack: Stack, recorder: Recorder, door: str) -> Verdict:
    """Compare the table at *door* with what was acknowledged, when it has replayed all there is."""
    position = asyncio.run(_ask(stack.dsn("writer"), "SELECT pg_current_wal_flush_lsn()::text"))
    deadline = time.monotonic() + REPLAY_S
    question = f"SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() >= '{position}'::pg_lsn ELSE true END"
    while not asyncio.run(_ask(stack.dsn(door), question)):
        if time.monotonic() > deadline:
            raise CommandError(f"{door} has not replayed up to {position} within {REPLAY_S:g} s")
        time.sleep(0.1)
    return recorder.check(stack.dsn(door))


async def _ask(dsn: str, question: str, context: ssl.SSLContext | None = None) -> object:
    async with asyncio.timeout(10.0):
        connection = await asyncpg.connect(dsn, statement_cache_size=0, ssl=context)
    try:
        async with asyncio.timeout(10.0):
            return await connection.fetchval(question)
    finally:
        connection.terminate()
