"""Lifecycle: signals, exit codes and what the service manager is told; each in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from daemonkit.looplag import LoopLag
from daemonkit.version import VERSION

ROOT = Path(__file__).parents[2]
PROGRAM = """
import asyncio, sys
from daemonkit.lifecycle import run
from daemonkit.logs import configure_logs
configure_logs(program="test")
async def main(life):
    life.on_reload(lambda: 1 / 0)
    life.on_reload(lambda: print("reloaded", flush=True))
    life.notify_ready()
    print("ready", flush=True)
    {body}
sys.exit(run(main))
"""


@contextmanager
def program(body: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(body=body)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT,
        env={"PATH": "", "PYTHONPATH": str(ROOT), **environment},
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def expect_line(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == line + "\n"


def test_the_first_signal_asks_and_the_second_cancels() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        with program("await life.stopping.wait(); print('draining', flush=True); await asyncio.sleep(60)") as process:
            expect_line(process, "ready")
            process.send_signal(number)
            expect_line(process, "draining")
            process.send_signal(number)
            assert process.wait(10) == 1


def test_an_orderly_end_is_exit_code_0() -> None:
    with program("await life.stopping.wait()") as process:
        expect_line(process, "ready")
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_a_failure_is_exit_code_1() -> None:
    with program("raise ExceptionGroup('x', [ValueError()])") as process:
        assert process.wait(10) == 1


def test_a_failing_reload_callback_does_not_keep_the_next_from_running() -> None:
    with program("await life.stopping.wait()") as process:
        expect_line(process, "ready")
        process.send_signal(signal.SIGHUP)
        expect_line(process, "reloaded")
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_the_service_manager_is_told(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(address)
        listener.settimeout(10)
        with program("await life.stopping.wait()", NOTIFY_SOCKET=address) as process:
            assert listener.recv(100) == b"READY=1"
            process.send_signal(signal.SIGTERM)
            assert listener.recv(100) == b"STOPPING=1"
            assert process.wait(10) == 0


def test_the_lag_counts_wake_ups_that_are_overdue() -> None:
    now = 0.0
    lag = LoopLag(interval_s=0.05, clock=lambda: now)
    lag.expect()
    now = 0.06
    assert round(lag.worst_ms(1.0)) == 10  # overdue, although the watcher has not run yet
    now = 0.25
    lag.sample()
    lag.expect()
    assert round(lag.worst_ms(1.0)) == 200
    now = 0.29
    assert round(lag.worst_ms(0.03)) == 0  # too old
    assert round(lag.worst_ms(1.0, after=now - 0.1)) == 60  # of 200 ms that ended 40 ms ago
    assert round(lag.worst_ms(0.1)) == 200


def test_a_loop_that_stood_still_is_remembered_for_a_minute() -> None:
    now = 0.0
    lag = LoopLag(interval_s=0.05, clock=lambda: now)
    for late in (0.09, 0.4, 0.2):
        lag.expect()
        now += 0.05 + late
        lag.sample()
    assert lag.stood_still_ms() == 400
    now += 59
    assert lag.stood_still_ms() == 400
    now += 2
    assert lag.stood_still_ms() == 0


def test_the_service_manager_hears_that_the_loop_turns_and_nothing_while_it_does_not(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(address)
        listener.settimeout(10)
        body = "await asyncio.sleep(0.3); import time; time.sleep(60)"
        with program(body, NOTIFY_SOCKET=address, WATCHDOG_USEC="100000") as process:
            assert listener.recv(100) == b"READY=1"
            assert [listener.recv(100) for _ in range(5)] == [b"WATCHDOG=1"] * 5
            listener.settimeout(1)
            with contextlib.suppress(TimeoutError):
                while True:
                    assert listener.recv(100) == b"WATCHDOG=1"
            process.send_signal(signal.SIGABRT)
            assert process.wait(10) == -signal.SIGABRT


async def test_a_blocked_loop_is_noticed_while_it_is_watched() -> None:
    lag = LoopLag(interval_s=0.01)
    task = asyncio.create_task(lag.watch())
    async with asyncio.timeout(10):
        await asyncio.sleep(0)  # the watcher begins
        time.sleep(0.2)  # noqa: ASYNC251 - to block the loop is the point
        assert lag.worst_ms(60) > 150
        while lag.worst_ms(60) < 150 or lag.worst_ms(0.001) > 150:
            await asyncio.sleep(0.005)
    task.cancel()
    await asyncio.wait([task])
    assert lag.worst_ms(60) > 150


def test_the_version_is_the_one_of_the_distribution() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == VERSION
