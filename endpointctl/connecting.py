"""`dsn` and `psql`: how clients reach an endpoint or a node."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from endpointctl import completing, output
from endpointctl.exits import Failure, WrongUsage
from endpointctl.options import Target, command

if TYPE_CHECKING:
    from endpointctl.local.layout import Layout
    from endpointctl.local.plan import Plan

DoorArgument = Annotated[
    str, typer.Argument(metavar="writer|reader|NODE", help="An endpoint, or a node itself.", autocompletion=completing.doors)
]


def register(app: typer.Typer) -> None:
    """Add this group's commands to *app*."""
    command(app)(dsn)
    command(app, context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})(psql)


def dsn(
    target: Target,
    door: DoorArgument,
    with_password: Annotated[bool, typer.Option("--with-password", help="For drivers that read no password file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As an object: uri, host, port, user, dbname, passfile.")] = False,
) -> None:
    """Print the URI of an endpoint or a node."""
    import msgspec

    from endpointctl.local.paste import find_door
    from endpointctl.local.plan import DATABASE, USER

    layout, plan = _local_cluster(target)
    found = find_door(layout, plan, door)
    uri = found.uri
    if with_password:
        uri = found.uri_with_password(layout.secret("superuser").read_text().strip())
    if not as_json:
        output.line(uri)
        return
    described = {
        "uri": uri,
        "host": found.host,
        "port": found.port,
        "user": USER,
        "dbname": DATABASE,
        "passfile": str(found.passfile),
    }
    output.json_document(msgspec.json.encode(described))


def psql(
    target: Target,
    door: DoorArgument,
    arguments: Annotated[list[str] | None, typer.Argument(metavar="[-- ARGS]", help="Given to psql.")] = None,
) -> None:
    """Open psql on an endpoint or a node."""
    from endpointctl.local.paste import find_door, psql_arguments

    layout, plan = _local_cluster(target)
    command_line = psql_arguments(plan, find_door(layout, plan, door))
    environment = os.environ | {"PGPASSFILE": str(layout.passfile)}
    rest = arguments or []
    if rest[:1] == ["--"]:
        rest = rest[1:]
    try:
        os.execvpe(command_line[0], [*command_line, *rest], environment)  # noqa: S606 - no shell is wanted
    except OSError as error:
        raise Failure(
            f"psql cannot be started: {error.strerror} ({command_line[0]})",
            hint="`make install` installs the bundled one",
        ) from error


def _local_cluster(target: Target) -> tuple[Layout, Plan]:
    from endpointctl.local.directory import read_plan
    from endpointctl.local.layout import Layout

    if target.api is not None:
        raise WrongUsage("passwords are in the data directory", hint="name it with --data-dir instead of --api")
    layout = Layout(target.data_dir)
    plan = read_plan(layout)
    if plan is None:
        raise Failure(f"no cluster in {layout.root}", hint="make one with `endpointctl up`, or name one with --data-dir")
    return layout, plan
