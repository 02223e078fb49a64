"""What a client is told at the end of its session."""

from __future__ import annotations

import pytest

from endpointd import refusal
from endpointd.refusal import Refusal
from endpointd.relay.facts import Doing, Facts
from endpointd.session.farewell import farewell, last_words
from pgwire.errors import ProtocolError


def facts_of(
    doing: Doing = Doing.BUSY, *, may_have_committed: bool = True, is_awaited: bool = False, is_streaming: bool = False
) -> Facts:
    return Facts(
        engine="asyncio",
        to_server_bytes=0,
        to_client_bytes=0,
        held_bytes=0,
        doing=doing,
        is_awaited=is_awaited,
        is_streaming=is_streaming,
        may_have_committed=may_have_committed,
        client_terminated=False,
        client_has_ended=False,
        server_said_goodbye=False,
    )


@pytest.mark.parametrize(
    ("doing", "is_writer", "may_have", "because", "told"),
    [
        (Doing.BUSY, True, True, None, refusal.outcome_unknown()),
        (Doing.BUSY, True, True, refusal.primary_changed(), refusal.outcome_unknown()),
        (Doing.BUSY, True, False, None, refusal.server_lost()),
        (Doing.BUSY, True, False, refusal.primary_changed(), refusal.primary_changed()),
        (Doing.IN_TRANSACTION, True, True, refusal.primary_changed(), refusal.primary_changed()),
        (Doing.IDLE, True, True, None, refusal.server_lost()),
        (Doing.IN_TRANSACTION, True, True, None, refusal.server_lost()),
        (Doing.IDLE, False, True, None, refusal.server_lost()),
        (Doing.BUSY, False, True, None, refusal.statement_lost()),
        (Doing.BUSY, False, True, refusal.primary_changed(), refusal.primary_changed()),
    ],
)
def test_only_what_may_have_been_a_commit_is_unknown(
    doing: Doing, is_writer: bool, may_have: bool, because: Refusal | None, told: Refusal
) -> None:
    facts = facts_of(doing=doing, may_have_committed=may_have)
    assert farewell(facts, is_writer=is_writer, because=because) == told


READY_IN_A_FAILED_TRANSACTION = b"Z\0\0\0\x05E"


@pytest.mark.parametrize("why", [refusal.outcome_unknown(), refusal.server_lost(), refusal.commit_unconfirmed()])
def test_who_waits_for_an_answer_is_given_the_end_of_one(why: Refusal) -> None:
    assert last_words(why, facts_of(is_awaited=True)) == why.encode() + READY_IN_A_FAILED_TRANSACTION


@pytest.mark.parametrize(
    ("why", "facts"),
    [
        (refusal.server_lost(), facts_of(Doing.IDLE)),
        (refusal.outcome_unknown(), facts_of(is_awaited=False)),
        (refusal.server_lost(), facts_of(is_awaited=True, is_streaming=True)),
        (refusal.not_understood(ProtocolError("no")), facts_of(is_awaited=True)),
    ],
    ids=["nothing was asked", "half a message was sent", "a stream", "not the protocol"],
)
def test_who_waits_for_none_is_told_only_why(why: Refusal, facts: Facts) -> None:
    assert last_words(why, facts) == why.encode()
