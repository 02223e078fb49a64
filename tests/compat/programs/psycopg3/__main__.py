"""Makes every observation."""

from __future__ import annotations

import importlib

from tests.compat.inside.observing import run_all
from tests.compat.programs.psycopg3.common import OBSERVATIONS

if __name__ == "__main__":
    for name in ("logins", "results", "bulk", "ends"):
        importlib.import_module(f"tests.compat.programs.psycopg3.{name}")
    run_all(OBSERVATIONS)
