"""What a client is told when its session ends without its doing.  Pure."""

from __future__ import annotations

from endpointd.refusal import Refusal, outcome_unknown, server_lost, statement_lost
from endpointd.relay.facts import Doing, Facts
from pgwire.messages import ready_for_query
from pgwire.sqlstate import SqlState


def farewell(facts: Facts, *, is_writer: bool, because: Refusal | None = None) -> Refusal:
    """Return what the client is told: *because*, or the server was lost, unless it matters more what became of its commit.

    On the writer a running statement may be a commit, and nobody can say whether it took place, unless it runs in a transaction
    block that nothing under way can end; on a replica nothing is committed.  Without a reason of ours nobody vouches that a
    replica was still one, so the end of its running statement proves nothing.
    """
    may_have_committed = facts.doing is Doing.BUSY and facts.may_have_committed
    if is_writer and may_have_committed:
        return outcome_unknown()
    if because is not None:
        return because
    return statement_lost() if may_have_committed else server_lost()


def last_words(why: Refusal, facts: Facts) -> bytes:
    """Return what the client reads at the end of a session that *why* ends.

    Whoever waits for an answer gets its end too, ReadyForQuery, as after any error.  Without it drivers see a connection that
    broke in the middle of an answer, and drop the error they have read, or give it to another statement (decision 34).  A
    transaction that failed is named because a pool then wants to roll it back, and so notices that the connection is gone.
    """
    words = why.encode()
    if facts.is_awaited and not facts.is_streaming and why.sqlstate != SqlState.PROTOCOL_VIOLATION:
        words += ready_for_query("E")
    return words
