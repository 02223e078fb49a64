"""One cluster, its primary killed again and again, in peace and under attack; what that cost, and whether it was too much.

Everything is driven as an operator drives it: status over HTTP with a token, on new connections, from the attacker's own
address.  Numbers are compared with those of the quiet kills of the same run, never with a clock's.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from testkit.cluster import ROOT, Cluster
from testkit.ledger import Recorder
from testkit.processes import resident_bytes
from tests.hostile_network.attacks import LISTENERS, Listener, Way, attack_on

OUTAGE_FACTOR = 2.0
OUTAGE_MORE_S = 1.0
"""The median outage may be so many times the quiet one, or so much more, whichever is greater."""
MEMORY_FACTOR = 2.0
"""What a program may have in memory, compared with the peace before."""
LAG_MORE_S = 1.0
"""How much longer than in peace a loop may stand still, with an attacker on the same two processors."""
READY_S = 60.0
HEALTHY_S = 120.0
ENDED_S = 30.0
PROGRAMS = {"cluster_manager": 80, "endpointd": 90, "n1": 60, "n2": 61, "n3": 62}
"""Each with the offset of the port where its metrics are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a number of kills cost."""

    outages_s: tuple[float, ...]
    lag_s: float
    """The longest that any program's loop stood still."""
    memory: dict[str, int]
    """Bytes of each program, at the most that was seen."""

    @property
    def median_s(self) -> float:
        """Of the outages."""
        return statistics.median(self.outages_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One listener under one attack."""

    listener: Listener
    way: Way
    measured: Measured
    crowd: str
    problems: tuple[str, ...] = field(default=())


def combinations() -> list[tuple[Listener, Way]]:
    """Return everything there is to try."""
    return [(listener, way) for listener in LISTENERS for way in Way if attack_on(listener, way) is not None]


def few() -> list[tuple[Listener, Way]]:
    """Return one attack on each listener, each way at least once: what is tried with every change."""
    ways = {
        "manager": Way.HALF,
        "noded": Way.IDLE,
        "proxy admin": Way.MALFORMED,
        "dns tcp": Way.PIPELINED,
        "dns udp": Way.PIPELINED,
        "writer": Way.PIPELINED,
        "reader": Way.HALF,
    }
    return [(listener, ways[listener.name]) for listener in LISTENERS]


def problems(measured: Measured, quiet: Measured) -> tuple[str, ...]:
    """Return in which ways *measured* is too much, compared with *quiet*."""
    found: list[str] = []
    allowed_s = max(OUTAGE_FACTOR * quiet.median_s, quiet.median_s + OUTAGE_MORE_S)
    if measured.median_s > allowed_s:
        found.append(f"the median outage of {measured.median_s:.2f} s is more than {allowed_s:.2f} s")
    if measured.lag_s > quiet.lag_s + LAG_MORE_S:
        found.append(f"a loop stood still for {measured.lag_s:.2f} s, in peace {quiet.lag_s:.2f} s")
    for program, most in measured.memory.items():
        if most > MEMORY_FACTOR * quiet.memory[program]:
            found.append(f"{program} took {most >> 20} MB, in peace {quiet.memory[program] >> 20} MB")
    return tuple(found)


class Suite:
    """The cluster and the clients that record what they are told."""

    def __init__(
        self, cluster: Cluster, recorder: Recorder, *, kills: int, quiet_kills: int, say: Callable[[str], None]
    ) -> None:
        self._cluster = cluster
        self._recorder = recorder
        self._kills = kills
        self._say = say
        self.quiet = self._measure(quiet_kills)
        say(f"quiet: {shown(self.quiet)}")

    def play(self, listener: Listener, way: Way) -> Trial:
        """Kill the primary while *listener* is attacked."""
        self._cluster.wait_healthy(timeout_s=HEALTHY_S)
        pids = self._pids()
        ports = [self._cluster.port(offset) for offset in listener.offsets]
        told: list[str] = []
        with attacking(listener, way, ports, told):
            measured = self._measure(self._kills)
        trial = Trial(
            listener=listener,
            way=way,
            measured=measured,
            crowd=told[-1] if told else "",
            problems=(
                *problems(measured, self.quiet),
                *(f"{program} ended" for program, pid in self._pids().items() if pid != pids[program]),
            ),
        )
        self._say(f"{listener.name}, {way}: {shown(measured)}, {trial.crowd}{''.join(f'; {text}' for text in trial.problems)}")
        return trial

    def _measure(self, kills: int) -> Measured:
        outages: list[float] = []
        memory: dict[str, int] = {}
        before = self._stalls()
        for _ in range(kills):
            outages.append(self._kill())
            for program, pid in self._pids().items():
                memory[program] = max(memory.get(program, 0), resident_bytes(pid))
        after = self._stalls()
        # The gauge remembers a minute: what stood still in an earlier trial is not counted again.
        lag_s = max((lag_s for program, (count, lag_s) in after.items() if count > before[program][0]), default=0.0)
        return Measured(outages_s=tuple(outages), lag_s=lag_s, memory=memory)

    def _kill(self) -> float:
        """Kill the primary once; return the longest time without an acknowledgement that came of it."""
        before = self._cluster.wait_healthy(timeout_s=HEALTHY_S)
        writer = next(node for node in before.nodes if node.name == before.writer)
        assert writer.pid is not None
        self._recorder.wait_for_more(50, timeout_s=HEALTHY_S)
        at = time.monotonic()
        os.kill(writer.pid, signal.SIGKILL)
        self._cluster.wait_for_epoch_after(before.epoch, timeout_s=HEALTHY_S)
        self._recorder.wait_for_more(50, timeout_s=HEALTHY_S)
        return self._recorder.outage_s(at)

    def _pids(self) -> dict[str, int]:
        return {program: self._cluster.pid_of(program) for program in PROGRAMS}

    def _stalls(self) -> dict[str, tuple[float, float]]:
        """Return how often each program's loop stood still so far, and for how long at most in the last minute."""
        token = (self._cluster.data_dir / "run" / "token-scrape").read_text().strip()
        found: dict[str, tuple[float, float]] = {}
        for program, offset in PROGRAMS.items():
            url = f"http://127.0.0.1:{self._cluster.port(offset)}/metrics"
            request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
            with urllib.request.urlopen(request, timeout=ENDED_S) as answer:  # noqa: S310 - http to 127.0.0.1
                text = answer.read().decode()
            values = {sample.name: sample.value for family in text_string_to_metric_families(text) for sample in family.samples}
            found[program] = (values["endpointd_loop_stalls_total"], values["endpointd_loop_lag_seconds"])
        return found


@contextlib.contextmanager
def attacking(listener: Listener, way: Way, ports: list[int], told: list[str]) -> Generator[None, None, None]:
    """Attack for the length of the block, from a process of its own; its last words are put into *told*."""
    command = [sys.executable, "-m", "tests.hostile_network.attacker", listener.name, way, *map(str, ports)]
    attacker = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert attacker.stdin is not None
    assert attacker.stdout is not None
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(attacker.stdout, selectors.EVENT_READ)
            assert selector.select(READY_S), "the attacker is not ready"
        assert attacker.stdout.readline().strip() == "ready", "the attacker failed"
        yield
        assert attacker.poll() is None, "the attacker ended before its time"
        attacker.stdin.close()
        told.append(attacker.stdout.read().strip())
        assert attacker.wait(ENDED_S) == 0, "the attack did not take place"
    finally:
        if attacker.poll() is None:
            attacker.kill()
            attacker.wait()


def shown(measured: Measured) -> str:
    """Return *measured* on one line."""
    outages = ", ".join(f"{one:.2f}" for one in measured.outages_s)
    most = max(measured.memory.items(), key=lambda item: item[1])
    lag = f"loops late by {measured.lag_s:.2f} s"
    return f"outages {outages} s (median {measured.median_s:.2f}), {lag}, {most[0]} {most[1] >> 20} MB"
