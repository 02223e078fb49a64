"""What each of our roles must be able to do: made with the data, and put right on the writer wherever SQL has changed it."""

from __future__ import annotations

from collections.abc import Mapping

from noded.postgres.conf import CONTROL_ROLE, PROBE_ROLE, REPLICATION_ROLE

REWIND_FUNCTIONS = (
    "pg_catalog.pg_ls_dir(text, boolean, boolean)",
    "pg_catalog.pg_stat_file(text, boolean)",
    "pg_catalog.pg_read_binary_file(text)",
    "pg_catalog.pg_read_binary_file(text, bigint, bigint, boolean)",
)
"""What pg_rewind calls on its source. Source: PostgreSQL documentation, pg_rewind, "Notes"."""

ATTRIBUTES: Mapping[str, str] = {
    CONTROL_ROLE: "LOGIN SUPERUSER",
    REPLICATION_ROLE: "LOGIN REPLICATION",
    PROBE_ROLE: "LOGIN",
}
"""Our roles, and what each of them must be able to do."""

MEMBERSHIPS: Mapping[str, str] = {REPLICATION_ROLE: "pg_checkpoint", PROBE_ROLE: "pg_monitor"}
