"""`secrets rotate|set`: the password of role postgres and the API's tokens, which are kept in the local cluster's directory."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from daemonkit.exits import Failure, Unfinished, WrongUsage
from endpointctl import output
from endpointctl.options import Target, command
from endpointctl.options import group as new_group

ROTATE_TIMEOUT_S = 30.0


def register(app: typer.Typer) -> None:
    """Add this group's commands to *app*."""
    group = new_group("The superuser's password and the tokens: make others, or tell one.")
    command(group, waits_s=ROTATE_TIMEOUT_S)(rotate)
    command(group, "set")(set_)
    app.add_typer(group, name="secrets")


def rotate(
    target: Target,
    tokens: Annotated[
        bool, typer.Option("--tokens", help="Instead, other tokens of scopes admin, operate, read, scrape.")
    ] = False,
) -> None:
    """Give role postgres another password, and keep it in secrets/superuser and secrets/pgpass.

    The former one need not be known. Sessions that are open go on. If it is interrupted, the same command finishes it.
    """
    if tokens:
        _rotate_tokens(target)
    else:
        _rotate_password(target)


def _rotate_tokens(target: Target) -> None:
    import asyncio

    from endpointctl.acting import note_act
    from endpointctl.connecting import local_cluster
    from endpointctl.local.standing import ask_standing
    from supervisor.door import rotate_tokens

    layout, plan = local_cluster(target)
    scopes = rotate_tokens(layout, plan)
    asyncio.run(ask_standing(layout))  # so that the supervisor has seen them
    asyncio.run(note_act(target))
    output.line(f"the tokens of {', '.join(scopes)} are others now; they are in {layout.run}")


def _rotate_password(target: Target) -> None:
    import asyncio

    from endpointctl.acting import note_act
    from endpointctl.api import fetch_status, manager
    from endpointctl.connecting import local_cluster
    from endpointctl.local.standing import ask_standing
    from endpointctl.superuser import give, keep, next_password, until_replayed

    layout, plan = local_cluster(target)
    timeout_s = target.timeout_or(ROTATE_TIMEOUT_S)

    async def run() -> None:
        async with manager(target) as client:
            writer = (await fetch_status(client)).writer
        node = plan.find(writer) if writer is not None else None
        if node is None:
            raise Failure("there is no writer at this moment", hint="look at `endpointctl status`, and give the order again")
        password = next_password(layout)
        try:
            await give(layout, node.name, node.port, password, timeout_s=timeout_s)
        except TimeoutError:
            raise Unfinished(f"the writer did not answer within {timeout_s:g} s", hint="give the order again") from None
        keep(layout, plan, password)
        await ask_standing(layout)  # so that the supervisor has seen it
        await note_act(target)
        await until_replayed(layout, plan, password, timeout_s=timeout_s)

    asyncio.run(run())
    output.line(f"postgres has another password; it is kept in {layout.secret('superuser')} and {layout.passfile}")


def set_(
    target: Target,
    password_file: Annotated[
        Path | None, typer.Option("--password-file", metavar="FILE|-", help="Read it here instead of asking for it.")
    ] = None,
) -> None:
    """Tell the password that role postgres was given by somebody (ALTER ROLE, \\password), so that psql, dsn and verify work.

    It is kept only if the writer takes it.
    """
    import asyncio

    from endpointctl.connecting import local_cluster
    from endpointctl.local.paste import find_door
    from endpointctl.local.standing import ask_standing
    from endpointctl.superuser import is_taken, keep

    layout, plan = local_cluster(target)
    password = _read_password(password_file)
    taken = asyncio.run(is_taken(find_door(layout, plan, "writer"), password))
    if taken is None:
        raise Failure("the writer endpoint cannot be asked whether it takes this password", hint="see `endpointctl status`")
    if not taken:
        raise Failure("the writer does not take it, nothing was changed", hint="`endpointctl secrets rotate` makes another")
    keep(layout, plan, password)
    asyncio.run(ask_standing(layout))  # so that the supervisor has seen it
    output.line(f"kept in {layout.secret('superuser')} and {layout.passfile}")


def _read_password(path: Path | None) -> str:
    """Return the password of postgres from *path* or the terminal. Raises WrongUsage, Failure."""
    import getpass

    if path is None:
        if not sys.stdin.isatty():
            raise WrongUsage("there is no terminal to ask at", hint="give --password-file FILE, or - for standard input")
        password = getpass.getpass("The password of postgres: ")
    elif str(path) == "-":
        password = sys.stdin.readline()
    else:
        try:
            password = path.expanduser().read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise Failure(f"{path} cannot be read: {error}", hint="name a file with the password alone in it") from error
    password = password.removesuffix("\n")
    if not password or "\n" in password or "\0" in password:
        raise WrongUsage("the password must be one line that is not empty")
    return password
