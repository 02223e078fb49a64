"""How a program of ours tells what it saw: a line each, the name, a tab, the value; equal lines mean equal behaviour."""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Callable


def tell(name: str, value: object) -> None:
    """Print one observation; what differs from run to run (numbers of processes, ports) is taken out."""
    print(f"{name}\t{steady(str(value))}", flush=True)


def steady(text: str) -> str:
    """Return *text* on one line and without what no two runs have in common."""
    text = text.replace(os.environ["PGPASSWORD"], "PASSWORD").replace(os.environ["PGPORT"], "PORT")
    text = re.sub(r"\b(PID|pid|process) \d+", r"\1 N", text)
    return " | ".join(line.strip() for line in text.strip().splitlines())


def run_all(observations: dict[str, Callable[[], object]]) -> None:
    """Make each observation; an exception is one too."""
    for name, observe in observations.items():
        try:
            value = observe()
        except Exception as error:
            if os.environ.get("COMPAT_TRACE"):
                traceback.print_exc(file=sys.stderr)
            sqlstate = getattr(error, "sqlstate", None)
            value = f"{type(error).__name__} {sqlstate or ''}: {error}"
        tell(name, value)
