"""Makes a new data directory, and the roles our programs log in as.

The control role is the bootstrap superuser, which PostgreSQL lets nobody drop and, since 16, nobody make less; the users'
superuser is made beside it.  The roles are made in single-user mode, before any connection is possible, so that there is no
moment in which somebody gets in without a password.  Passwords travel through pipes and private files,
never through a command line.
"""

from __future__ import annotations

from pathlib import Path

from daemonkit.durable import write_durably
from noded.postgres.binaries import Binaries
from noded.postgres.conf import CONTROL_ROLE, DATABASE, OTHER_DATABASE, REPLICATION_ROLE, SUPERUSER, quote_literal
from noded.postgres.privileges import ATTRIBUTES, MEMBERSHIPS, REWIND_FUNCTIONS
from noded.postgres.tools import ToolError, run_tool

INIT_TIMEOUT_S = 120.0


async def make_data_directory(binaries: Binaries, target: Path, *, passwords: dict[str, str], passfile: Path) -> None:
    """Make a data directory at *target* with our roles in it, durable when this returns. Raises ToolError.

    *passwords*: of the roles postgres and ours. *passfile*: where initdb may read the control role's, for the moment.
    """
    write_durably(passfile, f"{passwords[CONTROL_ROLE]}\n".encode())
    try:
        await run_tool(
            binaries.command(
                "initdb",
                "--pgdata",
                str(target),
                f"--username={CONTROL_ROLE}",
                f"--pwfile={passfile}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--data-checksums",
                # The same order of texts on every system, so that copies between systems keep their indexes.
                *(("--locale-provider=builtin", "--locale=C.UTF-8") if binaries.major >= 17 else ("--locale=C.UTF-8",)),
                "--no-sync",
                "--no-instructions",
            ),
            timeout_s=INIT_TIMEOUT_S,
        )
    finally:
        passfile.unlink(missing_ok=True)
    await _run_single(binaries, target, OTHER_DATABASE, [*role_statements(passwords), *function_statements()])
    await _run_single(binaries, target, DATABASE, function_statements())
    await run_tool(binaries.command("initdb", "--sync-only", "--pgdata", str(target)), timeout_s=INIT_TIMEOUT_S)


async def _run_single(binaries: Binaries, target: Path, database: str, statements: list[str]) -> None:
    """Run *statements*, one a line, in *database* of the server that does not run yet. Raises ToolError."""
    printed = await run_tool(
        binaries.command("postgres", "--single", "-D", str(target), "-c", "log_min_messages=warning", database),
        stdin="".join(f"{statement}\n" for statement in statements).encode(),
        timeout_s=INIT_TIMEOUT_S,
    )
    # Single-user mode goes on after an error and ends well.
    for line in printed.splitlines():
        if any(word in line for word in ("ERROR:", "FATAL:", "PANIC:")):
            raise ToolError(f"the roles could not be made: {line}")


def role_statements(passwords: dict[str, str]) -> list[str]:
    """Return the statements that make the roles and our database."""
    superuser = f"{SUPERUSER} LOGIN SUPERUSER CREATEDB CREATEROLE REPLICATION BYPASSRLS"
    others = [role for role in ATTRIBUTES if role != CONTROL_ROLE]
    return [
        f"CREATE ROLE {superuser} PASSWORD {quote_literal(passwords[SUPERUSER])};",
        *(f"ALTER DATABASE {database} OWNER TO {SUPERUSER};" for database in ("postgres", "template1", "template0")),
        *(f"CREATE ROLE {role} {ATTRIBUTES[role]} PASSWORD {quote_literal(passwords[role])};" for role in others),
        *(f"GRANT {group} TO {role};" for role, group in MEMBERSHIPS.items()),
        f"CREATE DATABASE {DATABASE} TEMPLATE template0;",
        f"REVOKE ALL ON DATABASE {DATABASE} FROM PUBLIC;",
        f"GRANT CONNECT ON DATABASE {DATABASE} TO {', '.join(others)};",
    ]


def function_statements() -> list[str]:
    """Return the statements that let a rewind read files of its source, in the database they are run in."""
    return [f"GRANT EXECUTE ON FUNCTION {function} TO {REPLICATION_ROLE};" for function in REWIND_FUNCTIONS]
