"""Everything we ever say to a client in our own name, and nothing else does.

Each is a FATAL error, because each ends the connection.  Style: PostgreSQL's error message guide.  Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from pgwire.errors import WireError
from pgwire.messages import error_response
from pgwire.sqlstate import SqlState


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a client's connection ends."""

    sqlstate: SqlState
    message: str
    detail: str | None = None
    hint: str | None = None

    def encode(self) -> bytes:
        """Return it as the client reads it."""
        return error_response("FATAL", self.sqlstate, self.message, detail=self.detail, hint=self.hint)


def no_primary(endpoint: str) -> Refusal:
    """There is no writer, or nobody vouches for the one we know."""
    return Refusal(
        SqlState.CANNOT_CONNECT_NOW,
        f'no primary is available for endpoint "{endpoint}"',
        hint="A new primary may be chosen soon; try again.",
    )


def no_replica(endpoint: str) -> Refusal:
    """No replica may be read from, and the writer is no substitute."""
    return Refusal(SqlState.CANNOT_CONNECT_NOW, f'no replica is available for endpoint "{endpoint}"')


def unreachable(node: str) -> Refusal:
    """The server the endpoint stands for did not answer for as long as we were willing to try."""
    return Refusal(SqlState.UNABLE_TO_CONNECT, f'could not connect to server "{node}"')


def primary_changed() -> Refusal:
    """The session's server is no longer what the session was given."""
    return Refusal(SqlState.ADMIN_SHUTDOWN, "terminating connection because the primary has changed")


def primary_unconfirmed() -> Refusal:
    """Nobody has vouched for the session's server for too long: it may have been replaced, and what it shows may be old."""
    return Refusal(SqlState.ADMIN_SHUTDOWN, "terminating connection because the primary could not be confirmed")


def server_removed(node: str) -> Refusal:
    """The session's server left the cluster."""
    return Refusal(SqlState.ADMIN_SHUTDOWN, f'terminating connection because server "{node}" has left the cluster')


def shutting_down() -> Refusal:
    """This daemon ends."""
    return Refusal(SqlState.ADMIN_SHUTDOWN, "terminating connection because the endpoint is shutting down")


def server_lost() -> Refusal:
    """The server's connection ended while nothing was under way whose outcome matters."""
    return Refusal(SqlState.CONNECTION_FAILURE, "server closed the connection unexpectedly")


def outcome_unknown() -> Refusal:
    """The server was lost while it was busy, and what it was busy with may have been a commit."""
    return Refusal(
        SqlState.TRANSACTION_RESOLUTION_UNKNOWN,
        "server closed the connection unexpectedly, transaction resolution unknown",
        detail="The server was lost while a statement was running; if it was a commit, it may or may not have taken place.",
    )


def commit_unconfirmed() -> Refusal:
    """The wait for a commit's copies was cancelled: it is on one node, and may be lost with it (S15)."""
    return Refusal(
        SqlState.TRANSACTION_RESOLUTION_UNKNOWN,
        "commit was not confirmed by the quorum, transaction resolution unknown",
        detail="The wait for replication was canceled; the transaction is committed on the primary, but would be lost with it.",
    )


def too_many_connections(endpoint: str) -> Refusal:
    """A limit of ours is reached."""
    return Refusal(SqlState.TOO_MANY_CONNECTIONS, f'too many connections for endpoint "{endpoint}"')


def too_many_waiting(endpoint: str) -> Refusal:
    """There is nobody to connect to, and too many are waiting already."""
    return Refusal(
        SqlState.TOO_MANY_CONNECTIONS,
        f'too many connections are waiting for endpoint "{endpoint}"',
        hint="A new primary may be chosen soon; try again.",
    )


def not_understood(error: WireError) -> Refusal:
    """What the client sent is not the protocol, or not one that is spoken here."""
    return Refusal(error.sqlstate, str(error))


def startup_timeout() -> Refusal:
    """The client, or the login, took too long."""
    return Refusal(SqlState.PROTOCOL_VIOLATION, "canceling connection startup due to timeout")


def startup_lost(node: str) -> Refusal:
    """The server went away during a login that cannot be begun anew."""
    return Refusal(SqlState.CONNECTION_FAILURE, f'server "{node}" closed the connection during startup')


def internal_error() -> Refusal:
    """We are wrong. The log says how."""
    return Refusal(SqlState.INTERNAL_ERROR, "internal error")
