"""`up` in the foreground: the cluster lives as long as the command; ^C stops it cleanly, a second ^C harshly.

The processes are not in our session, so ^C reaches this command alone, and this command tells the supervisor.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Coroutine, Iterator
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from daemonkit.escape import visible
from daemonkit.exits import Failure
from daemonkit.httpanswers import HttpError
from daemonkit.linesocket import PeerGone, PeerSilent, ask
from daemonkit.oneshot import OneShotClient
from daemonkit.processes import ended
from daemonkit.secrets import read_secret
from deployment.local.layout import Layout
from deployment.local.plan import Plan
from endpointctl import output
from endpointctl.api import fetch_status
from endpointctl.listing import Fitted
from endpointctl.local.leaving import stop_local_cluster
from endpointctl.local.standing import ask_standing
from endpointctl.local.terminal import let_go_of_terminal
from endpointctl.local.watching import Say, hurry, shut_down, until_usable
from endpointctl.render import progress_phrases, status_view
from pgtopology.codec import MessageError
from pgtopology.supervision import Answer, Order
from supervisor.door import find_supervisor, supervisor_ended, supervisor_lives

REFRESH_S = 0.5
WITHOUT_SUPERVISOR_S = 60.0
"""For stopping what a frozen supervisor leaves."""


class Foreground:
    """One `up` in the foreground."""

    def __init__(self, layout: Layout, plan: Plan, console: Console, welcome: list[str]) -> None:
        self._layout = layout
        self._plan = plan
        self._console = console
        self._welcome = welcome
        self._say = output.printer(console)
        self._stop = asyncio.Event()

    async def run(self, *, timeout_s: float) -> None:
        """Bring the cluster up, show it, and stop it when told to. Raises Failure."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._on_hang_up)
        failure: Failure | None = None
        try:
            with progress(self._console) as say:
                came_up = await self._unless_stopped(until_usable(self._layout, self._plan, timeout_s=timeout_s, say=say))
            if came_up:
                for line in self._welcome:
                    self._say(line)
                await self._unless_stopped(self._show())
        except Failure as error:
            failure = error
        if not await supervisor_lives(self._layout):
            raise failure or Failure(
                "the supervisor has ended; the other processes may live on",
                hint="`endpointctl up` adopts them, `endpointctl down` stops them",
            )
        await self._shut_down()
        if failure is not None:
            raise failure

    def _on_hang_up(self) -> None:
        let_go_of_terminal()
        self._stop.set()

    async def _unless_stopped(self, work: Coroutine[Any, Any, Any]) -> bool:
        """Do *work*; return False if the operator stopped it first."""
        working, stopped = asyncio.create_task(work), asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
                return True
            return False
        finally:
            for task in (working, stopped):
                task.cancel()
            await asyncio.gather(working, stopped, return_exceptions=True)

    async def _show(self) -> None:
        """Show the live status until the supervisor ends."""
        showing = asyncio.create_task(self._show_live() if self._console.is_terminal else self._show_lines())
        try:
            await supervisor_ended(self._layout)
        finally:
            showing.cancel()
            await asyncio.gather(showing, return_exceptions=True)

    async def _show_live(self) -> None:
        with Live(console=self._console, auto_refresh=False, transient=True) as live:
            client = OneShotClient(self._plan.api, read_secret(self._layout.token))
            while True:
                try:
                    status = await fetch_status(client, timeout_s=2.0)
                    trouble = (await ask_standing(self._layout)).trouble
                    view = Group(Text("^C stops the cluster", style="dim"), status_view(status, trouble))
                except (HttpError, MessageError) as error:
                    view = Text(visible(f"the manager does not answer: {error}"), style="red")
                live.update(Fitted(view, "`endpointctl status` has them"), refresh=True)
                await asyncio.sleep(REFRESH_S)

    async def _show_lines(self) -> None:
        told: dict[str, str] = {}
        client = OneShotClient(self._plan.api, read_secret(self._layout.token))
        while True:
            try:
                status = await fetch_status(client, timeout_s=2.0)
                phrases = {"state": f"cluster: {status.state}", **progress_phrases(status)}
            except (HttpError, MessageError):
                phrases = {"state": "cluster: the manager does not answer"}
            for key, text in phrases.items():
                if told and told.get(key) != text:
                    self._say(text)
            told = {**told, **phrases}
            await asyncio.sleep(REFRESH_S)

    async def _shut_down(self) -> None:
        loop = asyncio.get_running_loop()
        hurrying: list[asyncio.Task[None]] = []
        without = asyncio.Event()

        async def on_second() -> None:
            self._say("stopping harshly")
            if not await hurry(self._layout):
                without.set()

        def note_second() -> None:
            hurrying.append(asyncio.create_task(on_second()))

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, note_second)
        self._say("stopping (a second ^C is harsher)")
        work = (
            asyncio.create_task(shut_down(self._layout, self._say)),
            asyncio.create_task(self._tell_of_silence()),
            asyncio.create_task(without.wait()),
        )
        stopping, _, giving_up = work
        try:
            await asyncio.wait({stopping, giving_up}, return_when=asyncio.FIRST_COMPLETED)
            if stopping.done():
                stopping.result()
            else:
                await self._stop_without_supervisor()
        except PeerGone:
            raise Failure(
                "the supervisor ended while it was stopping the cluster", hint="`endpointctl down` stops what is left"
            ) from None
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, *hurrying, return_exceptions=True)
        self._say("stopped; `endpointctl up` brings the cluster back")

    async def _tell_of_silence(self) -> None:
        try:
            await ask(self._layout.control_socket, Order(do="list"), Answer)
        except PeerSilent:
            self._say("the supervisor does not answer; it stops the cluster when it does, a second ^C stops it without")
        except PeerGone:
            return

    async def _stop_without_supervisor(self) -> None:
        """Kill a supervisor that does not answer, and stop its programs one by one. Raises Failure."""
        supervisor = find_supervisor(self._layout)
        if supervisor is not None:
            with supervisor:
                supervisor.send(signal.SIGKILL)
                await ended(supervisor)
        await stop_local_cluster(self._layout, self._say, timeout_s=WITHOUT_SUPERVISOR_S)


@contextlib.contextmanager
def progress(console: Console, doing: str = "starting the cluster") -> Iterator[Say]:
    """Give a function that prints a line of progress, under a spinner on a terminal that says what we are *doing*."""

    say = output.printer(console)
    if console.is_terminal:
        with console.status(Text(visible(doing))):
            yield say
    else:
        yield say
