"""psycopg2."""

from __future__ import annotations

import importlib
from typing import Any

from tests.compat.events.drivers.child import main

psycopg2 = importlib.import_module("psycopg2")


class Session:
    def __init__(self) -> None:
        self.connection: Any = psycopg2.connect("")
        self.connection.autocommit = True

    async def execute(self, statement: str) -> object:
        with self.connection.cursor() as cursor:
            return cursor.execute(statement)


async def connect() -> Session:
    return Session()


if __name__ == "__main__":
    main(connect)
