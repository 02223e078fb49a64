"""`config show|check|set`: PostgreSQL's settings, the same on every node.

What is refused is refused by the manager before anything is written; this file only reads arguments and prints answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from daemonkit.exits import Failure, Unfinished, WrongUsage
from endpointctl import output
from endpointctl.options import REQUEST_TIMEOUT_S, Target, command
from endpointctl.options import group as new_group

if TYPE_CHECKING:
    from daemonkit.oneshot import OneShotClient
    from pgtopology.configuration import ConfigChange, ConfigChanged, ConfigView

CONFIG_PATH = "/v1/config"
CHECK_TIMEOUT_S = 40.0
"""Longer than the manager waits for PostgreSQL's own word."""
WAIT_TIMEOUT_S = 30.0
POLL_S = 0.1
RESTART_HINT = "`endpointctl restart --only-pending` restarts one node after another"

JsonOption = Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")]


def register(app: typer.Typer) -> None:
    """Add this group's commands to *app*."""
    group = new_group("Show, check and change PostgreSQL's settings.")
    command(group, waits_s=REQUEST_TIMEOUT_S)(show)
    command(group)(check)
    command(group, "set", waits_s=WAIT_TIMEOUT_S)(set_)
    app.add_typer(group, name="config")


def show(target: Target, as_json: JsonOption = False) -> None:
    """Show the settings, and on which nodes they are in force."""
    import asyncio

    from endpointctl.api import manager
    from pgtopology.codec import decode
    from pgtopology.configuration import ConfigView

    async def run() -> None:
        async with manager(target) as client:
            body = await client.get(CONFIG_PATH, timeout_s=target.timeout_or(REQUEST_TIMEOUT_S))
        if as_json:
            output.json_document(body)
        else:
            output.lines(view_lines(decode(body, ConfigView)))

    asyncio.run(run())


def check(
    target: Target,
    what: Annotated[list[str], typer.Argument(metavar="FILE|NAME=VALUE...", help="A file as for `up --config`, or values.")],
    as_json: JsonOption = False,
) -> None:
    """Say whether settings would be accepted, and change nothing."""
    import msgspec

    files = [word for word in what if "=" not in word]
    if files and len(what) > 1:
        raise WrongUsage("check takes one FILE, or NAME=VALUE once or more")
    wish = _whole_file(Path(files[0])) if files else _values(what, ())
    answer = _send(target, msgspec.structs.replace(wish, check_only=True))
    if as_json:
        output.json_document(msgspec.json.encode(answer))
        return
    output.line("accepted" if answer.changed else "accepted; nothing would change")
    output.lines(_restart_lines(answer))


def set_(
    target: Target,
    values: Annotated[list[str] | None, typer.Argument(metavar="[NAME=VALUE...]", help="Parameters to give.")] = None,
    reset: Annotated[
        list[str] | None,
        typer.Option(
            "--reset",
            metavar="NAME",
            help="Give this parameter no more, if it is given; a name that no parameter has is refused. May be repeated.",
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", metavar="FILE", help="[postgres] settings and hba of this file; what is not in it goes."),
    ] = None,
    relaxed_commits: Annotated[
        str | None,
        typer.Option("--relaxed-commits", metavar="on|off", help="Whether sessions may turn synchronous_commit down."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Return only when it is in force on every node.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Change settings of every node.

    All is checked first, by PostgreSQL itself too: if anything is refused, nothing changes.
    """
    import msgspec

    if file is not None and (values or reset):
        raise WrongUsage("--file is the whole, and takes no NAME=VALUE and no --reset beside it")
    if relaxed_commits not in (None, "on", "off"):
        raise WrongUsage(f'--relaxed-commits is on or off, not "{relaxed_commits}"')
    if any(not name.strip() for name in reset or ()):
        raise WrongUsage("--reset needs the name of a parameter")
    if file is None and not values and not reset and relaxed_commits is None:
        raise WrongUsage("nothing to set", hint="give NAME=VALUE, --reset NAME, --file FILE or --relaxed-commits on|off")
    wish = _whole_file(file) if file is not None else _values(values or (), reset or ())
    if relaxed_commits is not None:
        wish = msgspec.structs.replace(wish, relaxed_commits=relaxed_commits == "on")
    answer = _send(target, wish)
    if as_json:
        output.json_document(msgspec.json.encode(answer))
    elif answer.changed:
        output.line(f"the settings are version {answer.version}")
    else:
        output.line(f"nothing changes: the settings are version {answer.version}")
    if wait:
        _wait(target, answer.version)
    elif not as_json:
        output.lines(_restart_lines(answer))


def view_lines(view: ConfigView) -> list[str]:
    """Return the settings for a terminal."""
    from daemonkit.escape import visible_value

    view = visible_value(view)
    origin = " (as the cluster was made)" if view.version == 0 else ""
    lines = [f"settings of PostgreSQL, version {view.version}{origin}"]
    behind = [node for node in view.nodes if not node.loaded]
    rows = [("parameter", "wanted", "in force")]
    for name, value in sorted(view.parameters.items()):
        waiting = [node.name for node in view.nodes if name in node.restart_for]
        rows.append((name, value, f"after a restart of {', '.join(waiting)}" if waiting else "no" if behind else "yes"))
    for name in sorted({name for node in view.nodes for name in node.restart_for} - set(view.parameters)):
        waiting = [node.name for node in view.nodes if name in node.restart_for]
        rows.append((name, "(default)", f"after a restart of {', '.join(waiting)}"))
    if len(rows) > 1:
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        lines += [f"{name:<{widths[0]}}  {value:<{widths[1]}}  {state}".rstrip() for name, value, state in rows]
    lines += [f"pg_hba: {line}" for line in view.hba]
    lines.append(f"relaxed commits: {'on' if view.relaxed_commits else 'off'}")
    for node in behind:
        lines.append(f'"{node.name}" ' + ("does not answer" if node.version is None else "has not read this version yet"))
    if any(node.restart_for for node in view.nodes):
        lines.append(RESTART_HINT)
    return lines


def _whole_file(path: Path) -> ConfigChange:
    from deployment.local.preferences import load_preferences
    from pgtopology.configuration import ConfigChange

    chosen = load_preferences(path).postgres
    return ConfigChange(parameters=chosen.settings, hba=chosen.hba, whole=True)


def _values(words: Iterable[str], reset: Sequence[str]) -> ConfigChange:
    from pgtopology.configuration import ConfigChange

    parameters: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        name = name.strip()
        if not equals or not name:
            raise WrongUsage(f'"{word}" is not NAME=VALUE')
        if name.lower() in (known.lower() for known in parameters):
            raise WrongUsage(f'"{name}" is given twice')
        parameters[name] = value.strip()
    return ConfigChange(parameters=parameters, reset=tuple(reset))


def _send(target: Target, wish: ConfigChange) -> ConfigChanged:
    import asyncio

    from endpointctl.api import manager
    from pgtopology.codec import decode, encode
    from pgtopology.configuration import ConfigChanged

    async def run() -> ConfigChanged:
        async with manager(target) as client:
            return decode(await client.post(CONFIG_PATH, encode(wish), timeout_s=CHECK_TIMEOUT_S), ConfigChanged)

    return asyncio.run(run())


def _wait(target: Target, version: int) -> None:
    """Return when every node goes by *version*. Raises Unfinished, also when only a restart can bring it about."""
    import asyncio
    import time

    from daemonkit.httpanswers import HttpUnavailable
    from endpointctl.api import manager

    async def run() -> None:
        deadline = time.monotonic() + target.timeout_or(WAIT_TIMEOUT_S)
        seen = "no manager answered"
        async with manager(target) as client:
            while True:
                try:
                    view = await _view(client)
                except HttpUnavailable as error:
                    seen = str(error)
                else:
                    if view.version > version:
                        raise Failure(f"the settings are version {view.version} by now, not {version}")
                    late = [node.name for node in view.nodes if not node.loaded]
                    if not late:
                        _refuse_waiting(view)
                        return
                    seen = f"{', '.join(late)} did not take them over"
                if time.monotonic() >= deadline:
                    raise Unfinished(
                        f"version {version} is accepted, but not in force everywhere: {seen}",
                        hint="look at `endpointctl config show`",
                    )
                await asyncio.sleep(POLL_S)

    asyncio.run(run())


async def _view(client: OneShotClient) -> ConfigView:
    from pgtopology.codec import decode
    from pgtopology.configuration import ConfigView

    return decode(await client.get(CONFIG_PATH, timeout_s=REQUEST_TIMEOUT_S), ConfigView)


def _refuse_waiting(view: ConfigView) -> None:
    names = sorted({name for node in view.nodes for name in node.restart_for})
    if names:
        waiting = ", ".join(node.name for node in view.nodes if node.restart_for)
        raise Unfinished(f"{', '.join(names)} takes effect after a restart of {waiting}", hint=RESTART_HINT)


def _restart_lines(answer: ConfigChanged) -> list[str]:
    if not answer.restart_for:
        return []
    return [f"{', '.join(answer.restart_for)} takes effect at each node's next start; {RESTART_HINT}"]
