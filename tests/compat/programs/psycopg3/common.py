"""What the observations share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg

DEADLINE_S = 60.0
OBSERVATIONS: dict[str, Callable[[], object]] = {}


def observation(function: Callable[[], object]) -> Callable[[], object]:
    """Have *function* be called, and what it returns or raises be told."""
    OBSERVATIONS[function.__name__] = function
    return function


def connect(**options: Any) -> psycopg.Connection:
    """Return a session in which each statement is its own transaction."""
    return psycopg.connect(autocommit=True, **options)
