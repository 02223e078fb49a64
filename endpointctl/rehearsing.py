"""`drill` and `verify`: what a loss would do, without one; and whether the cluster keeps its word, with or without one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from daemonkit.exits import ExitCode, WrongUsage
from endpointctl import completing, output
from endpointctl.options import Target, command, node_name, number_within, postgres_uri, within

if TYPE_CHECKING:
    from endpointctl.verifying.checker import Report

DRILL_TIMEOUT_S = 10.0
FINISHED_TIMEOUT_S = 60.0
"""For the other writer, in the middle of a verification."""

JsonOption = Annotated[bool, typer.Option("--json", help="For programs: JSON as documented.")]


def register(app: typer.Typer) -> None:
    """Add this group's commands to *app*."""
    command(app, waits_s=DRILL_TIMEOUT_S)(drill)
    command(app, waits_s=FINISHED_TIMEOUT_S)(verify)


def drill(
    target: Target,
    lose: Annotated[
        str | None,
        typer.Option(
            "--lose",
            metavar="NODE",
            callback=node_name,
            help="Which node (the writer).",
            autocompletion=completing.nodes,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what the loss of the writer, or of another node, would do now. Nothing is done.

    Exit code 1 says that the cluster would not go on by itself.
    """
    import asyncio
    from urllib.parse import quote

    from endpointctl.api import fetch_status, manager, require_node
    from endpointctl.drillview import drill_view
    from pgtopology.codec import decode
    from pgtopology.drill import Drill

    async def run() -> Drill:
        path = "/v1/drill" if lose is None else f"/v1/drill?lose={quote(lose, safe='')}"
        async with manager(target) as client:
            if lose is not None:
                require_node(await fetch_status(client), lose)
            body = await client.get(path, timeout_s=target.timeout_or(DRILL_TIMEOUT_S))
            told = decode(body, Drill)
        if as_json:
            output.json_document(body)
        else:
            output.view(drill_view(told))
        return told

    if not asyncio.run(run()).possible:
        raise typer.Exit(ExitCode.FAILED)


def verify(
    target: Target,
    seconds: Annotated[
        float,
        typer.Option(
            "--seconds",
            callback=number_within(1, 86_400),
            help="How long the clients work.",
        ),
    ] = 20.0,
    clients: Annotated[int, typer.Option("--clients", callback=within(1, 64), help="How many of them write.")] = 4,
    switchover: Annotated[bool, typer.Option("--switchover", help="Hand the writer over in the middle.")] = False,
    failover: Annotated[bool, typer.Option("--failover", help="Kill the writer's PostgreSQL in the middle.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --failover: do not ask.")] = False,
    writer_dsn: Annotated[
        str | None,
        typer.Option(
            "--writer-dsn",
            metavar="URI",
            callback=postgres_uri,
            help="The writer endpoint (the local cluster's).",
        ),
    ] = None,
    reader_dsn: Annotated[
        str | None,
        typer.Option(
            "--reader-dsn",
            metavar="URI",
            callback=postgres_uri,
            help="The reader endpoint (the local cluster's).",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check with clients of its own that nothing acknowledged is lost and nothing wrong is read.

    Works in a schema of its own, endpointd_verify, through both endpoints, and removes it. Reports the longest time without
    an acknowledgement (RTO), what was lost (RPO: must be nothing), errors and reads. Exit code 1 says that the word was broken.
    """
    import asyncio

    import msgspec

    from endpointctl.asking import confirm
    from endpointctl.verifying.blows import kill_writer, switch_over
    from endpointctl.verifying.endpoints import find_endpoints
    from endpointctl.verifying.running import verify as run_verification

    if switchover and failover:
        raise WrongUsage("--switchover and --failover are two runs")
    if failover and target.api is not None:
        raise WrongUsage("--failover kills a process of this machine", hint="name its directory with --data-dir")
    writer, reader = find_endpoints(target, writer_dsn, reader_dsn)
    if failover:
        confirm("Kill the writer's PostgreSQL (SIGKILL)? Its sessions end, a replica takes over.", yes=yes)

    def say(text: str) -> None:
        output.line(text, err=True)

    async def blow() -> None:
        await (kill_writer(target, say) if failover else switch_over(target, say))

    report = asyncio.run(
        run_verification(
            writer=writer,
            reader=reader,
            clients=clients,
            seconds=seconds,
            blow=blow if switchover or failover else None,
            say=say,
        )
    )
    if as_json:
        output.json_document(msgspec.json.encode(report))
    else:
        for line in report_lines(report):
            output.line(line)
    if not report.ok:
        raise typer.Exit(ExitCode.FAILED)


def report_lines(report: Report) -> list[str]:
    """Return the report for people."""
    from daemonkit.escape import visible_value

    report = visible_value(report)
    rto = f"{report.rto_ms:.0f} ms" if report.rto_ms is not None else "not known"
    errors = ", ".join(f"{state} {times}x" for state, times in report.errors.items()) or "none"
    lines = [
        f"{'kept its word' if report.ok else 'BROKE ITS WORD'}: {report.acknowledged} writes acknowledged, {report.lost} lost",
        f"RTO  {rto}, the longest time without an acknowledgement",
        f"RPO  {report.lost} acknowledged writes lost",
        f"in doubt  {report.in_doubt} writes, of which {report.in_doubt_kept} were kept; {report.refused} refused",
        f"reads  {report.reads_checked} checked, {report.reads_through_reader} of them through the reader endpoint",
        f"errors clients were told  {errors}",
    ]
    lines += [f"VIOLATION  {text}" for text in report.violations]
    if report.violations_left_out:
        lines.append(f"VIOLATION  ... and {report.violations_left_out} more")
    return lines
