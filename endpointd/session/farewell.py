"""What a client is told when its session ends without its doing.  Pure."""

from __future__ import annotations

from endpointd.refusal import Refusal, outcome_unknown, server_lost
from endpointd.relay.facts import Doing, Facts


def farewell(facts: Facts, *, is_writer: bool, because: Refusal | None = None) -> Refusal:
    """Return what the client is told: *because*, or the server was lost, unless it matters more what became of its commit.

    On the writer a running statement may be a commit, and nobody can say whether it took place, unless it runs in a transaction
    block that nothing under way can end; on a replica nothing is committed.
    """
    if is_writer and facts.doing is Doing.BUSY and facts.may_have_committed:
        return outcome_unknown()
    return because if because is not None else server_lost()
