"""psycopg 3."""

from __future__ import annotations

import psycopg

from tests.compat.events.drivers.child import attempt, main, say


class Session:
    def __init__(self, connection: psycopg.Connection) -> None:
        self.connection = connection

    async def execute(self, statement: str) -> object:
        return self.connection.execute(statement.encode())


async def connect() -> Session:
    return Session(psycopg.connect(autocommit=True))


async def pipeline(session: Session) -> None:
    """A pipeline, each statement of which sleeps."""

    async def work() -> None:
        with session.connection.pipeline():
            for _ in range(3):
                session.connection.execute("insert into quick select 1 from pg_sleep(60)")

    say(ready=True)
    await attempt("pipeline", work)


async def executemany(session: Session) -> None:
    async def work() -> None:
        session.connection.cursor().executemany("insert into quick select %s from pg_sleep(60)", [(1,), (2,), (3,)])

    say(ready=True)
    await attempt("executemany", work)


if __name__ == "__main__":
    main(connect, {"pipeline": pipeline, "executemany": executemany})
