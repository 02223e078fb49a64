"""Where a suite logs in: one address, a superuser, a database."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Side(StrEnum):
    """The two ways to the same server."""

    DIRECT = "direct"
    THROUGH = "through"


class Way(StrEnum):
    """How clients speak; each has a cluster of its own."""

    PLAIN = "plain"
    TLS = "tls"
    """On both sides: the server itself speaks TLS too."""
    PGBOUNCER = "pgbouncer"
    """Through PgBouncer in session mode instead of an endpoint, in plaintext: told beside, and never a failure."""
    POOLED = "pooled"
    """Through the pooled writer endpoint, in plaintext: no session has a server for itself, so this is told beside, too."""

    @property
    def is_told_only(self) -> bool:
        """Whether what differs is nobody's to justify."""
        return self in (Way.PGBOUNCER, Way.POOLED)


@dataclass(frozen=True, slots=True)
class Server:
    """An address and who logs in there."""

    host: str
    port: int
    user: str
    password: str
    database: str
    way: Way

    def environment(self) -> dict[str, str]:
        """Return it as libpq's variables, which most drivers read; nobody's certificate is verified: they are not the same."""
        return {
            "PGHOST": self.host,
            "PGPORT": str(self.port),
            "PGUSER": self.user,
            "PGPASSWORD": self.password,
            "PGDATABASE": self.database,
            "PGSSLMODE": "require" if self.way is Way.TLS else "disable",
        }

    def uri(self, scheme: str = "postgresql", *, tls: str = "sslmode") -> str:
        """Return it as a URI; *tls* is what the driver calls libpq's sslmode."""
        tail = f"?{tls}=require" if self.way is Way.TLS else ""
        return f"{scheme}://{self.user}:{self.password}@{self.host}:{self.port}/{self.database}{tail}"
