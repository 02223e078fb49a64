"""`failover`, `switchover`, `pause`, `resume`: orders to the manager."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from endpointctl import completing, output
from endpointctl.exits import Failure, WrongUsage
from endpointctl.options import Target, command, node_name, not_empty

if TYPE_CHECKING:
    from pgtopology.status import Status

FAILOVER_TIMEOUT_S = 30.0

ToOption = Annotated[
    str | None,
    typer.Option(
        "--to",
        metavar="NODE",
        callback=node_name,
        help="Who should become the writer.",
        autocompletion=completing.nodes,
    ),
]
NoWaitOption = Annotated[bool, typer.Option("--no-wait", help="Return once the order is accepted.")]
JsonEventsOption = Annotated[bool, typer.Option("--json", help="Print what happened as JSON lines.")]


def register(app: typer.Typer) -> None:
    """Add this group's commands to *app*."""
    for function in (failover, switchover, pause, resume):
        command(app)(function)


def failover(
    target: Target,
    to: ToOption = None,
    allow_data_loss: Annotated[
        str | None,
        typer.Option(
            "--allow-data-loss",
            metavar="CLUSTER",
            callback=not_empty,
            help="Go on without a safe set; commits may be lost.",
        ),
    ] = None,
    no_wait: NoWaitOption = False,
    as_json: JsonEventsOption = False,
) -> None:
    """Give the cluster another writer now.

    A writer that is well hands over in good order; one that is not is failed over.
    """
    _hand_over(target, "/v1/failover", {"to": to, "allow_data_loss": allow_data_loss}, no_wait=no_wait, as_json=as_json)


def switchover(
    target: Target,
    to: ToOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and do nothing.")] = False,
    no_wait: NoWaitOption = False,
    as_json: JsonEventsOption = False,
) -> None:
    """Hand the writer over in good order: checkpoint, drain, stop, promote.

    Refused while the writer is not well; if nobody can take over, the old writer goes on.
    """
    if dry_run and no_wait:
        raise WrongUsage("--dry-run does nothing, so there is nothing that --no-wait would not wait for")
    if dry_run:
        _rehearse(target, to, as_json=as_json)
    else:
        _hand_over(target, "/v1/switchover", {"to": to}, no_wait=no_wait, as_json=as_json)


def _hand_over(target: Target, path: str, body: dict[str, str | None], *, no_wait: bool, as_json: bool) -> None:
    """Order another writer, wait for it, and print how it went."""
    import asyncio

    import msgspec

    from endpointctl.api import REQUEST_TIMEOUT_S, fetch_status, manager, wait_for_status
    from endpointctl.render import event_line
    from pgtopology.codec import decode
    from pgtopology.event import Event

    async def run() -> None:
        timeout_s = target.timeout_or(FAILOVER_TIMEOUT_S)
        async with manager(target) as client:
            before = await fetch_status(client)
            require_other_node(before, body.get("to"))
            answer = await client.post(path, msgspec.json.encode(body), timeout_s=REQUEST_TIMEOUT_S)
            epoch = max(msgspec.json.decode(answer, type=dict[str, int]).get("epoch", 0), before.epoch + 1)
            if no_wait:
                output.json_document(answer) if as_json else output.line(f"accepted: epoch {epoch}")
                return
            after = await wait_for_status(
                client,
                lambda status: status.epoch >= epoch and status.writer is not None,
                timeout_s=timeout_s,
                wanted=f"finished (epoch {epoch})",
            )
            async for line in client.lines("/v1/events?after=0&follow=0", idle_timeout_s=REQUEST_TIMEOUT_S):
                event = decode(line, Event)
                if event.epoch >= epoch and event.kind.startswith("failover."):
                    output.json_document(line) if as_json else output.line(event_line(event))
            if not as_json:
                output.line(f"writer: {before.writer or 'none'} -> {after.writer} (epoch {after.epoch})")
        if body.get("to") not in (None, after.writer):
            raise Failure(f'"{after.writer}" is the writer, not "{body["to"]}"', hint="`endpointctl explain` says why")

    asyncio.run(run())


def require_other_node(status: Status, name: str | None) -> None:
    """Raise WrongUsage unless *name* is a node that is not the writer; None is nobody in particular."""
    from endpointctl.api import require_node

    require_node(status, name)
    if name is not None and name == status.writer:
        others = [node.name for node in status.nodes if node.name != name]
        raise WrongUsage(f'"{name}" is the writer already', hint=f"the others are {', '.join(others) or 'none'}")


def _rehearse(target: Target, to: str | None, *, as_json: bool) -> None:
    """Print what a switchover would do; exit code 1 if something stands in its way."""
    import asyncio

    import msgspec

    from endpointctl.api import REQUEST_TIMEOUT_S, fetch_status, manager
    from pgtopology.codec import decode
    from pgtopology.handover import Rehearsal

    async def run() -> None:
        async with manager(target) as client:
            require_other_node(await fetch_status(client), to)
            order = msgspec.json.encode({"to": to, "dry_run": True})
            answer = await client.post("/v1/switchover", order, timeout_s=target.timeout_or(REQUEST_TIMEOUT_S))
            told = decode(answer, Rehearsal)
        if as_json:
            output.json_document(answer)
        elif told.possible:
            output.line(f"{told.from_node} -> {told.to}")
            for number, step in enumerate(told.steps, 1):
                output.line(f"  {number}. {step}")
            known = f"about {told.expected_ms} ms" if told.expected_ms is not None else "not known before the first one"
            output.line(f"pause for writers: {known}")
            for lost in told.slots_lost:
                output.line(lost)
        if not told.possible:
            raise Failure(told.obstacle or "a switchover is not possible now")

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
