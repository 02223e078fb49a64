"""The life of a program: start, readiness, reload, drain, exit code.

SIGTERM and SIGINT ask the program to stop: `stopping` is set, and the program ends by itself when it has drained.  The
second such signal cancels it, unless it said what it does instead.  SIGHUP runs the reload callbacks.  Exit code 0 means an
orderly end, 1 that the program failed or was cancelled.

Whoever supervises us and listens (sd_notify: systemd, or the supervisor of a local cluster) is told of each step, and where
its watchdog is on, that the loop turns.  A loop that stands still is given up and ended; by SIGABRT it leaves the traceback of
every thread on standard error.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable

from daemonkit.descriptors import allow_descriptors
from daemonkit.logs import get_logger
from daemonkit.looplag import LoopLag
from daemonkit.settings import SettingsError

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
WORDS_PER_PATIENCE = 5
"""How often the service manager hears of us within the time after which it gives us up."""


class Lifecycle:
    """What a program is told of its own life, and what it tells."""

    def __init__(self) -> None:
        self.stopping = asyncio.Event()
        """Set by the first SIGTERM or SIGINT, or by the program itself when it wants to end."""
        self.lag = LoopLag(interval_s=0.2)
        """Of the program's loop, measured as long as it lives."""
        self.at_second_stop: Callable[[], None] | None = None
        """What to do instead of cancelling the program when it is asked to stop again."""
        self._reload_callbacks: list[Callable[[], None]] = []

    def notify_ready(self) -> None:
        """Tell the service manager that the program serves now."""
        _sd_notify("READY=1")

    def on_reload(self, callback: Callable[[], None]) -> None:
        """Call *callback* on the event loop at each SIGHUP. One that raises is logged; the program goes on as it was."""
        self._reload_callbacks.append(callback)

    def reload(self) -> None:
        """Run the reload callbacks now."""
        log = get_logger()
        _sd_notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        for callback in self._reload_callbacks:
            try:
                callback()
            except SettingsError as error:
                log.error("reload failed, the former settings stay", reason=str(error))
            except Exception:
                log.exception("reload failed, the former settings stay")
        _sd_notify("READY=1")


def run(main: Callable[[Lifecycle], Awaitable[None]], *, is_parent: bool = False) -> int:
    """Run *main* to its end on a new event loop, with all the descriptors there are; return the exit code of the process.

    A program that *is_parent* waits for its children itself: its loop leaves it SIGCHLD, which the fastest one does not.
    """
    with contextlib.suppress(OSError, ValueError, AttributeError):  # standard error may be no file
        faulthandler.enable()
    allow_descriptors()
    with asyncio.Runner(loop_factory=asyncio.new_event_loop if is_parent else loop_factory()) as runner:
        return runner.run(_live(main))


async def _live(main: Callable[[Lifecycle], Awaitable[None]]) -> int:
    log = get_logger()
    life = Lifecycle()
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None

    def on_stop(number: signal.Signals) -> None:
        if life.stopping.is_set():
            log.warning("stopping at once", signal=number.name)
            (life.at_second_stop or task.cancel)()
        else:
            log.info("stopping", signal=number.name)
            _sd_notify("STOPPING=1")
            life.stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_stop, number)
    loop.add_signal_handler(signal.SIGHUP, life.reload)
    life.lag.publish()
    chores = [loop.create_task(life.lag.watch(), name="loop lag"), loop.create_task(_tell_alive(), name="watchdog")]
    try:
        await main(life)
    except asyncio.CancelledError:
        # This is the outermost task: nobody above it waits for the cancellation, and the exit code says what happened.
        log.warning("cancelled before the end")
        return EXIT_FAILED
    except Exception:
        log.exception("the program failed")
        return EXIT_FAILED
    finally:
        for chore in chores:
            chore.cancel()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(number)
    log.info("stopped")
    return EXIT_DONE


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """Return the maker of the fastest event loop there is here."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


async def _tell_alive() -> None:
    """Tell the service manager again and again that the loop turns, if it asked for it. Source: sd_watchdog_enabled(3)."""
    asked_us = os.environ.get("WATCHDOG_USEC", "")
    if not asked_us.isdecimal() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return
    while True:
        _sd_notify("WATCHDOG=1")
        await asyncio.sleep(int(asked_us) / 1e6 / WORDS_PER_PATIENCE)


def _sd_notify(state: str) -> None:
    """Tell systemd *state*, if it asked to be told. Source: sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    # A service manager that does not listen is no reason to fail: it will draw its own conclusions.
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.setblocking(False)
        channel.sendto(state.encode(), address)
