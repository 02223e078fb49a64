"""`drill` and `verify`: what a loss would do, without one; and whether the cluster keeps its word, with or without one."""

from __future__ import annotations

from typing import Annotated

import typer

from endpointctl import completing
from endpointctl.exits import ExitCode
from endpointctl.options import Target, command

DRILL_TIMEOUT_S = 10.0

JsonOption = Annotated[bool, typer.Option("--json", help="For programs: JSON as documented.")]


def register(app: typer.Typer) -> None:
    """Add this group's commands to *app*."""
    command(app)(drill)


def drill(
    target: Target,
    lose: Annotated[
        str | None,
        typer.Option("--lose", metavar="NODE", help="Which node (the writer).", autocompletion=completing.nodes),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what the loss of the writer, or of another node, would do now. Nothing is done.

    Exit code 1 says that the cluster would not go on by itself.
    """
    import asyncio
    from urllib.parse import quote

    from rich.console import Console

    from endpointctl.api import manager
    from endpointctl.drillview import drill_view
    from pgtopology.codec import decode
    from pgtopology.drill import Drill

    async def run() -> Drill:
        path = "/v1/drill" if lose is None else f"/v1/drill?lose={quote(lose, safe='')}"
        async with manager(target) as client:
            body = await client.get(path, timeout_s=target.timeout_or(DRILL_TIMEOUT_S))
            told = decode(body, Drill)
        if as_json:
            typer.echo(body.decode().rstrip())
        else:
            console = Console()
            (console if console.is_terminal else Console(width=200)).print(drill_view(told))
        return told

    if not asyncio.run(run()).possible:
        raise typer.Exit(ExitCode.FAILED)
