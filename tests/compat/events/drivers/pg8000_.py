"""pg8000."""

from __future__ import annotations

import importlib
import os
from typing import Any

from tests.compat.events.drivers.child import main

dbapi = importlib.import_module("pg8000.dbapi")


class Session:
    def __init__(self) -> None:
        place = {"host": os.environ["PGHOST"], "port": int(os.environ["PGPORT"]), "database": os.environ["PGDATABASE"]}
        self.connection: Any = dbapi.connect(user=os.environ["PGUSER"], password=os.environ["PGPASSWORD"], **place)
        self.connection.autocommit = True

    async def execute(self, statement: str) -> object:
        return self.connection.cursor().execute(statement)


async def connect() -> Session:
    return Session()


if __name__ == "__main__":
    main(connect)
