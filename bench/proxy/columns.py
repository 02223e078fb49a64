"""What is asked of each way: pgbench with some clients, statements and protocol, in plaintext or over TLS. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

BULK = "select repeat('x', 1000) from generate_series(1, 200000);\n"
"""200 MB in rows of a kilobyte."""
BULK_FILE = "bulk.sql"

CLIENTS = (1, 8, 32)
MANY = (256, 1000)
SHORT = 8
_STATEMENTS = {"prepared": ("-S", "-M", "prepared"), "simple": ("-S",), "tpcb-like": ("-b", "tpcb-like")}


@dataclass(frozen=True, slots=True)
class Column:
    """One thing that pgbench does."""

    name: str
    options: tuple[str, ...]
    clients: int
    is_encrypted: bool = False
    is_prepared: bool = False
    """Statements of the protocol are kept from one transaction to the next."""
    is_short: bool = False
    """It belongs to a short run."""
    seconds_min: int = 1
    """It takes so long for one of its transactions to be sure."""


def columns(clients: Sequence[int]) -> tuple[Column, ...]:
    """Return all there are, with these numbers of clients; those over TLS last."""
    return (*_columns(clients, is_encrypted=False), *_columns(clients, is_encrypted=True))


def _columns(clients: Sequence[int], *, is_encrypted: bool) -> Iterator[Column]:
    tls = ", TLS" if is_encrypted else ""
    for kind, options in _STATEMENTS.items():
        for count in clients:
            threads = ("-j", "2") if count > 1 else ()
            yield Column(
                f"{kind} c{count}{tls}",
                (*options, "-c", str(count), *threads),
                count,
                is_encrypted,
                is_prepared=kind == "prepared",
                is_short=count == SHORT,
            )
    yield Column(f"bulk 200 MB{tls}", ("-n", "-c", "1", "-f", BULK_FILE), 1, is_encrypted, is_short=True, seconds_min=2)
    yield Column(f"connect, SCRAM{tls}", ("-S", "-C", "-c", "4", "-j", "2"), 4, is_encrypted, is_short=True)
