"""`up` and `down`: the local cluster's beginning and end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from daemonkit.exits import Failure, WrongUsage
from endpointctl import output
from endpointctl.options import DEFAULT_DATA_DIR, Target, command, not_empty, within

UP_TIMEOUT_S = 120.0
"""Three nodes take some seconds; a slow disk or a large clone gets its time."""
DOWN_TIMEOUT_S = 90.0


def register(app: typer.Typer) -> None:
    """Add this group's commands to *app*."""
    command(app, waits_s=UP_TIMEOUT_S)(up)
    command(app, waits_s=DOWN_TIMEOUT_S)(down)


def up(
    target: Target,
    nodes: Annotated[
        int | None, typer.Option("--nodes", callback=within(1, 16), help="PostgreSQL servers: 1, 2, 3 or 5 (3).")
    ] = None,
    proxies: Annotated[
        int | None,
        typer.Option("--proxies", callback=within(1, 4), help="Proxies, each with endpoints of its own: 1 to 4 (1)."),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(
            "--config",
            metavar="FILE",
            callback=not_empty,
            help="Preferences; see config/local.toml.",
        ),
    ] = None,
    base_port: Annotated[
        str | None, typer.Option("--base-port", metavar="PORT|auto", help="First port of the cluster (6400); auto finds some.")
    ] = None,
    pg_bin: Annotated[
        str | None, typer.Option("--pg-bin", metavar="DIR", callback=not_empty, help="PostgreSQL's programs (bundled ones).")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return once the cluster is started; it runs on.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="With --detach: return only when it is usable.")] = False,
) -> None:
    """Start a local cluster, or bring it back.

    In the foreground ^C stops it cleanly; with --detach `endpointctl down` does.
    """
    import asyncio
    import os

    from deployment.local.layout import Layout
    from deployment.local.preferences import load_preferences
    from endpointctl.local.checkup import what_is_lacking
    from endpointctl.local.foreground import Foreground, progress
    from endpointctl.local.paste import paste_lines
    from endpointctl.local.terminal import lasting_output
    from endpointctl.local.watching import until_usable
    from supervisor.door import Wishes, start_cluster

    if target.api is not None:
        raise WrongUsage("up starts a local cluster", hint="name its directory with --data-dir instead of --api")
    if wait and not detach:
        raise WrongUsage("--wait is for --detach", hint="in the foreground `up` shows by itself when the cluster is usable")
    os.umask(0o077)
    layout = Layout(target.data_dir)
    wishes = Wishes(
        node_count=nodes,
        proxy_count=proxies,
        base_port=_read_base_port(base_port),
        pg_bin=Path(pg_bin).expanduser() if pg_bin is not None else None,
        preferences=load_preferences(Path(config).expanduser() if config is not None else None),
    )
    console = output.console(lasting_output())
    say = output.printer(console)
    timeout_s = target.timeout_or(UP_TIMEOUT_S)

    async def run() -> None:
        started = await start_cluster(layout, wishes)
        plan = started.plan
        options = [] if layout.root == DEFAULT_DATA_DIR.expanduser() else ["--data-dir", str(layout.root)]
        welcome = ["", "The cluster is ready. To paste:", *paste_lines(layout, plan, options=options), ""]
        if lacks := what_is_lacking(Path(plan.pg_bin)):
            welcome.insert(1, lacks)
        if plan.durability == "async":
            welcome.insert(1, _ASYNC_WARNING.format(count=len(plan.nodes)))
        if started.already_ran:
            say(f"the cluster in {layout.root} runs already; `endpointctl down` stops it")
            if config is not None and started.waiting:
                say(f"{config} has other settings for {', '.join(started.waiting)}, for which it counts from the next start on")
        if not detach and not started.already_ran:
            await Foreground(layout, plan, console, welcome).run(timeout_s=timeout_s)
            return
        if wait or not detach:
            with progress(console) as tell:
                await until_usable(layout, plan, timeout_s=timeout_s, say=tell)
            for line in welcome:
                say(line)
        elif not started.already_ran:
            say("started; `endpointctl wait --state healthy` waits until it is usable")

    asyncio.run(run())


_ASYNC_WARNING = (
    "WARNING: {count} node(s) cannot make a quorum. Durability is async: an acknowledged commit is on the writer alone and is "
    "lost if that node is lost. Use 3 or 5 nodes for commits that survive."
)


def _read_base_port(text: str | None) -> int | None:
    if text is None:
        return None
    if text == "auto":
        return 0
    if text.isascii() and text.isdecimal() and 1 <= int(text[:6]) <= 65_436:
        return int(text)
    raise WrongUsage(f'"{text}" is not a base port', hint='give a number from 1 to 65436, or "auto"')


def down(
    target: Target,
    purge: Annotated[bool, typer.Option("--purge", help="Remove the data directory too: all data is gone.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --purge: do not ask.")] = False,
) -> None:
    """Stop the local cluster cleanly.

    The data stays, unless --purge is given.
    """
    import asyncio

    from deployment.local.directory import purge as purge_directory
    from deployment.local.layout import Layout
    from endpointctl.acting import note_act
    from endpointctl.asking import confirm
    from endpointctl.local.leaving import stop_local_cluster

    if target.api is not None:
        raise WrongUsage("down stops a local cluster", hint="name its directory with --data-dir instead of --api")
    layout = Layout(target.data_dir)
    if not layout.root.exists():
        raise Failure(f"there is no cluster in {layout.root}", hint="name its directory with --data-dir")
    if not layout.marker.is_file():
        raise Failure(
            f"{layout.root} does not carry our marker ({layout.marker.name}), nothing was touched",
            hint="name the directory of a cluster with --data-dir",
        )
    if purge:
        confirm(f"Stop the cluster and remove {layout.root} with all data?", yes=yes)

    async def run() -> bool:
        await note_act(target)
        return await stop_local_cluster(layout, output.line, timeout_s=target.timeout_or(DOWN_TIMEOUT_S))

    stopped = asyncio.run(run())
    if not stopped:
        output.line("nothing runs")
    if purge:
        purge_directory(layout)
        output.line(f"removed {layout.root}")
