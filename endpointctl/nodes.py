"""`node stop|start|restart|reinit`: orders about one PostgreSQL server."""

from __future__ import annotations

from typing import Annotated

import typer

from endpointctl.options import Target, command

NODE_TIMEOUT_S = 60.0

NodeArgument = Annotated[str, typer.Argument(metavar="NODE", help="Its name, as in status.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Do it even if commits will wait for want of a quorum.")]


def register(app: typer.Typer) -> None:
    """Add this group's commands to *app*."""
    group = typer.Typer(help="Stop, start, restart or remake one node.", no_args_is_help=True, rich_markup_mode=None)
    for function in (stop, start, restart, reinit):
        command(group)(function)
    app.add_typer(group, name="node")


def stop(target: Target, node: NodeArgument, force: ForceOption = False) -> None:
    """Stop a standby's PostgreSQL, and leave it down until `node start`."""
    _order(target, node, "stop", force=force)


def start(target: Target, node: NodeArgument) -> None:
    """Start a standby that was stopped by `node stop`."""
    _order(target, node, "start", force=False)


def restart(target: Target, node: NodeArgument, force: ForceOption = False) -> None:
    """Restart a standby's PostgreSQL, for settings that need it."""
    _order(target, node, "restart", force=force)


def reinit(target: Target, node: NodeArgument, force: ForceOption = False) -> None:
    """Throw a standby's data away and copy the writer's anew."""
    _order(target, node, "reinit", force=force)


def _order(target: Target, node: str, order: str, *, force: bool) -> None:
    import asyncio

    import msgspec

    from endpointctl.api import manager

    async def run() -> None:
        async with manager(target) as client:
            body = msgspec.json.encode({"force": force})
            answer = await client.post(f"/v1/nodes/{node}/{order}", body, timeout_s=target.timeout_or(NODE_TIMEOUT_S))
        typer.echo(msgspec.json.decode(answer, type=dict[str, str | int])["detail"])

    asyncio.run(run())
