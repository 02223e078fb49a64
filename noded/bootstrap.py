"""Makes a new data directory, and the roles our programs log in as.

The roles are made in single-user mode, before any connection is possible, so that there is no moment in which somebody
gets in without a password.  Passwords travel through pipes and private files, never through a command line.
"""

from __future__ import annotations

from pathlib import Path

from daemonkit.durable import write_durably
from noded.binaries import Binaries
from noded.conf import CONTROL_ROLE, PROBE_ROLE, REPLICATION_ROLE, quote_literal
from noded.tools import ToolError, run_tool

INIT_TIMEOUT_S = 120.0

REWIND_FUNCTIONS = (
    "pg_catalog.pg_ls_dir(text, boolean, boolean)",
    "pg_catalog.pg_stat_file(text, boolean)",
    "pg_catalog.pg_read_binary_file(text)",
    "pg_catalog.pg_read_binary_file(text, bigint, bigint, boolean)",
)
"""What pg_rewind calls on its source. Source: PostgreSQL documentation, pg_rewind, "Notes"."""


async def make_data_directory(binaries: Binaries, target: Path, *, passwords: dict[str, str], passfile: Path) -> None:
    """Make a data directory at *target* with our roles in it, durable when this returns. Raises ToolError.

    *passwords*: of the roles postgres and ours. *passfile*: where initdb may read the superuser's, for the moment.
    """
    write_durably(passfile, f"{passwords['postgres']}\n".encode())
    try:
        await run_tool(
            binaries.command(
                "initdb",
                "--pgdata",
                str(target),
                "--username=postgres",
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
    printed = await run_tool(
        binaries.command("postgres", "--single", "-D", str(target), "-c", "log_min_messages=warning", "postgres"),
        stdin="".join(f"{statement}\n" for statement in role_statements(passwords)).encode(),
        timeout_s=INIT_TIMEOUT_S,
    )
    # Single-user mode goes on after an error and ends well.
    for line in printed.splitlines():
        if any(word in line for word in ("ERROR:", "FATAL:", "PANIC:")):
            raise ToolError(f"the roles could not be made: {line}")
    await run_tool(binaries.command("initdb", "--sync-only", "--pgdata", str(target)), timeout_s=INIT_TIMEOUT_S)


def role_statements(passwords: dict[str, str]) -> list[str]:
    """Return the statements, one a line, that make our roles."""
    return [
        f"CREATE ROLE {CONTROL_ROLE} LOGIN SUPERUSER PASSWORD {quote_literal(passwords[CONTROL_ROLE])};",
        f"CREATE ROLE {REPLICATION_ROLE} LOGIN REPLICATION PASSWORD {quote_literal(passwords[REPLICATION_ROLE])};",
        f"CREATE ROLE {PROBE_ROLE} LOGIN PASSWORD {quote_literal(passwords[PROBE_ROLE])};",
        f"GRANT pg_monitor TO {PROBE_ROLE};",
        # A rewind reads files of its source, and wants a checkpoint there first.
        f"GRANT pg_checkpoint TO {REPLICATION_ROLE};",
        *(f"GRANT EXECUTE ON FUNCTION {function} TO {REPLICATION_ROLE};" for function in REWIND_FUNCTIONS),
    ]
