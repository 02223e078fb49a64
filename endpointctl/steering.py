"""`failover`, `switchover`, `withdraw`, `pause`, `resume`: orders to the manager."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from daemonkit.escape import visible
from daemonkit.exits import Failure, WrongUsage
from endpointctl import completing, output
from endpointctl.options import REQUEST_TIMEOUT_S, Target, command, node_name, not_empty, number_within

if TYPE_CHECKING:
    from pgtopology.drill import LongSession
    from pgtopology.handover import Rehearsal
    from pgtopology.status import Status

SWITCHOVER_PATH = "/v1/switchover"
FAILOVER_TIMEOUT_S = 30.0
IDLE_POLL_S = 0.2
SESSIONS_SHOWN = 20
SLOTS_WAIT_S = 30.0
"""PostgreSQL's worker for logical slots looks every 10 s at most."""
SLOTS_POLL_S = 0.5
SLOTS_TRIES = 3
"""So often a switchover is ordered whose slots were all there a moment before."""

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
    for function in (failover, switchover):
        command(app, waits_s=FAILOVER_TIMEOUT_S)(function)
    for function in (withdraw, pause, resume):
        command(app, waits_s=REQUEST_TIMEOUT_S)(function)


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
    drain_timeout: Annotated[
        float | None,
        typer.Option(
            "--drain-timeout",
            metavar="SECONDS",
            callback=number_within(0, 60),
            help="How long sessions may finish, 0 to 60; 2 unless given.",
        ),
    ] = None,
    wait_idle: Annotated[
        float | None,
        typer.Option(
            "--wait-idle",
            metavar="SECONDS",
            min=0,
            max=86400,
            help="Wait so long for a moment without open transactions; do nothing if there is none.",
        ),
    ] = None,
    allow_slot_loss: Annotated[
        bool,
        typer.Option("--allow-slot-loss", help="Do not wait for copies of replication slots that were made a moment ago."),
    ] = False,
    no_wait: NoWaitOption = False,
    as_json: JsonEventsOption = False,
) -> None:
    """Hand the writer over in good order: checkpoint, drain, stop, promote.

    Refused while the writer is not well; if nobody can take over, the old writer goes on.
    """
    if dry_run and no_wait:
        raise WrongUsage("--dry-run does nothing, so there is nothing that --no-wait would not wait for")
    if dry_run and wait_idle is not None:
        raise WrongUsage("--dry-run does nothing, so there is no moment that --wait-idle would wait for")
    if dry_run:
        _rehearse(target, to, drain_timeout, allow_slot_loss=allow_slot_loss, as_json=as_json)
    else:
        body = {"to": to, **_slots(allow=allow_slot_loss), **_drain(drain_timeout)}
        waits_for_slots = not allow_slot_loss and not no_wait
        if waits_for_slots:
            _await_slots(target, to)
        for tries_left in reversed(range(SLOTS_TRIES)):
            if wait_idle is not None:
                _wait_idle(target, to, wait_idle, allow_slot_loss=allow_slot_loss)
            try:
                _hand_over(target, SWITCHOVER_PATH, body, no_wait=no_wait, as_json=as_json, drain_s=drain_timeout or 0)
            except Failure:
                # Another node may have become the next in line meanwhile, whose copies are not there yet.
                if not (waits_for_slots and tries_left and _await_slots(target, to)):
                    raise
            else:
                return


def _hand_over(
    target: Target, path: str, body: Mapping[str, str | float | None], *, no_wait: bool, as_json: bool, drain_s: float = 0
) -> None:
    """Order another writer, wait for it, and print how it went."""
    import asyncio

    import msgspec

    from endpointctl.api import fetch_status, manager, wait_for_status
    from endpointctl.chronicle import event_lines
    from pgtopology.codec import decode
    from pgtopology.event import Event

    named = body.get("to")
    to = named if isinstance(named, str) else None

    async def run() -> None:
        timeout_s = target.timeout_or(FAILOVER_TIMEOUT_S + drain_s)
        async with manager(target) as client:
            before = await fetch_status(client)
            if leads(before, to):
                if body.get("allow_data_loss") is not None:
                    raise WrongUsage(f'"{to}" is the writer already', hint="leave --to out, or name another node")
                output.line(f'"{to}" is the writer already', err=as_json)
                if as_json:
                    told = {"format_version": output.FORMAT_VERSION, "epoch": before.epoch, "writer": to, "changed": False}
                    output.json_document(msgspec.json.encode(told))
                return
            for line in slots_lost(before, to):
                output.line(line, err=True)
            answer = await client.post(path, msgspec.json.encode(body), timeout_s=REQUEST_TIMEOUT_S)
            epoch = max(msgspec.json.decode(answer, type=dict[str, int]).get("epoch", 0), before.epoch + 1)
            if no_wait:
                output.json_line(answer) if as_json else output.line(f"accepted: epoch {epoch}")
                return

            def is_done(status: Status) -> bool:
                if status.epoch < epoch and status.order_given_up is not None:
                    raise Failure(f"given up, and nothing was changed: {status.order_given_up}")
                return status.epoch >= epoch and status.writer is not None

            after = await wait_for_status(
                client,
                is_done,
                timeout_s=timeout_s,
                wanted=f"finished (epoch {epoch})",
            )
            why = ""
            async for line in client.lines("/v1/events?after=0&follow=0", idle_timeout_s=REQUEST_TIMEOUT_S):
                event = decode(line, Event)
                if event.epoch >= epoch and event.kind.startswith("failover."):
                    output.json_line(line) if as_json else output.lines(event_lines(event, output.width()))
                if event.epoch == after.epoch and event.kind == "failover.elected":
                    why = f": {event.message}"
            if not as_json:
                output.line(f"writer: {before.writer or 'none'} -> {after.writer} (epoch {after.epoch})")
        if to not in (None, after.writer):
            raise Failure(f'"{after.writer}" is the writer, not "{to}"{why}', hint="`endpointctl explain --failover` says more")
        if path == SWITCHOVER_PATH and after.writer == before.writer:
            raise Failure(f'"{after.writer}" is the writer again{why}', hint="`endpointctl explain --failover` says more")

    asyncio.run(run())


def leads(status: Status, name: str | None) -> bool:
    """Return whether the node *name* is the writer; None is nobody in particular. Raises WrongUsage for what is no node."""
    from endpointctl.api import require_node

    require_node(status, name)
    return name is not None and name == status.writer


def _drain(timeout_s: float | None) -> dict[str, float]:
    return {"drain_timeout_s": timeout_s} if timeout_s is not None else {}


def _slots(*, allow: bool) -> dict[str, bool]:
    return {"allow_slot_loss": True} if allow else {}


def slots_lost(status: Status, to: str | None) -> list[str]:
    """Return a warning about each of users' slots that a handover to *to*, or to somebody, loses."""
    found: list[str] = []
    for slot in status.slots:
        nodes = [node for node in slot.lost_with if to in (None, node)]
        if nodes and not slot.lost:
            whom, why = " or ".join(nodes), slot.lost_with[nodes[0]]
            found.append(visible(f'warning: the {slot.kind} slot "{slot.name}" is lost with {whom} as the writer: {why}'))
    return found


def _await_slots(target: Target, to: str | None) -> bool:
    """Return when no slot is lost only because its copy is not there yet: whether there was one.

    Raises Failure if that takes too long.
    """
    import asyncio

    import msgspec

    from endpointctl.api import fetch_status, manager
    from pgtopology.codec import decode
    from pgtopology.handover import Rehearsal

    async def run() -> bool:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + target.timeout_or(SLOTS_WAIT_S)
        is_said = False
        order = msgspec.json.encode({"to": to, "dry_run": True})
        async with manager(target) as client:
            if leads(await fetch_status(client), to):
                return False
            while True:
                told = decode(await client.post(SWITCHOVER_PATH, order, timeout_s=REQUEST_TIMEOUT_S), Rehearsal)
                if not told.slots_awaited:
                    return is_said
                if loop.time() >= deadline:
                    raise Failure(told.obstacle or "; ".join(told.slots_awaited))
                if not is_said:
                    is_said = True
                    output.line(f"waiting for copies of replication slots: {'; '.join(told.slots_awaited)}", err=True)
                await asyncio.sleep(SLOTS_POLL_S)

    return asyncio.run(run())


def _wait_idle(target: Target, to: str | None, wait_s: float, *, allow_slot_loss: bool) -> None:
    """Return in a moment without open transactions on the writer. Raises Failure if there was none for *wait_s* seconds."""
    import asyncio

    import msgspec

    from endpointctl.api import fetch_status, manager
    from pgtopology.codec import decode
    from pgtopology.handover import Rehearsal

    async def run() -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        is_said = False
        async with manager(target) as client:
            if leads(await fetch_status(client), to):
                return
            while True:
                order = msgspec.json.encode({"to": to, "dry_run": True, **_slots(allow=allow_slot_loss)})
                told = decode(await client.post(SWITCHOVER_PATH, order, timeout_s=REQUEST_TIMEOUT_S), Rehearsal)
                if not told.possible:
                    raise Failure(told.obstacle or "a switchover is not possible now")
                if told.open_count == 0:
                    return
                who = "; ".join(session_text(one) for one in told.open_sessions[:SESSIONS_SHOWN])
                why = f"transactions are open: {who}" if told.open_count else "the writer does not say who has one open"
                if loop.time() >= deadline:
                    raise Failure(f"no moment without open transactions within {wait_s:g} s; nothing was done; {why}")
                if not is_said:
                    is_said = True
                    output.line(f"waiting for a moment without open transactions, {wait_s:g} s at most; {why}", err=True)
                await asyncio.sleep(IDLE_POLL_S)

    asyncio.run(run())


def session_text(one: LongSession) -> str:
    """Return a line about a session with an open transaction."""
    return visible(
        f'pid {one.pid}, user "{one.user}", {one.application or "no application name"}, '
        f"{one.state if one.tracked else 'state not known'}, transaction open for {one.open_for}"
    )


def _rehearse(target: Target, to: str | None, drain_timeout: float | None, *, allow_slot_loss: bool, as_json: bool) -> None:
    """Print what a switchover would do; exit code 1 if something stands in its way."""
    import asyncio

    import msgspec

    from endpointctl.api import fetch_status, manager
    from pgtopology.codec import decode
    from pgtopology.handover import Rehearsal

    async def run() -> None:
        async with manager(target) as client:
            is_done = leads(await fetch_status(client), to)
            if is_done and not as_json:
                output.line(f'"{to}" is the writer already, so nothing would be done')
                return
            body = {"to": to, "dry_run": True, **_slots(allow=allow_slot_loss), **_drain(drain_timeout)}
            order = msgspec.json.encode(body)
            answer = await client.post(SWITCHOVER_PATH, order, timeout_s=target.timeout_or(REQUEST_TIMEOUT_S))
            told = decode(answer, Rehearsal)
        if as_json:
            output.json_document(answer)
        elif told.possible:
            output.line(f"{told.from_node} -> {told.to}")
            for number, step in enumerate(told.steps, 1):
                output.line(f"  {number}. {step}")
            known = f"about {told.expected_ms} ms" if told.expected_ms is not None else "not known before the first one"
            bound = f", at most {told.bound_ms / 1000:g} s and a promotion" if told.bound_ms is not None else ""
            output.line(f"pause for writers: {known}{bound}")
            for line in _sessions(told):
                output.line(line)
            if told.archiver is not None:
                output.line(told.archiver)
            for lost in told.slots_lost:
                output.line(lost)
        if not told.possible and not is_done:
            raise Failure(told.obstacle or "a switchover is not possible now")

    asyncio.run(run())


def _sessions(told: Rehearsal) -> list[str]:
    """Return lines about the sessions that would end."""
    if told.client_sessions is None or told.open_count is None:
        return [f'"{told.from_node}" does not say which sessions would end']
    forced = f"{told.open_count} of them by force if their transaction is not over within {told.drain_ms / 1000:g} s"
    lines = [f"sessions that end: {told.client_sessions}, {forced}"]
    if told.replication_sessions:
        lines.append(f"replication connections that end with the server, not waited for: {told.replication_sessions}")
    lines += [f"  {session_text(one)}" for one in told.open_sessions[:SESSIONS_SHOWN]]
    left = told.open_count - min(len(told.open_sessions), SESSIONS_SHOWN)
    return [*lines, f"  and {left} more"] if left > 0 else lines


def withdraw(target: Target) -> None:
    """Take back a failover or switchover that has not begun.

    Status shows one that waits. What has begun is finished.
    """
    _post(target, "/v1/withdraw")
    output.line("withdrawn: nothing was changed")


def pause(target: Target) -> None:
    """Let no failover happen by itself.

    One that is under way is finished. `endpointctl resume` ends the pause.
    """
    _post(target, "/v1/pause")
    output.line("paused: no failover happens by itself until `endpointctl resume`")


def resume(target: Target) -> None:
    """End a pause."""
    _post(target, "/v1/resume")
    output.line("resumed: failovers happen by themselves")


def _post(target: Target, path: str) -> None:
    import asyncio

    from endpointctl.api import manager

    async def run() -> None:
        async with manager(target) as client:
            await client.post(path, timeout_s=target.timeout_or(REQUEST_TIMEOUT_S))

    asyncio.run(run())
