"""Everything we ever say to a client in our own name, and nothing else does.

Each is a FATAL error, because each ends the connection.  Style: PostgreSQL's error message guide.  Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from pgwire.errors import VersionError, WireError
from pgwire.messages import Backend, encode_report, make_report
from pgwire.sqlstate import SqlState

SHOWN_MAX = 63
"""Of a client's own words in a text; as long as a PostgreSQL name may be."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a client's connection ends."""

    kind: str
    """A word for counting it; the same for every node and endpoint."""
    sqlstate: str
    message: str
    detail: str | None = None
    hint: str | None = None
    routine: str | None = None
    """Where PostgreSQL says the same: the function's name in field R; else it is *kind*."""

    def encode(self) -> bytes:
        """Return it as the client reads it."""
        source = ("endpointd", self.routine or self.kind)
        report = make_report("FATAL", self.sqlstate, self.message, detail=self.detail, hint=self.hint, source=source)
        return encode_report(Backend.ERROR_RESPONSE, report)


def no_primary(endpoint: str) -> Refusal:
    """There is no writer, or nobody vouches for the one we know."""
    return Refusal(
        "no_primary",
        SqlState.CANNOT_CONNECT_NOW,
        f'no primary is available for endpoint "{endpoint}"',
        hint="A new primary may be chosen soon; try again.",
    )


def no_replica(endpoint: str) -> Refusal:
    """No replica may be read from, and the writer is no substitute."""
    return Refusal("no_replica", SqlState.CANNOT_CONNECT_NOW, f'no replica is available for endpoint "{endpoint}"')


def not_available(endpoint: str) -> Refusal:
    """The one node an instance endpoint stands for is no member, or is being made the writer."""
    return Refusal("not_available", SqlState.CANNOT_CONNECT_NOW, f'server "{endpoint}" is not available')


def password_failed(user: str) -> Refusal:
    """The client does not know the password, or there is no such role, or it has no password: nobody is to tell which."""
    return Refusal(
        "password_failed",
        SqlState.INVALID_PASSWORD,
        f'password authentication failed for user "{shown(user)}"',
        routine="auth_failed",
    )


def certificate_missing() -> Refusal:
    """A rule asks for a certificate, and the client has shown none."""
    return Refusal(
        "certificate_missing",
        SqlState.INVALID_AUTHORIZATION,
        "connection requires a valid client certificate",
        routine="ClientAuthentication",
    )


def certificate_failed(user: str) -> Refusal:
    """The client's certificate is not one for *user*, or nobody may be *user* by a certificate."""
    return Refusal(
        "certificate_failed",
        SqlState.INVALID_AUTHORIZATION,
        f'certificate authentication failed for user "{shown(user)}"',
        routine="auth_failed",
    )


def not_vouched_for(user: str) -> Refusal:
    """A rule trusts the client, and the servers do not take the proxy's word for *user*."""
    return Refusal(
        "not_vouched_for",
        SqlState.INVALID_AUTHORIZATION,
        f'"trust" authentication failed for user "{shown(user)}"',
        detail="Who is or can become a superuser, who replicates, and who is unknown to the servers needs a password.",
        routine="auth_failed",
    )


def certificate_refused(node: str) -> Refusal:
    """A server refuses the proxy's own certificate."""
    return Refusal(
        "certificate_refused", SqlState.CONNECTION_FAILURE, f'server "{node}" refused the certificate of the endpoint'
    )


def not_permitted(endpoint: str, who: str, *, is_rejected: bool) -> Refusal:
    """A rule of the endpoint rejects *who*, or none is for it."""
    verdict = "rejects connection" if is_rejected else "has no rule for connection"
    return Refusal("not_permitted", SqlState.INVALID_AUTHORIZATION, f'endpoint "{endpoint}" {verdict} {who}')


def roles_unknown(endpoint: str) -> Refusal:
    """Right after the proxy's start: no node has told yet which roles there are."""
    return Refusal(
        "roles_unknown",
        SqlState.CANNOT_CONNECT_NOW,
        f'endpoint "{endpoint}" does not know the roles of the cluster yet',
        hint="No server has told them since the endpoint was started; try again.",
    )


def roles_outdated(endpoint: str) -> Refusal:
    """No node has told for some seconds which roles there are: a superuser by now might be taken for who it was."""
    return Refusal(
        "roles_unknown",
        SqlState.CANNOT_CONNECT_NOW,
        f'endpoint "{endpoint}" does not know the roles of the cluster any more',
        hint="No server has told them for some seconds; try again, or log in with a password.",
    )


def other_method(node: str, method: str) -> Refusal:
    """The server's pg_hba.conf asks a client for what it has not told us."""
    return Refusal(
        "other_method",
        SqlState.INVALID_AUTHORIZATION,
        f'server "{node}" asks for {method} authentication, which the endpoint cannot answer',
        hint='Let the server authenticate this client itself, by a rule of the endpoint with the method "relay".',
    )


def server_unproven(node: str) -> Refusal:
    """A server did not prove that it has the role's secret, or broke the protocol of the proof."""
    return Refusal(
        "server_unproven", SqlState.CONNECTION_FAILURE, f'server "{node}" did not prove that it belongs to the cluster'
    )


def password_not_there(node: str) -> Refusal:
    """The role's password was set lately, and no replica that may serve it has heard."""
    return Refusal(
        "password_not_there",
        SqlState.CANNOT_CONNECT_NOW,
        f'server "{node}" does not know the present password of this role yet',
        hint="The password was changed lately; try again.",
    )


def unreachable(node: str) -> Refusal:
    """The server the endpoint stands for did not answer for as long as we were willing to try."""
    return Refusal("unreachable", SqlState.UNABLE_TO_CONNECT, f'could not connect to server "{node}"')


def primary_changed() -> Refusal:
    """The session's server is no longer what the session was given."""
    return Refusal("primary_changed", SqlState.ADMIN_SHUTDOWN, "terminating connection because the primary has changed")


def primary_unconfirmed() -> Refusal:
    """Nobody has vouched for the session's server for too long: it may have been replaced, and what it shows may be old."""
    return Refusal(
        "primary_unconfirmed", SqlState.ADMIN_SHUTDOWN, "terminating connection because the primary could not be confirmed"
    )


def server_removed(node: str) -> Refusal:
    """The session's server left the cluster."""
    return Refusal(
        "server_removed", SqlState.ADMIN_SHUTDOWN, f'terminating connection because server "{node}" has left the cluster'
    )


def terminated() -> Refusal:
    """An operator ends the session, in PostgreSQL's words for it."""
    return Refusal(
        "terminated",
        SqlState.ADMIN_SHUTDOWN,
        "terminating connection due to administrator command",
        routine="ProcessInterrupts",
    )


def shutting_down() -> Refusal:
    """This daemon ends."""
    return Refusal("shutting_down", SqlState.ADMIN_SHUTDOWN, "terminating connection because the endpoint is shutting down")


def server_lost() -> Refusal:
    """The server's connection ended while nothing was under way that it may have committed.

    ADMIN_SHUTDOWN as for every session that ends without loss: it proves that, and drivers that know failovers act on it.
    """
    return Refusal("server_lost", SqlState.ADMIN_SHUTDOWN, "terminating connection because its server was lost")


def statement_lost() -> Refusal:
    """A replica was lost in the middle of a statement. It commits nothing, but may have become a primary unheard of by us."""
    return Refusal("server_lost", SqlState.CONNECTION_FAILURE, "server closed the connection unexpectedly")


def outcome_unknown() -> Refusal:
    """The server was lost while it was busy, and what it was busy with may have been a commit."""
    return Refusal(
        "outcome_unknown",
        SqlState.TRANSACTION_RESOLUTION_UNKNOWN,
        "server closed the connection unexpectedly, transaction resolution unknown",
        detail="The server was lost while a statement was running; if it was a commit, it may or may not have taken place.",
    )


def commit_unconfirmed() -> Refusal:
    """The wait for a commit's copies was cancelled: it is on one node, and may be lost with it (S15)."""
    return Refusal(
        "commit_unconfirmed",
        SqlState.TRANSACTION_RESOLUTION_UNKNOWN,
        "commit was not confirmed by the quorum, transaction resolution unknown",
        detail="The wait for replication was canceled; the transaction is committed on the primary, but would be lost with it.",
    )


def commits_relaxed(value: str) -> Refusal:
    """A session asks for commits that wait for less than the cluster's promise, or for something else."""
    if value.strip().lower() == "remote_apply":
        detail = (
            "Commits would wait until standbys have replayed them, which a replay conflict or pause can keep back for ever."
        )
    else:
        detail = "Commits would be acknowledged before they are on the quorum, and would be lost in a failover."
    return Refusal(
        "commits_relaxed",
        SqlState.INVALID_PARAMETER_VALUE,
        f'parameter "synchronous_commit" cannot be set to "{shown(value)}" at the writer of this cluster',
        detail=detail,
        hint='Leave it "on", or allow it for the whole cluster by the setting relaxed_commits.',
    )


def warnings_hidden(value: str) -> Refusal:
    """A session asks not to be told warnings: it would not hear that a commit is unconfirmed (S15)."""
    return Refusal(
        "warnings_hidden",
        SqlState.INVALID_PARAMETER_VALUE,
        f'parameter "client_min_messages" cannot be set to "{shown(value)}" at the writer of this cluster',
        detail="The server tells by a warning that the wait for a commit's copies was canceled.",
        hint='Set it to "warning" or lower, or allow it for the whole cluster by the setting relaxed_commits.',
    )


def commit_doubtful() -> Refusal:
    """A session that hides warnings was cancelled, and then told of a success: it may be one that is not confirmed (S15)."""
    return Refusal(
        "commit_doubtful",
        SqlState.TRANSACTION_RESOLUTION_UNKNOWN,
        "commit may not have been confirmed by the quorum, transaction resolution unknown",
        detail="The session was canceled and has client_min_messages set so that a canceled wait for replication is not told.",
    )


def too_many_connections(endpoint: str) -> Refusal:
    """A limit of ours is reached."""
    return Refusal("too_many_connections", SqlState.TOO_MANY_CONNECTIONS, f'too many connections for endpoint "{endpoint}"')


def too_many_clients() -> Refusal:
    """There is no room for one more stranger, in PostgreSQL's words for it."""
    return Refusal(
        "too_many_clients",
        SqlState.TOO_MANY_CONNECTIONS,
        "sorry, too many clients already",
        detail="Too many connections that have not logged in yet are open.",
    )


def too_many_for_user(user: str) -> Refusal:
    """One user has as many sessions here as anyone may."""
    return Refusal("too_many_for_user", SqlState.TOO_MANY_CONNECTIONS, f'too many connections for role "{shown(user)}"')


def too_many_for_database(database: str) -> Refusal:
    """One database has as many sessions here as any may."""
    return Refusal(
        "too_many_for_database", SqlState.TOO_MANY_CONNECTIONS, f'too many connections for database "{shown(database)}"'
    )


def too_many_waiting(endpoint: str) -> Refusal:
    """There is nobody to connect to, and too many are waiting already."""
    return Refusal(
        "too_many_waiting",
        SqlState.TOO_MANY_CONNECTIONS,
        f'too many connections are waiting for endpoint "{endpoint}"',
        hint="A new primary may be chosen soon; try again.",
    )


def not_pooled(endpoint: str, what: str, instead: str) -> Refusal:
    """A client of a pooled endpoint wants what needs a server of its own."""
    return Refusal(
        "not_pooled",
        SqlState.FEATURE_NOT_SUPPORTED,
        f'{what} is not supported at endpoint "{endpoint}"',
        detail="Its clients take turns at servers.",
        hint=f'Use the endpoint "{instead}".',
    )


def role_changed() -> Refusal:
    """The role's password is another one, and servers for a client of a pool cannot be opened by the former."""
    return Refusal("role_changed", SqlState.ADMIN_SHUTDOWN, "terminating connection because the role has changed")


def pool_closed(endpoint: str) -> Refusal:
    """A client comes to a pool that has just been forgotten, because nobody has used it for a while."""
    return Refusal(
        "pool_closed",
        SqlState.ADMIN_SHUTDOWN,
        f'terminating connection because the servers of its login at endpoint "{endpoint}" have been given up',
        hint="Connect again.",
    )


def pool_refused(node: str, why: str, sqlstate: str | None) -> Refusal:
    """A server does not let a pool's clients in, for a reason that will not pass."""
    code = sqlstate or SqlState.INVALID_AUTHORIZATION
    return Refusal("pool_refused", code, why, detail=f'Server "{node}" refused the login.')


def waited_too_long(endpoint: str, timeout_s: float) -> Refusal:
    """All servers that a client may have were busy for too long."""
    return Refusal(
        "waited_too_long",
        SqlState.TOO_MANY_CONNECTIONS,
        f'no server became free for endpoint "{endpoint}" within {timeout_s:g} s',
        hint="Nothing of the statement was executed. Shorten transactions, or raise pool_size of the endpoint.",
    )


def more_than_one_may_have(endpoint: str) -> Refusal:
    """A session of a pooled endpoint wants to keep, or to say in one message, more than is given to one."""
    return Refusal(
        "pool_limit",
        SqlState.PROGRAM_LIMIT_EXCEEDED,
        f'a statement or the prepared statements of a session are too large for endpoint "{endpoint}"',
        hint="A statement to prepare may have 1 MiB, and a session 10000 of them.",
    )


def not_understood(error: WireError) -> Refusal:
    """What the client sent is not the protocol, or not one that is spoken here."""
    kind = "unsupported_version" if isinstance(error, VersionError) else "protocol_violation"
    return Refusal(kind, error.sqlstate, str(error), detail=error.detail)


def unencrypted_data(request: str) -> Refusal:
    """Bytes came in plaintext behind a request for encryption, before it was answered: somebody may have put them there."""
    return Refusal(
        "protocol_violation",
        SqlState.PROTOCOL_VIOLATION,
        f"received unencrypted data after {request} request",
        detail="This could be either a client-software bug or evidence of an attempted man-in-the-middle attack.",
    )


def no_encryption(host: str, user: str, database: str) -> Refusal:
    """Only TLS is spoken here. As PostgreSQL says it whose pg_hba.conf has nothing but hostssl."""
    return Refusal(
        "no_encryption",
        SqlState.INVALID_AUTHORIZATION,
        f'no pg_hba.conf entry for host "{host}", user "{shown(user)}", database "{shown(database)}", no encryption',
    )


def startup_timeout() -> Refusal:
    """The client, or the login, took too long."""
    return Refusal("startup_timeout", SqlState.PROTOCOL_VIOLATION, "canceling connection startup due to timeout")


def startup_lost(node: str) -> Refusal:
    """The server went away during a login that cannot be begun anew."""
    return Refusal("startup_lost", SqlState.CONNECTION_FAILURE, f'server "{node}" closed the connection during startup')


def internal_error() -> Refusal:
    """We are wrong. The log says how."""
    return Refusal("internal_error", SqlState.INTERNAL_ERROR, "internal error")


def shown(value: str) -> str:
    """Return what a client said, as far as it can be said again: in UTF-8, and not without end."""
    text = value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}…"
