"""`failover`, `pause`, `resume`: orders to the manager."""

from __future__ import annotations

from typing import Annotated

import typer

from endpointctl.options import Target, command

FAILOVER_TIMEOUT_S = 30.0


def register(app: typer.Typer) -> None:
    """Add this group's commands to *app*."""
    for function in (failover, pause, resume):
        command(app)(function)


def failover(
    target: Target,
    to: Annotated[str | None, typer.Option("--to", metavar="NODE", help="Who should become the writer.")] = None,
    allow_data_loss: Annotated[
        str | None,
        typer.Option("--allow-data-loss", metavar="CLUSTER", help="Go on without a safe set; commits may be lost."),
    ] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Return once the order is accepted.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the events of the failover as JSON lines.")] = False,
) -> None:
    """Give the cluster another writer now."""
    import asyncio

    import msgspec

    from endpointctl.api import REQUEST_TIMEOUT_S, fetch_status, manager, parse_lines_json, wait_for_status
    from endpointctl.render import event_line

    async def run() -> None:
        timeout_s = target.timeout_or(FAILOVER_TIMEOUT_S)
        order = msgspec.json.encode({"to": to, "allow_data_loss": allow_data_loss})
        async with manager(target) as client:
            before = await fetch_status(client)
            answer = await client.post("/v1/failover", order, timeout_s=REQUEST_TIMEOUT_S)
            named = msgspec.json.decode(answer, type=dict[str, int]).get("epoch", 0)
            # A writer never changes within an epoch, so whatever the answer names, the new one has a greater epoch.
            epoch = max(named, before.epoch + 1)
            if no_wait:
                typer.echo(answer.decode().rstrip() if as_json else f"accepted: epoch {epoch}")
                return
            after = await wait_for_status(
                client,
                lambda status: status.epoch >= epoch and status.writer is not None,
                timeout_s=timeout_s,
                wanted=f"finished (epoch {epoch})",
            )
            async for line in client.lines("/v1/events?after=0&follow=0", idle_timeout_s=REQUEST_TIMEOUT_S):
                event = parse_lines_json(line)
                kind, of_epoch = event.get("kind"), event.get("epoch")
                if isinstance(of_epoch, int) and of_epoch >= epoch and str(kind).startswith("failover."):
                    typer.echo(line.decode() if as_json else event_line(event))
            if not as_json:
                typer.echo(f"writer: {before.writer or 'none'} -> {after.writer} (epoch {after.epoch})")

    asyncio.run(run())


def pause(target: Target) -> None:
    """Let no failover happen by itself.

    One that is under way is finished. `endpointctl resume` ends the pause.
    """
    _post(target, "/v1/pause")


def resume(target: Target) -> None:
    """End a pause."""
    _post(target, "/v1/resume")


def _post(target: Target, path: str) -> None:
    import asyncio

    from endpointctl.api import REQUEST_TIMEOUT_S, manager

    async def run() -> None:
        async with manager(target) as client:
            await client.post(path, timeout_s=target.timeout_or(REQUEST_TIMEOUT_S))

    asyncio.run(run())
