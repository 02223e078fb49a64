"""`restart`: every PostgreSQL server is restarted, one after another, while the cluster serves; `restart proxy`: the proxies.

Standbys first, each only while the quorum does without it; then the writer hands over to one of them, which restarts it.  The
order is also what greater settings need: no standby may have less than its writer.  What is left to do is read from the
cluster at each step, so that an interrupted command is simply given again.

A proxy is relieved by another process of itself, which the supervisor starts: no connection is refused, no session ends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from daemonkit.exits import Failure, Unfinished, WrongUsage
from endpointctl import completing, output
from endpointctl.options import Target, command

if TYPE_CHECKING:
    from pathlib import Path

    from daemonkit.oneshot import OneShotClient
    from deployment.local.layout import Layout
    from deployment.local.plan import PlannedProxy
    from pgtopology.status import NodeStatus, Status
    from pgtopology.supervision import ProgramReport

RESTART_TIMEOUT_S = 600.0
ORDER_TIMEOUT_S = 70.0
"""Longer than a noded has for a restart."""
BROKEN_S = 20.0
"""A node that is down so long with a complaint does not come up by waiting."""
POLL_S = 0.1
QUIET_S = 3.0
"""An order that is given again and again for longer is explained."""
RECORD = "restart.json"
PROXY_TIMEOUT_S = 90.0
"""Longer than the supervisor waits for a process that is to take over."""


def register(app: typer.Typer) -> None:
    """Add this group's commands to *app*."""
    command(app, waits_s=RESTART_TIMEOUT_S)(restart)


def _proxy_or_nothing(value: str | None) -> str | None:
    """Return *value*. Raises BadParameter for what cannot be restarted so."""
    if value not in (None, "proxy"):
        raise typer.BadParameter(f'"{value}" is not "proxy"; one node is restarted by `endpointctl node restart {value}`')
    return value


def restart(
    target: Target,
    what: Annotated[
        str | None, typer.Argument(metavar="proxy", callback=_proxy_or_nothing, help="The proxies; else all of PostgreSQL.")
    ] = None,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="Of one proxy, such as proxy-2; else each in turn.", autocompletion=completing.proxies
        ),
    ] = None,
    rolling: Annotated[bool, typer.Option("--rolling", help="One node after another; there is no other way.")] = True,
    only_pending: Annotated[
        bool, typer.Option("--only-pending", help="Only nodes with settings that wait for a restart.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Restart PostgreSQL on every node, one after another, or the proxy.

    The writer hands over to a node that was restarted. An interrupted restart is finished by the same command. Each proxy is
    relieved by another process: no connection is refused, and its sessions live on.
    """
    import asyncio
    import json

    from endpointctl.api import fetch_status, manager

    del rolling
    if name is not None and what is None:
        raise WrongUsage("a name is that of a proxy", hint="`endpointctl restart proxy NAME`")
    if what is not None:
        if only_pending:
            raise WrongUsage("--only-pending is about PostgreSQL's settings", hint="leave it out, or leave out proxy")
        asyncio.run(_restart_proxies(target, name, dry_run=dry_run, as_json=as_json))
        return

    def say(line: str) -> None:
        output.line(line, err=as_json)

    async def run() -> None:
        async with manager(target) as client:
            status = await fetch_status(client)
            record = Record(target, only_pending=only_pending)
            begun = record.begin(status, keep=not dry_run)
            todo = left(status, begun)
            if dry_run:
                told = {
                    "format_version": output.FORMAT_VERSION,
                    "standbys": todo.standbys,
                    "writer": todo.writer,
                    "obstacle": obstacle(status, todo),
                }
                if as_json:
                    output.json_document(json.dumps(told))
                else:
                    output.lines(_rehearsal(todo, obstacle(status, todo)))
                if told["obstacle"] is not None:
                    raise Failure(str(told["obstacle"]))
                return
            restarted = await _Rolling(client, begun, say, target.timeout_or(RESTART_TIMEOUT_S)).run()
            record.end()
            if as_json:
                done = {"restarted": restarted, "writer": (await fetch_status(client)).writer}
                output.json_document(json.dumps({"format_version": output.FORMAT_VERSION, **done}))
            else:
                output.line(f"restarted: {', '.join(restarted)}" if restarted else "nothing has to be restarted")

    asyncio.run(run())


async def _restart_proxies(target: Target, name: str | None, *, dry_run: bool, as_json: bool) -> None:
    """Have the supervisor start another process of the proxy called *name*, or of each in turn, which takes over.

    Raises Failure, Unfinished.
    """
    import json

    from endpointctl.connecting import local_cluster
    from endpointctl.local.paste import find_proxy

    if target.api is not None:
        raise WrongUsage(
            "restart proxy is about a local cluster", hint="elsewhere start another process with the same settings file"
        )
    layout, plan = local_cluster(target)
    told: list[dict[str, object]] = []
    for proxy in plan.proxies if name is None else (find_proxy(plan, name),):
        report = await _relieve(layout, proxy, target.timeout_or(PROXY_TIMEOUT_S), dry_run=dry_run)
        pid, draining = (report.pid, report.draining) if report is not None else (None, ())
        told.append({"name": proxy.name, "pid": pid, "draining": draining})
        if as_json:
            continue
        if dry_run:
            output.line(f"{proxy.name}: another process would take over from {pid}, which drains: no connection is refused")
        else:
            drain = f"`endpointctl status` shows those that drain: {_listed(draining)}"
            output.line(f"{proxy.name}: process {pid} serves; {drain}")
    if as_json:
        first = {key: told[0][key] for key in ("pid", "draining")}
        output.json_document(json.dumps({"format_version": output.FORMAT_VERSION, **first, "proxies": told}))


async def _relieve(layout: Layout, proxy: PlannedProxy, timeout_s: float, *, dry_run: bool) -> ProgramReport | None:
    """Have the supervisor relieve *proxy*, and return what it says of it. Raises Failure, Unfinished."""
    from daemonkit.linesocket import PeerGone, PeerSilent, ask
    from pgtopology.supervision import Answer, Order

    order = Order(do="list") if dry_run else Order(do="relieve", name=proxy.program)
    try:
        answer = await ask(layout.control_socket, order, Answer, timeout_s=timeout_s)
    except PeerSilent as error:
        raise Unfinished(f"{proxy.name} was not relieved within {timeout_s:g} s", hint="see `endpointctl status`") from error
    except PeerGone as error:
        raise Failure(f"no supervisor runs in {layout.root}", hint="`endpointctl up` starts one") from error
    return next((one for one in answer.programs if one.name == proxy.program), None)


def _listed(pids: Sequence[int]) -> str:
    return ", ".join(str(pid) for pid in pids) or "none has a session left"


@dataclass(frozen=True, slots=True)
class Begun:
    """What is to be restarted: nodes that run as the process noted here, or those with settings that wait for it."""

    pids: Mapping[str, int] | None
    """None: nodes with settings that wait."""

    def is_due(self, node: NodeStatus) -> bool:
        """Return whether *node* is still to be restarted."""
        return node.pending_restart if self.pids is None else node.pid is not None and self.pids.get(node.name) == node.pid


@dataclass(frozen=True, slots=True)
class Left:
    """What is still to be done."""

    standbys: tuple[str, ...]
    writer: str | None


def left(status: Status, begun: Begun) -> Left:
    """Return which nodes are still to be restarted."""
    due = [node.name for node in status.nodes if begun.is_due(node)]
    return Left(tuple(name for name in due if name != status.writer), status.writer if status.writer in due else None)


def obstacle(status: Status, todo: Left) -> str | None:
    """Return what keeps the restart from being done to its end, or None."""
    if status.writer is None:
        return "there is no writer at this moment"
    if todo.writer is not None and len(status.voters.names) < 3:
        return (
            f'"{todo.writer}" is the writer, and with durability {status.durability} there is nobody to hand over to; '
            "`endpointctl down` and `up` restart it, and clients wait meanwhile"
        )
    down = [node.name for node in status.nodes if node.state not in ("running", "streaming") and node.voter]
    if down and (todo.standbys or todo.writer is not None):
        return f"not every voter is there: {', '.join(down)}"
    return None


def _rehearsal(todo: Left, why_not: str | None) -> list[str]:
    steps = [f'restart "{name}", and wait until it streams' for name in todo.standbys]
    if todo.writer is not None and why_not is None:
        steps.append(f'"{todo.writer}" hands over to one of them (writers pause for a moment), and is restarted by that')
    return [f"  {number}. {step}" for number, step in enumerate(steps, 1)] or ["nothing has to be restarted"]


class _Rolling:
    """One run of the command."""

    def __init__(self, client: OneShotClient, begun: Begun, say: Callable[[str], None], timeout_s: float) -> None:
        import time

        self._client = client
        self._begun = begun
        self._say = say
        self._clock = time.monotonic
        self._deadline = time.monotonic() + timeout_s
        self._restarted: list[str] = []

    async def run(self) -> list[str]:
        """Restart what is left, and return which nodes were. Raises Failure, Unfinished."""
        from endpointctl.api import fetch_status

        while True:
            status = await fetch_status(self._client)
            todo = left(status, self._begun)
            again = next((name for name in (*todo.standbys, todo.writer) if name in self._restarted), None)
            if again is not None:
                raise Failure(f'"{again}" was restarted and still waits for a restart', hint="see `endpointctl config show`")
            if todo.standbys:
                await self._standby(next(node for node in status.nodes if node.name == todo.standbys[0]))
            elif todo.writer is not None:
                await self._writer(status, next(node for node in status.nodes if node.name == todo.writer))
            else:
                return self._restarted

    async def _standby(self, node: NodeStatus) -> None:
        self._say(f'restarting "{node.name}"')
        await self._order(f"/v1/nodes/{node.name}/restart", f'"{node.name}" is not restarted yet')
        await self._settled(node)

    async def _writer(self, status: Status, node: NodeStatus) -> None:
        if (why_not := obstacle(status, Left((), node.name))) is not None:
            raise Failure(why_not)
        self._say(f'"{node.name}" hands over')
        await self._order("/v1/switchover", f'"{node.name}" does not hand over yet')
        await self._settled(node)

    async def _order(self, path: str, waiting: str) -> None:
        """Give an order; one that cannot be carried out now, because another node is not there yet, is given again."""
        import asyncio

        from daemonkit.httpanswers import HttpRefused, HttpUnavailable

        quiet_until, told = self._clock() + QUIET_S, ""
        while True:
            try:
                await self._client.post(path, b"{}", timeout_s=ORDER_TIMEOUT_S)
            except (HttpRefused, HttpUnavailable) as error:
                if isinstance(error, HttpRefused) and error.status not in (409, 502, 503):
                    raise
                why = error.message if isinstance(error, HttpRefused) else str(error)
                if self._clock() > self._deadline:
                    raise Unfinished(f"{waiting}: {why}", hint="give the order again") from error
                if why != told and self._clock() >= quiet_until:
                    told = why
                    output.line(f"{waiting}: {why}; the order is given again until it is taken", err=True)
                await asyncio.sleep(POLL_S)
                continue
            return

    async def _settled(self, before: NodeStatus) -> None:
        """Return when the node runs as another process and counts again."""
        import asyncio

        from daemonkit.httpanswers import HttpError
        from endpointctl.api import fetch_status

        broken_since: float | None = None
        seen = "the manager does not answer"
        while self._clock() <= self._deadline:
            try:
                status = await fetch_status(self._client)
            except HttpError as error:
                seen = str(error)
            else:
                node = next((one for one in status.nodes if one.name == before.name), None)
                if node is None:
                    return
                if node.pid not in (None, before.pid) and node.state in ("running", "streaming") and node.whole:
                    self._restarted.append(node.name)
                    self._say(f'"{node.name}" is {node.state} again')
                    return
                if status.order_given_up is not None and status.writer == before.name:
                    raise Failure(f'"{before.name}" does not hand over: {status.order_given_up}', hint="give the order again")
                seen = node.problem or node.state
                # Between its attempts to start it is starting for a moment.
                is_broken = node.state not in ("running", "streaming") and node.problem is not None
                broken_since = (broken_since or self._clock()) if is_broken else None
                if broken_since is not None and self._clock() - broken_since > BROKEN_S:
                    raise Failure(
                        f'"{node.name}" does not come up: {node.problem}; the other nodes were left alone',
                        hint="`endpointctl config set --reset NAME` takes a setting back, then restart again",
                    )
            await asyncio.sleep(POLL_S)
        raise Unfinished(f'"{before.name}" does not serve again yet: {seen}', hint="give the order again")


class Record:
    """What ran when a restart of all nodes began, until it is done; a cluster elsewhere has no place for it."""

    def __init__(self, target: Target, *, only_pending: bool) -> None:
        from deployment.local.layout import Layout

        self._only_pending = only_pending
        self._path: Path | None = Layout(target.data_dir).run / RECORD if target.api is None else None

    def begin(self, status: Status, *, keep: bool) -> Begun:
        """Return what is to be restarted: what an interrupted command left, else everything."""
        import json

        from daemonkit.durable import read_or_none, write_durably

        if self._only_pending:
            return Begun(None)
        kept = read_or_none(self._path) if self._path is not None else None
        if kept is not None:
            begun = Begun({str(name): int(pid) for name, pid in json.loads(kept).items()})
            if left(status, begun) != Left((), None):
                return begun
        pids: dict[str, int] = {node.name: node.pid for node in status.nodes if node.pid is not None}
        if keep and self._path is not None:
            write_durably(self._path, json.dumps(pids).encode())
        return Begun(pids)

    def end(self) -> None:
        """Forget it: the restart is done."""
        if self._path is not None and not self._only_pending:
            self._path.unlink(missing_ok=True)
