"""Hosts that are network namespaces on one bridge, which itself lives in a namespace: no address of ours is ever outside.

Needs root, `ip` and `iptables`.  Raises NotPossible where they or the right is missing.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from testkit.not_possible import NotPossible

NETWORK = "10.99.0"
CLONE_NEWNET = 0x40000000


class Hosts:
    """As many hosts as *names*, from `__enter__` to `__exit__`; the first one has the address 10.99.0.1."""

    def __init__(self, names: Sequence[str]) -> None:
        self._numbers = {name: number for number, name in enumerate(names, start=1)}
        self._prefix = f"endpointd{os.getpid()}"

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            raise NotPossible("network namespaces need root")
        for tool in ("ip", "iptables"):
            if shutil.which(tool) is None:
                raise NotPossible(f"there is no {tool}")
        try:
            self._make()
        except NotPossible:
            self._remove()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._remove()

    def address(self, name: str) -> str:
        """Return a host's address."""
        return f"{NETWORK}.{self._numbers[name]}"

    def command(self, name: str, *arguments: str) -> tuple[str, ...]:
        """Return the command that runs *arguments* on a host; the process it starts becomes *arguments* itself."""
        return ("ip", "netns", "exec", self._namespace(name), *arguments)

    @contextlib.contextmanager
    def entered(self, name: str) -> Iterator[None]:
        """Let this thread, and the threads and processes it starts meanwhile, be on a host."""
        libc = ctypes.CDLL(None, use_errno=True)
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        other = os.open(f"/run/netns/{self._namespace(name)}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if libc.setns(other, CLONE_NEWNET) != 0:
                raise NotPossible(f"setns: {os.strerror(ctypes.get_errno())}")
            yield
        finally:
            libc.setns(own, CLONE_NEWNET)
            os.close(own)
            os.close(other)

    @contextlib.contextmanager
    def cut(self, some: Sequence[str], others: Sequence[str]) -> Iterator[None]:
        """Drop every packet between *some* and *others*, in both directions."""
        try:
            for one in some:
                for other in others:
                    self._drop(at=one, sender=other)
                    self._drop(at=other, sender=one)
            yield
        finally:
            for name in (*some, *others):
                _run(*self.command(name, "iptables", "-w", "-F", "INPUT"))

    def _drop(self, *, at: str, sender: str) -> None:
        _run(*self.command(at, "iptables", "-w", "-A", "INPUT", "-s", self.address(sender), "-j", "DROP"))

    def _make(self) -> None:
        hub = self._namespace("hub")
        _run("ip", "netns", "add", hub)
        _run("ip", "-n", hub, "link", "add", "br0", "type", "bridge")
        _run("ip", "-n", hub, "link", "set", "br0", "up")
        for name, number in self._numbers.items():
            host = self._namespace(name)
            _run("ip", "netns", "add", host)
            _run("ip", "-n", hub, "link", "add", f"v{number}", "type", "veth", "peer", "name", "eth0", "netns", host)
            _run("ip", "-n", hub, "link", "set", f"v{number}", "master", "br0", "up")
            _run("ip", "-n", host, "addr", "add", f"{NETWORK}.{number}/24", "dev", "eth0")
            _run("ip", "-n", host, "link", "set", "eth0", "up")
            _run("ip", "-n", host, "link", "set", "lo", "up")

    def _remove(self) -> None:
        for name in (*self._numbers, "hub"):
            if Path(f"/run/netns/{self._namespace(name)}").exists():
                subprocess.run(("ip", "netns", "del", self._namespace(name)), check=False, capture_output=True)

    def _namespace(self, name: str) -> str:
        return f"{self._prefix}-{name}"


def _run(*arguments: str) -> None:
    done = subprocess.run(arguments, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise NotPossible(f"{' '.join(arguments)}: {done.stderr.strip()}")
