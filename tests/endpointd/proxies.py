"""The proxy as a process of its own, as it is run in life."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from daemonkit.httpclient import HttpClient, HttpError
from endpointd.admin import Health, Sessions
from testkit.feedserver import TOKEN
from testkit.ports import free_port
from testkit.warm import Forked, WarmProgram

ENDPOINTD = WarmProgram("endpointd.daemon", ["--version"])
RELAYED = ("host all all all relay", "host replication all all relay")


@dataclass
class Proxy:
    """A running proxy."""

    process: Forked
    writer_port: int
    reader_port: int
    http_port: int
    log: Path
    config: Path

    def reload(self, *changes: tuple[str, str]) -> None:
        """Make *changes* to the settings file and send SIGHUP."""
        text = self.config.read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        self.config.write_text(text)
        self.process.send_signal(signal.SIGHUP)

    async def wait_for_log(self, words: str, times: int = 1) -> None:
        """Wait until the log says *words*, so many *times*."""
        try:
            async with asyncio.timeout(10):
                while self.log.read_text().count(words) < times:
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(f"no {words!r} in\n{self.log.read_text()}") from None

    async def metric(self, name: str, **labels: str) -> float:
        """Return a sample of /metrics, 0 if there is none."""
        for family in text_string_to_metric_families((await self.get("/metrics")).decode()):
            for sample in family.samples:
                if sample.name == name and sample.labels == labels:
                    return sample.value
        return 0.0

    async def wait_for_metric(self, name: str, wanted: float, **labels: str) -> None:
        """Wait until a sample of /metrics is *wanted*."""
        value = None
        try:
            async with asyncio.timeout(10):
                while (value := await self.metric(name, **labels)) != wanted:
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(f"{name} is {value}\n{self.log.read_text()}") from None

    async def get(self, path: str) -> bytes:
        async with HttpClient(f"http://127.0.0.1:{self.http_port}", TOKEN) as client:
            return await client.get(path, timeout_s=2)

    async def health(self) -> Health:
        return msgspec.json.decode(await self.get("/health"), type=Health)

    async def sessions(self) -> Sessions:
        return msgspec.json.decode(await self.get("/v1/sessions"), type=Sessions)

    async def wait_for_health(self, **fields: object) -> Health:
        """Wait until *fields* of /health are so."""
        health: Health | None = None
        try:
            async with asyncio.timeout(10):
                while True:
                    with contextlib.suppress(HttpError):
                        health = await self.health()
                        if all(getattr(health, name) == value for name, value in fields.items()):
                            return health
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(f"{health}\n{self.log.read_text()}") from None

    def another(self) -> Forked:
        """Start another process of the same settings, which may take over."""
        return _start(self.config, self.log)

    @property
    def rss_bytes(self) -> int:
        """The memory of the process."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")

    @property
    def rss_peak_bytes(self) -> int:
        """The most it ever had."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmHWM")


@contextlib.asynccontextmanager
async def proxy(
    directory: Path,
    feed_ports: Sequence[int],
    *,
    limits: str = "",
    fallback_to_writer: bool = True,
    more: str = "",
    level: str = "debug",
    ports: tuple[int, int, int] | None = None,
    rules: Sequence[str] = RELAYED,
    name: str = "proxy-1",
    at_writer: str = "",
    in_proxy: str = "",
    engine: str = "auto",
) -> AsyncIterator[Proxy]:
    """Run a proxy that follows the feeds at *feed_ports*; *more* is put at the end of its settings.

    The servers of these tests have no noded that could tell their roles, so they authenticate the clients themselves.
    """
    directory.mkdir(exist_ok=True)
    writer_port, reader_port, http_port = ports or (free_port(), free_port(), free_port())
    token = directory / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    config = directory / "endpointd.toml"
    urls = ", ".join(f'"http://127.0.0.1:{port}"' for port in feed_ports)
    config.write_text(f"""
[proxy]
name = "{name}"
engine = "{engine}"
cache = "{directory / "topology.json"}"
{in_proxy}
[feed]
urls = [{urls}]
token_file = "{token}"
[nodeds]
token_file = "{token}"
[writer]
host = "127.0.0.1"
port = {writer_port}
rules = {json.dumps(rules)}
{at_writer}
[reader]
host = "127.0.0.1"
port = {reader_port}
rules = {json.dumps(rules)}
fallback_to_writer = {str(fallback_to_writer).lower()}
[limits]
{limits}
[http]
host = "127.0.0.1"
port = {http_port}
token_file = "{token}"
[logs]
level = "{level}"
{more}
""")
    log = directory / "log"
    process = _start(config, log)
    running = Proxy(process, writer_port, reader_port, http_port, log, config)
    try:
        await running.wait_for_health()
        yield running
    finally:
        await _stop(running)


@contextlib.asynccontextmanager
async def successor(first: Proxy) -> AsyncIterator[Proxy]:
    """Run another process of the settings of *first*, which has taken over from whoever served."""
    taken = first.log.read_text().count("this one drains")
    process = first.another()
    running = Proxy(process, first.writer_port, first.reader_port, first.http_port, first.log, first.config)
    try:
        await running.wait_for_log("this one drains", taken + 1)
        await running.wait_for_health(status="serving")
        yield running
    finally:
        await _stop(running)


def _start(config: Path, log: Path) -> Forked:
    with log.open("ab") as output:
        env = {**os.environ, "PYTHONASYNCIODEBUG": ""}
        return ENDPOINTD.start(["--config", str(config)], env=env, out=output.fileno(), err=output.fileno())


async def _stop(running: Proxy) -> None:
    if running.process.returncode is None:
        running.process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(20):
        await running.process.wait()
    text = running.log.read_text()
    assert "Traceback" not in text, text
