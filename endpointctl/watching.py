"""`status`, `events`, `explain`, `history`, `wait`: what the manager knows, printed."""

from __future__ import annotations

import re
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from daemonkit.exits import WrongUsage
from endpointctl import completing, output
from endpointctl.options import REQUEST_TIMEOUT_S, Target, command, within
from pgtopology.epoch import NUMBER_MAX

if TYPE_CHECKING:
    from datetime import datetime

WAIT_TIMEOUT_S = 60.0
_DURATION = re.compile(r"([0-9]{1,9})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
WATCH_S = 0.5
STREAM_IDLE_S = 3600.0
"""A quiet cluster has nothing to tell for a long time; a dead connection is noticed by the kernel."""

JsonOption = Annotated[bool, typer.Option("--json", help="For programs: JSON as documented.")]


def register(app: typer.Typer) -> None:
    """Add this group's commands to *app*."""
    for function in (status, events, explain, history):
        command(app, waits_s=REQUEST_TIMEOUT_S)(function)
    command(app, waits_s=WAIT_TIMEOUT_S)(wait)


def status(
    target: Target,
    as_json: JsonOption = False,
    watch: Annotated[bool, typer.Option("--watch", help="Stay and show changes until ^C.")] = False,
) -> None:
    """Show writer, nodes, quorum and endpoints."""
    import asyncio

    from endpointctl.api import STATUS_PATH, fetch_status, manager, standing_of
    from endpointctl.local.standing import trouble_in, with_programs

    async def once() -> None:
        async with manager(target) as client:
            timeout_s = target.timeout_or(REQUEST_TIMEOUT_S)
            if as_json:
                output.json_document(
                    with_programs(await client.get(STATUS_PATH, timeout_s=timeout_s), await standing_of(target))
                )
            else:
                from endpointctl.render import status_view

                seen = await fetch_status(client, timeout_s=timeout_s)
                output.view(status_view(seen, trouble_in(await standing_of(target))))

    async def stay() -> None:
        from rich.live import Live
        from rich.text import Text

        from daemonkit.escape import visible
        from daemonkit.httpanswers import HttpUnavailable
        from endpointctl.listing import Fitted
        from endpointctl.render import progress_phrases, status_view

        console = output.console()
        with Live(console=console, auto_refresh=False, screen=True) if console.is_terminal else nullcontext() as live:
            told: dict[str, str] = {}
            async with manager(target) as client:
                while True:
                    try:
                        seen = await fetch_status(client)
                        trouble = trouble_in(await standing_of(target))
                        phrases = {
                            "": f"{seen.state} {seen.diagnosis}",
                            **progress_phrases(seen),
                            "programs": " ".join(trouble),
                        }
                        view = status_view(seen, trouble)
                    except HttpUnavailable as error:
                        text = visible(f"the manager does not answer: {error}")
                        view, phrases = Text(text, style="red"), {"": text}
                    if live is not None:
                        live.update(Fitted(view, "a higher window or `endpointctl status` has them"), refresh=True)
                    elif phrases != told:
                        # Into a file or a pipe: the whole again whenever something has happened.
                        told = phrases
                        console.print(view)
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
    after: Annotated[
        int,
        typer.Option(
            "--after",
            metavar="SEQUENCE",
            callback=within(0, NUMBER_MAX),
            help="Only events after this number.",
        ),
    ] = 0,
    everything: Annotated[
        bool, typer.Option("--all", help="The manager's plans too: what it thought, not only what happened.")
    ] = False,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="TIME|DURATION", help="Only newer ones: 2026-11-29T10:00, or 90s, 15m, 2h, 3d ago."),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option("--kind", metavar="KIND[,...]", help="Only of these kinds: failover, operator, voters.changed, plan ..."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print what happened, with step times, and what operators ordered.

    The steps of a failover carry the milliseconds since its detection.
    """
    import asyncio
    from datetime import UTC, datetime

    from endpointctl.api import manager
    from endpointctl.chronicle import event_lines
    from pgtopology.codec import decode
    from pgtopology.event import NO_STORY, Event, kinds_of

    if everything and kind is not None:
        raise WrongUsage("--all and --kind exclude one another", hint="`--kind plan` shows plans alone")
    begin = read_since(since, datetime.now(UTC)) if since is not None else None
    try:
        wanted = kinds_of(name.strip() for name in kind.split(",")) if kind is not None else None
    except ValueError as error:
        raise WrongUsage(str(error)) from error

    def is_wanted(event: Event) -> bool:
        if begin is not None and datetime.fromisoformat(event.at) < begin:
            return False
        return event.kind in wanted if wanted is not None else everything or event.kind not in NO_STORY

    async def run() -> None:
        idle_s = STREAM_IDLE_S if follow else target.timeout_or(REQUEST_TIMEOUT_S)
        async with manager(target) as client:
            async for line in client.lines(f"/v1/events?after={after}&follow={int(follow)}", idle_timeout_s=idle_s):
                event = decode(line, Event)
                if not is_wanted(event):
                    continue
                if as_json:
                    output.json_line(line)
                else:
                    output.lines(event_lines(event, output.width()))

    try:
        asyncio.run(run())
    except KeyboardInterrupt:
        return


def read_since(text: str, now: datetime) -> datetime:
    """Return the moment that *text* names: a time, local if it says no zone, or a duration before *now*. Raises WrongUsage."""
    from datetime import datetime, timedelta

    try:
        if (found := _DURATION.fullmatch(text.strip())) is not None:
            return now - timedelta(seconds=int(found[1]) * _SECONDS[found[2]])
        return datetime.fromisoformat(text.strip()).astimezone()
    except (ValueError, OverflowError) as error:
        hint = "give a time such as 2026-11-29T10:00, or how long ago: 90s, 15m, 2h, 3d"
        raise WrongUsage(f'"{text}" is no time', hint=hint) from error


def explain(
    target: Target,
    epoch: Annotated[
        int | None,
        typer.Argument(metavar="[EPOCH]", callback=within(1, NUMBER_MAX), help="With --failover: which one (the newest)."),
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

    from endpointctl.api import manager
    from endpointctl.chronicle import event_lines, history_view
    from pgtopology.codec import decode
    from pgtopology.history import History

    async def run() -> None:
        async with manager(target) as client:
            body = await client.get("/v1/history", timeout_s=target.timeout_or(REQUEST_TIMEOUT_S))
            told = decode(body, History)
        if as_json:
            output.json_document(body)
            return
        output.view(history_view(told.writers))
        others = [event for event in told.events if not event.kind.endswith(".opened")]
        if others:
            output.line("who votes, pauses, and what else changed without another writer:")
        for event in others:
            output.lines(event_lines(event, output.width()))

    asyncio.run(run())


def wait(
    target: Target,
    state: Annotated[
        str | None, typer.Option("--state", metavar="STATE", help="For example healthy.", autocompletion=completing.states)
    ] = None,
    epoch: Annotated[
        int | None,
        typer.Option("--epoch", metavar="N", callback=within(1, NUMBER_MAX), help="This epoch's writer or a later one."),
    ] = None,
) -> None:
    """Wait for a state or an epoch.

    Exit code 3 says that it did not come in time.
    """
    import asyncio

    from endpointctl.api import manager, wait_for_status
    from pgtopology.status import Status

    if (state is None) == (epoch is None):
        raise WrongUsage("wait needs either --state or --epoch")
    if state is not None and state not in completing.STATES:
        raise WrongUsage(f'"{state}" is no state of a cluster', hint=f"states are {', '.join(completing.STATES)}")
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

    from endpointctl.api import manager
    from endpointctl.chronicle import explanation_lines
    from pgtopology.codec import decode
    from pgtopology.explanation import Explanation

    async def run() -> None:
        async with manager(target) as client:
            body = await client.get("/v1/explain", timeout_s=target.timeout_or(REQUEST_TIMEOUT_S))
            if as_json:
                output.json_document(body)
                return
            for line in explanation_lines(decode(body, Explanation)):
                output.line(line)

    asyncio.run(run())


def _print_flight(target: Target, epoch: int | None, *, as_json: bool) -> None:
    """Print the record of a failover."""
    import asyncio

    from endpointctl.api import manager
    from endpointctl.flightstory import flight_view
    from pgtopology.codec import decode
    from pgtopology.flight import Flight

    async def run() -> None:
        async with manager(target) as client:
            path = f"/v1/failovers/{epoch if epoch is not None else 'latest'}"
            body = await client.get(path, timeout_s=target.timeout_or(REQUEST_TIMEOUT_S))
            if as_json:
                output.json_document(body)
            else:
                output.view(flight_view(decode(body, Flight)))

    asyncio.run(run())
