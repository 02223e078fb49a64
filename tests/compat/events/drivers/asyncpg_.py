"""asyncpg."""

from __future__ import annotations

import importlib
from typing import Any

from tests.compat.events.drivers.child import attempt, main, say

asyncpg = importlib.import_module("asyncpg")


async def connect() -> Any:
    return await asyncpg.connect()


async def executemany(session: Any) -> None:
    say(ready=True)
    rows = [(1,), (2,), (3,)]
    await attempt("executemany", lambda: session.executemany("insert into quick select $1::int from pg_sleep(60)", rows))


async def connect_timeout(_session: Any) -> None:
    """What libpq takes for its own time limit in a URI."""
    say(ready=True)
    await attempt("connect", lambda: asyncpg.connect("postgresql://?connect_timeout=5"))


if __name__ == "__main__":
    main(connect, {"executemany": executemany, "connect_timeout in a URI": connect_timeout})
