"""The password of role postgres of a local cluster: kept in secrets/superuser and, for libpq, in secrets/pgpass.

Both are always true: they are written together, and before one is used a login says whether the server still takes it,
because anybody who is superuser may give another.  A new one is noted beside the old one before the server hears of it, so
that an interrupted change is finished by giving the order again.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets

import asyncpg

from daemonkit.durable import write_durably
from daemonkit.exits import Failure
from deployment.local.directory import write_passfile
from deployment.local.layout import Layout
from deployment.local.plan import DATABASE, USER, Plan
from endpointctl.libpq import forget_leads
from endpointctl.local.paste import Door, doors, find_door
from pgwire.errors import WireError
from pgwire.scram import format_verifier, make_verifier

ASK_TIMEOUT_S = 2.0
"""A server that answers no login in this time says nothing of the password."""
CONTROL_ROLE = "endpointd"
"""noded's superuser; its password is beside the other one, and it logs in through the node's private socket only."""
SETTINGS = {"search_path": "pg_catalog", "application_name": "endpointctl secrets", "default_transaction_read_only": "off"}
SALT_BYTES = 16
POLL_S = 0.05
NEXT = "superuser.next"
"""Not beside the secrets, where the supervisor puts back whatever is removed."""


def kept_password(layout: Layout) -> str:
    """Return the password as it is kept here."""
    return layout.secret("superuser").read_text().rstrip("\n")


def require_known_password(layout: Layout, plan: Plan, door: Door) -> str:
    """Return the password. Raises Failure if the server behind *door* takes another; one that cannot be asked is no failure."""
    password = kept_password(layout)
    # A replica may not have replayed yet that it was changed: the writer knows.
    asked = (door, find_door(layout, plan, "writer"))
    if all(asyncio.run(is_taken(one, password)) is False for one in asked):
        if (layout.run / NEXT).exists():
            raise Failure("`endpointctl secrets rotate` was interrupted", hint="give it again, and it is finished")
        raise Failure(
            f'the password of "{USER}" was changed, and {layout.secret("superuser")} has the former one',
            hint="`endpointctl secrets set` takes the new one, `endpointctl secrets rotate` makes another",
        )
    return password


async def is_taken(door: Door, password: str) -> bool | None:
    """Return whether the server behind *door* lets postgres in with *password*; None if it cannot be asked."""
    forget_leads()
    try:
        async with asyncio.timeout(ASK_TIMEOUT_S):
            connection = await asyncpg.connect(
                host=door.host,
                port=door.port,
                user=USER,
                password=password,
                database=DATABASE,
                ssl=False,
                server_settings=SETTINGS,
            )
    except asyncpg.InvalidPasswordError:
        return False
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
        return None
    connection.terminate()
    return True


def keep(layout: Layout, plan: Plan, password: str) -> None:
    """Keep *password* as the one the server takes."""
    write_durably(layout.secret("superuser"), f"{password}\n".encode())
    write_passfile(layout, plan)
    (layout.run / NEXT).unlink(missing_ok=True)


async def until_replayed(layout: Layout, plan: Plan, password: str, *, timeout_s: float) -> None:
    """Return when no server refuses *password* any more, or *timeout_s* are over: then a replica is late, which status says."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            for door in doors(layout, plan).values():
                while await is_taken(door, password) is False:  # noqa: ASYNC110 - another process decides it
                    await asyncio.sleep(POLL_S)


def next_password(layout: Layout) -> str:
    """Return the password to change to: the one an interrupted change was about, else a new one, noted down."""
    noted = layout.run / NEXT
    if not noted.exists():
        write_durably(noted, f"{secrets.token_urlsafe(32)}\n".encode())
    return noted.read_text().rstrip("\n")


async def give(layout: Layout, node: str, port: int, password: str, *, timeout_s: float) -> None:
    """Have the writer, *node* on *port*, take *password* for postgres from now on. Raises Failure, TimeoutError.

    The server is given the verifier, so that the password stands in no log.
    """
    forget_leads()
    verifier = format_verifier(make_verifier(password, secrets.token_bytes(SALT_BYTES)))
    try:
        async with asyncio.timeout(timeout_s):
            connection = await asyncpg.connect(
                host=str(layout.sockets / node),
                port=port,
                user=CONTROL_ROLE,
                password=layout.secret("control").read_text().strip(),
                database=DATABASE,
                ssl=False,
                server_settings=SETTINGS,
            )
            try:
                await connection.execute(f"ALTER ROLE {USER} PASSWORD '{verifier}'")
            finally:
                connection.terminate()
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, WireError) as error:
        raise Failure(f'the writer "{node}" did not take the new password: {error}', hint="give the order again") from error
