"""`sessions`: who is connected through the proxies, and ending some of them."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from daemonkit.exits import Failure, WrongUsage
from endpointctl import completing, output
from endpointctl.options import REQUEST_TIMEOUT_S, Target, command, within
from endpointctl.watching import JsonOption

if TYPE_CHECKING:
    from daemonkit.oneshot import OneShotClient
    from endpointctl.sessionview import Seen
    from pgtopology.sessions import SessionFilter

WATCH_S = 1.0
KILL_TIMEOUT_S = 30.0
"""Ten thousand sessions take a proxy a few seconds."""
SHOWN_ROWS = 200
"""Of a table for people, unless they say otherwise."""
LIMIT_MAX = 1_000_000
ALL = "all"
SORTS = ("id", "age", "bytes", "user", "database", "client", "node", "state")


def register(app: typer.Typer) -> None:
    """Add this group's commands to *app*."""
    command(app, waits_s=REQUEST_TIMEOUT_S)(sessions)


def sessions(
    target: Target,
    user: Annotated[str | None, typer.Option("--user", metavar="USER", help="Only of this user.")] = None,
    database: Annotated[str | None, typer.Option("--database", metavar="DATABASE", help="Only of this database.")] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(
            "--endpoint", metavar="ENDPOINT", help="Only at writer, reader or a node's own.", autocompletion=completing.doors
        ),
    ] = None,
    node: Annotated[
        str | None, typer.Option("--node", metavar="NODE", help="Only on this node.", autocompletion=completing.nodes)
    ] = None,
    state: Annotated[
        str | None,
        typer.Option(
            "--state",
            metavar="STATE",
            help="Only in this state: idle, in_transaction, busy; login stands for every login state.",
        ),
    ] = None,
    sort: Annotated[
        str, typer.Option("--sort", metavar="BY", help=f"{', '.join(SORTS)}; age, the oldest first, unless given.")
    ] = "age",
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            metavar="N",
            callback=within(1, LIMIT_MAX),
            help=f"Show so many; unless given {SHOWN_ROWS}, or all as JSON.",
        ),
    ] = None,
    kill: Annotated[
        list[str] | None,
        typer.Option(
            "--kill",
            metavar="ID|all",
            help="End this session, such as proxy-1:42; may be repeated. all: those that the filters name.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="With --kill all: do not ask.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Stay and show changes until ^C.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show who is connected through the proxies, and end sessions.

    A session that is ended is told 57P01, "terminating connection due to administrator command"; 08007 if what it was busy with
    may be a commit.
    """
    import asyncio

    from pgtopology.sessions import SessionFilter

    if sort not in SORTS:
        raise WrongUsage(f'"{sort}" is nothing to sort by', hint=f"sort by {', '.join(SORTS)}")
    if watch and as_json:
        raise WrongUsage("--watch is for people and --json for programs", hint="ask `sessions --json` again and again")
    if kill and watch:
        raise WrongUsage("--kill and --watch exclude one another")
    for name, value in {"user": user, "database": database, "endpoint": endpoint, "node": node, "state": state}.items():
        if value is not None and not 1 <= len(value) <= 200:
            raise WrongUsage(f"--{name} must have 1 to 200 characters")
    which = SessionFilter(user=user, database=database, endpoint=endpoint, node=node, state=state)
    try:
        if kill:
            asyncio.run(_kill(target, kill, which, yes=yes, as_json=as_json))
        elif watch:
            asyncio.run(_stay(target, which, sort, limit))
        else:
            asyncio.run(_once(target, which, sort, limit, as_json=as_json))
    except KeyboardInterrupt:
        if not watch:
            raise


async def _once(target: Target, which: SessionFilter, sort: str, limit: int | None, *, as_json: bool) -> None:
    from endpointctl.api import manager
    from endpointctl.sessionview import document, sessions_view

    async with manager(target) as client:
        seen = await fetch(client, which, timeout_s=target.timeout_or(REQUEST_TIMEOUT_S))
    if as_json:
        output.json_document(document(seen, sort, limit))
    else:
        output.view(sessions_view(seen, sort, limit or SHOWN_ROWS))


async def _stay(target: Target, which: SessionFilter, sort: str, limit: int | None) -> None:
    import asyncio

    from rich.live import Live
    from rich.text import Text

    from daemonkit.escape import visible
    from daemonkit.httpanswers import HttpUnavailable
    from endpointctl.api import manager
    from endpointctl.listing import Fitted
    from endpointctl.sessionview import sessions_view

    console = output.console()
    with Live(console=console, auto_refresh=False, screen=True) if console.is_terminal else nullcontext() as live:
        async with manager(target) as client:
            while True:
                try:
                    seen = await fetch(client, which, timeout_s=target.timeout_or(REQUEST_TIMEOUT_S))
                    view = sessions_view(seen, sort, limit or SHOWN_ROWS)
                except HttpUnavailable as error:
                    view = Text(visible(f"the manager does not answer: {error}"), style="red")
                if live is not None:
                    live.update(Fitted(view, "a higher window or `endpointctl sessions` has them"), refresh=True)
                else:
                    console.print(view)
                await asyncio.sleep(WATCH_S)


async def fetch(client: OneShotClient, which: SessionFilter, *, timeout_s: float) -> Seen:
    """Return the sessions that are meant, of all proxies. Raises HttpError, and MessageError for an answer that breaks off."""
    from urllib.parse import urlencode

    import msgspec

    from endpointctl.sessionview import Seen
    from pgtopology.codec import MessageError, decode
    from pgtopology.sessions import SessionId, SessionsPage, SessionsTold, SessionView

    query = urlencode({name: value for name, value in msgspec.structs.asdict(which).items() if value is not None})
    found: dict[SessionId, SessionView] = {}
    last = b""
    async for line in client.lines("/v1/sessions" + (f"?{query}" if query else ""), idle_timeout_s=timeout_s):
        if last:
            page = decode(last, SessionsPage)
            found.update((SessionId(page.proxy, view.session), view) for view in page.sessions)
        last = line
    if not last:
        raise MessageError("the answer has no end")
    told = decode(last, SessionsTold)
    return Seen(sessions=found, proxies=told.proxies, silent=told.silent)


async def _kill(target: Target, kill: list[str], which: SessionFilter, *, yes: bool, as_json: bool) -> None:
    import msgspec

    from endpointctl.api import manager
    from endpointctl.asking import confirm
    from endpointctl.sessionview import counted
    from pgtopology.codec import decode
    from pgtopology.sessions import EndSessions, SessionFilter, SessionId, SessionsEnded

    order: EndSessions
    if ALL in kill:
        if len(kill) > 1:
            raise WrongUsage("--kill all ends those that the filters name, so no other is named beside it")
        if not yes:
            async with manager(target) as client:
                seen = await fetch(client, which, timeout_s=target.timeout_or(REQUEST_TIMEOUT_S))
            confirm(f"End {counted(len(seen.sessions))}?", yes=False)
        order = EndSessions(which=which)
    else:
        if which != SessionFilter():
            raise WrongUsage("--kill ID names its sessions, so filters mean nothing beside it", hint="--kill all ends theirs")
        try:
            order = EndSessions(ids=tuple(str(SessionId.read(text)) for text in kill))
        except ValueError as error:
            raise WrongUsage(str(error)) from error
    async with manager(target) as client:
        body = await client.post("/v1/sessions/end", msgspec.json.encode(order), timeout_s=target.timeout_or(KILL_TIMEOUT_S))
    told = decode(body, SessionsEnded)
    if as_json:
        output.json_document(body)
    elif told.ended or order.which is not None:
        output.line(f"ended {counted(len(told.ended))}" + (f": {', '.join(told.ended)}" if order.ids else ""))
    if told.silent:
        raise Failure(
            f"{', '.join(told.silent)} did not say which sessions were ended there", hint="look again: `endpointctl sessions`"
        )
    if told.missing:
        verb = "is no session" if len(told.missing) == 1 else "are no sessions"
        raise Failure(f"{', '.join(told.missing)} {verb} (any more)", hint="`endpointctl sessions` lists those there are")
