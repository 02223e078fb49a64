"""What an error proves about the transaction it answers: it did not happen, or nobody knows.

Checkers need both words right.  Who calls a lost commit "failed" overlooks a loss; who calls a rollback "in doubt" overlooks a
transaction that came back.  So an answer counts as proof only where PostgreSQL cannot give it after the commit record:

* ERROR: the transaction was rolled back, and the session goes on.  Once the record is being written nothing raises an ERROR
  any more (RecordTransactionCommit is a critical section, in which every error is a PANIC), and the wait for replicas ends in
  a WARNING, never in an ERROR.  The two exceptions are SQLSTATEs that say the opposite: class 08 and 40003.
* FATAL: the session ends, and why decides.  Those listed here come before a session can commit anything, or are raised between
  the steps of a statement, where interrupts are served, which they are not from the commit record to the answer.  Any other
  (an internal error, an extension's) proves nothing.
* PANIC, and a crash of another session (57P02), come at any moment: the record may be on disk.
* WARNING and below answer nothing: PostgreSQL gives up the wait for replicas with a WARNING of 57P01 or 01000 *after* the
  local commit.
* No SQLSTATE: a driver's own word for a connection that broke.  A SQLSTATE without a severity is judged as FATAL.

Sources: PostgreSQL documentation, "Error Codes"; src/backend/access/transam/xact.c, src/backend/replication/syncrep.c,
src/backend/tcop/postgres.c (ProcessInterrupts, quickdie).  The table for users is in docs/proxy.md.
"""

from __future__ import annotations

from enum import StrEnum

from pgwire.sqlstate import SqlState


class Outcome(StrEnum):
    """What a client knows of a transaction after the answer."""

    COMMITTED = "committed"
    FAILED = "failed"
    """It was rolled back: it must never be seen."""
    IN_DOUBT = "in doubt"
    """It may be there or not."""


SUCCESSFUL_COMPLETION = "00000"
CONNECTION_CLASS = "08"
ALWAYS_IN_DOUBT = frozenset({SqlState.STATEMENT_COMPLETION_UNKNOWN, SqlState.CRASH_SHUTDOWN})

ENDED_BEFORE_COMMIT = frozenset(
    {
        SqlState.INVALID_AUTHORIZATION,
        SqlState.INVALID_PASSWORD,
        SqlState.INVALID_CATALOG_NAME,
        SqlState.TOO_MANY_CONNECTIONS,
        SqlState.CANNOT_CONNECT_NOW,
        SqlState.ADMIN_SHUTDOWN,
        "25P03",  # idle_in_transaction_session_timeout: idle
        "25P04",  # transaction_timeout: switched off before the commit record
        "40001",  # a conflict with recovery, on a standby
        "57P04",  # the same, of a database that was dropped
        "57P05",  # idle_session_timeout: idle
    }
)
"""Answers that end a session and prove that what was under way did not happen."""

_NOTICES = frozenset({"WARNING", "NOTICE", "INFO", "LOG", "DEBUG"})


def outcome_of(sqlstate: str | None, severity: str | None = None) -> Outcome:
    """Return what an answer with *sqlstate* proves; None is a connection that broke without a word.

    *severity* is the one that is not translated (field V), and None where nobody knows it.
    """
    if sqlstate == SUCCESSFUL_COMPLETION:
        return Outcome.COMMITTED
    if not sqlstate or sqlstate.startswith(CONNECTION_CLASS) or sqlstate in ALWAYS_IN_DOUBT:
        return Outcome.IN_DOUBT
    if severity == "PANIC" or severity in _NOTICES:
        return Outcome.IN_DOUBT
    if severity == "ERROR" or sqlstate in ENDED_BEFORE_COMMIT:
        return Outcome.FAILED
    return Outcome.IN_DOUBT
