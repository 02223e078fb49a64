"""`logs` and `doctor`: what the processes wrote, and whether this machine can run a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from daemonkit.exits import ExitCode, Failure, WrongUsage
from endpointctl import completing, output
from endpointctl.options import Target, command, within

if TYPE_CHECKING:
    from endpointctl.local.machine import Finding
    from pgtopology.status import Status

FOLLOW_S = 0.2


def register(app: typer.Typer) -> None:
    """Add this group's commands to *app*."""
    command(app)(logs)
    command(app)(doctor)


def logs(
    target: Target,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]", help="A node, cluster_manager, endpointd or supervisor.", autocompletion=completing.logs
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Stay and print new lines until ^C.")] = False,
    lines: Annotated[
        int, typer.Option("--lines", "-n", callback=within(0, 1_000_000), help="How many lines of the past.")
    ] = 40,
) -> None:
    """Print the processes' logs."""
    from daemonkit.logfiles import Follower, last_lines
    from deployment.local.layout import Layout

    if target.api is not None:
        raise WrongUsage("logs are in the data directory", hint="name it with --data-dir instead of --api")
    layout = Layout(target.data_dir)
    if not layout.logs.is_dir():
        raise Failure(f"no logs in {layout.root}", hint="name a cluster's directory with --data-dir")
    known = sorted(path.stem for path in layout.logs.glob("*.log"))
    if name is not None and name not in known:
        raise WrongUsage(f'there is no log "{name}"', hint=f"known are {', '.join(known)}")
    names = known if name is None else [name]

    def show(who: str, line: str) -> None:
        output.line(line if name is not None else f"{who}: {line}")

    followers = [(who, Follower(layout.log(who))) for who in names]
    for who in names:
        for line in last_lines(layout.log(who), lines):
            show(who, line)
    if not follow:
        return
    import time

    try:
        while True:
            for who, follower in followers:
                for line in follower.new_lines():
                    show(who, line)
            time.sleep(FOLLOW_S)
    except KeyboardInterrupt:
        return


def doctor(
    target: Target, as_json: Annotated[bool, typer.Option("--json", help="Findings as an array of objects.")] = False
) -> None:
    """Check what could keep a cluster from running."""
    import msgspec

    from deployment.local.layout import Layout
    from endpointctl.local.checkup import examine
    from endpointctl.local.machine import Grade

    if target.api is not None:
        raise WrongUsage("doctor looks at this machine", hint="name a cluster's directory with --data-dir instead of --api")
    findings = [*examine(Layout(target.data_dir)), *_cluster(target)]
    if as_json:
        output.json_document(msgspec.json.encode(findings))
    else:
        for finding in findings:
            output.line(f"{finding.grade:<7} {finding.subject}: {finding.text}")
    if any(finding.grade is Grade.BAD for finding in findings):
        raise typer.Exit(ExitCode.FAILED)


def _cluster(target: Target) -> list[Finding]:
    """Return what the manager says of the cluster; nothing where none runs, which is said elsewhere."""
    import asyncio

    from endpointctl.api import fetch_status, manager
    from endpointctl.local.machine import Finding, Grade
    from endpointctl.render import connection_notes, slot_notes

    async def ask() -> Status:
        async with manager(target) as client:
            return await fetch_status(client)

    try:
        status = asyncio.run(ask())
    except Failure:
        return []
    grade = Grade.BAD if status.state == "stuck" else Grade.NOTE if status.at_risk else Grade.GOOD
    text = f"{status.state}, {status.at_risk}" if status.at_risk else status.state
    crowded = [
        Finding(subject=f"connections of {node.name}", grade=Grade.NOTE, text=note)
        for node in status.nodes
        for note in connection_notes(node)
    ]
    crowded += [
        Finding(subject=f"replication slots of {node.name}", grade=Grade.NOTE, text=note)
        for node in status.nodes
        for note in slot_notes(node)
    ]
    roles = [Finding(subject="roles", grade=Grade.NOTE, text=note) for note in status.role_notes]
    return [Finding(subject="cluster", grade=grade, text=text), *crowded, *roles]
