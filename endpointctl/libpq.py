"""libpq's environment variables, which psql and drivers obey: those that lead elsewhere must not count for our endpoints.

Where to connect, as whom and how is the endpoint's to say.  What is left says how things look, and, for roles whose password is
not kept here, what it is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

LOOKS = frozenset({"PGAPPNAME", "PGCLIENTENCODING", "PGDATESTYLE", "PGTZ", "PGLOCALEDIR", "PG_COLOR", "PG_COLORS"})
PASSWORDS = frozenset({"PGPASSWORD", "PGPASSFILE"})


def without_leads(environment: Mapping[str, str], *, with_passwords: bool) -> dict[str, str]:
    """Return *environment* without the variables that would lead libpq elsewhere."""
    kept = LOOKS | PASSWORDS if with_passwords else LOOKS
    return {name: value for name, value in environment.items() if not name.startswith("PG") or name in kept}


def forget_leads() -> None:
    """Take them out of this process's environment, where asyncpg looks for them at each connection."""
    kept = without_leads(os.environ, with_passwords=True)
    for name in set(os.environ) - set(kept):
        del os.environ[name]
