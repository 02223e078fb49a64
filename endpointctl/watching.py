"""`status`, `events`, `explain`, `history`, `wait`: what the manager knows, printed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from endpointctl import completing
from endpointctl.exits import WrongUsage
from endpointctl.options import Target, command

if TYPE_CHECKING:
    from rich.console import Console

WAIT_TIMEOUT_S = 60.0
WATCH_S = 0.5
STREAM_IDLE_S = 3600.0
"""A quiet cluster has nothing to tell for a long time; a dead connection is noticed by the kernel."""

JsonOption = Annotated[bool, typer.Option("--json", help="For programs: JSON as documented.")]


def register(app: typer.Typer) -> None:
    """Add this group's commands to *app*."""
    for function in (status, events, explain, history, wait):
        command(app)(function)


def status(
    target: Target,
    as_json: JsonOption = False,
    watch: Annotated[bool, typer.Option("--watch", help="Stay and show changes until ^C.")] = False,
) -> None:
    """Show writer, nodes, quorum and endpoints."""
    import asyncio

    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from endpointctl.api import REQUEST_TIMEOUT_S, STATUS_PATH, fetch_status, manager
    from endpointctl.render import status_view

    async def once() -> None:
        async with manager(target) as client:
            timeout_s = target.timeout_or(REQUEST_TIMEOUT_S)
            if as_json:
                typer.echo((await client.get(STATUS_PATH, timeout_s=timeout_s)).decode().rstrip())
            else:
                _console().print(status_view(await fetch_status(client, timeout_s=timeout_s)))

    async def stay() -> None:
        from daemonkit.httpclient import HttpUnavailable

        console = Console()
        with Live(console=console, auto_refresh=False, screen=console.is_terminal) as live:
            async with manager(target) as client:
                while True:
                    try:
                        view = status_view(await fetch_status(client))
                    except HttpUnavailable as error:
                        view = Text(f"the manager does not answer: {error}", style="red")
                    live.update(view, refresh=True)
                    await asyncio.sleep(WATCH_S)

    if watch and as_json:
        raise WrongUsage("--watch is for people and --json for programs", hint="use `events --follow --json` to follow")
    if not watch:
        asyncio.run(once())
        return
    try:
        asyncio.run(stay())
    except KeyboardInterrupt:
        return


def events(
    target: Target,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Stay and print new ones until ^C.")] = False,
    after: Annotated[int, typer.Option("--after", metavar="SEQUENCE", min=0, help="Only events after this number.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Print what happened, with step times.

    The steps of a failover carry the milliseconds since its detection.
    """
    import asyncio

    from endpointctl.api import REQUEST_TIMEOUT_S, manager
    from endpointctl.render import event_line
    from pgtopology.codec import decode
    from pgtopology.event import Event

    async def run() -> None:
        idle_s = STREAM_IDLE_S if follow else target.timeout_or(REQUEST_TIMEOUT_S)
        async with manager(target) as client:
            async for line in client.lines(f"/v1/events?after={after}&follow={int(follow)}", idle_timeout_s=idle_s):
                print(line.decode() if as_json else event_line(decode(line, Event)), flush=True)

    try:
        asyncio.run(run())
    except KeyboardInterrupt:
        return


def explain(
    target: Target,
    epoch: Annotated[
        int | None, typer.Argument(metavar="[EPOCH]", min=1, help="With --failover: which one (the newest).")
    ] = None,
    failover: Annotated[
        bool, typer.Option("--failover", help="Tell how a failover or switchover went, from its record.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say why the manager does what it does.

    With --failover: what it did, and how every millisecond of the outage was spent.
    """
    if not failover:
        if epoch is not None:
            raise WrongUsage("an epoch is for --failover", hint=f"`endpointctl explain --failover {epoch}`")
        _print_explanation(target, as_json=as_json)
        return
    _print_flight(target, epoch, as_json=as_json)


def history(target: Target, as_json: JsonOption = False) -> None:
    """List the writers of the past: timelines, where they began, why, and how long nobody could write."""
    import asyncio

    from endpointctl.api import REQUEST_TIMEOUT_S, manager
    from endpointctl.render import event_line, history_table
    from pgtopology.codec import decode
    from pgtopology.history import History

    async def run() -> None:
        async with manager(target) as client:
            body = await client.get("/v1/history", timeout_s=target.timeout_or(REQUEST_TIMEOUT_S))
            told = decode(body, History)
        if as_json:
            typer.echo(body.decode().rstrip())
            return
        _console().print(history_table(told.writers))
        for event in told.events:
            if not event.kind.endswith(".opened"):
                typer.echo(event_line(event))

    asyncio.run(run())


def wait(
    target: Target,
    state: Annotated[
        str | None, typer.Option("--state", metavar="STATE", help="For example healthy.", autocompletion=completing.states)
    ] = None,
    epoch: Annotated[int | None, typer.Option("--epoch", metavar="N", help="A writer of this epoch or a later one.")] = None,
) -> None:
    """Wait for a state or an epoch.

    Exit code 3 says that it did not come in time.
    """
    import asyncio

    from endpointctl.api import manager, wait_for_status
    from pgtopology.status import Status

    if (state is None) == (epoch is None):
        raise WrongUsage("wait needs either --state or --epoch")
    wanted = f"in state {state}" if state is not None else f"in epoch {epoch}"

    def is_met(seen: Status) -> bool:
        if epoch is not None:
            return seen.epoch >= epoch and seen.writer is not None
        return seen.state == state

    async def run() -> None:
        async with manager(target) as client:
            await wait_for_status(client, is_met, timeout_s=target.timeout_or(WAIT_TIMEOUT_S), wanted=wanted)

    asyncio.run(run())


def _print_explanation(target: Target, *, as_json: bool) -> None:
    import asyncio

    from endpointctl.api import REQUEST_TIMEOUT_S, manager
    from endpointctl.render import explanation_lines
    from pgtopology.codec import decode
    from pgtopology.explanation import Explanation

    async def run() -> None:
        async with manager(target) as client:
            body = await client.get("/v1/explain", timeout_s=target.timeout_or(REQUEST_TIMEOUT_S))
            if as_json:
                typer.echo(body.decode().rstrip())
                return
            for line in explanation_lines(decode(body, Explanation)):
                typer.echo(line)

    asyncio.run(run())


def _print_flight(target: Target, epoch: int | None, *, as_json: bool) -> None:
    """Print the record of a failover."""
    import asyncio

    from endpointctl.api import REQUEST_TIMEOUT_S, manager
    from endpointctl.flightstory import flight_view
    from pgtopology.codec import decode
    from pgtopology.flight import Flight

    async def run() -> None:
        async with manager(target) as client:
            path = f"/v1/failovers/{epoch if epoch is not None else 'latest'}"
            body = await client.get(path, timeout_s=target.timeout_or(REQUEST_TIMEOUT_S))
            if as_json:
                typer.echo(body.decode().rstrip())
            else:
                _console().print(flight_view(decode(body, Flight)))

    asyncio.run(run())


def _console() -> Console:
    from rich.console import Console

    console = Console()
    # A pipe has no width of its own; lines must not be folded for it.
    return console if console.is_terminal else Console(width=200)
