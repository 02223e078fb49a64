"""What a client is told at the end of its session."""

from __future__ import annotations

import pytest

from endpointd import refusal
from endpointd.refusal import Refusal
from endpointd.relay.facts import Doing, Facts
from endpointd.session.farewell import farewell


@pytest.mark.parametrize(
    ("doing", "is_writer", "may_have", "because", "told"),
    [
        (Doing.BUSY, True, True, None, refusal.outcome_unknown()),
        (Doing.BUSY, True, True, refusal.primary_changed(), refusal.outcome_unknown()),
        (Doing.BUSY, True, False, None, refusal.server_lost()),
        (Doing.BUSY, True, False, refusal.primary_changed(), refusal.primary_changed()),
        (Doing.IN_TRANSACTION, True, True, refusal.primary_changed(), refusal.primary_changed()),
        (Doing.IDLE, True, True, None, refusal.server_lost()),
        (Doing.BUSY, False, True, None, refusal.server_lost()),
        (Doing.BUSY, False, True, refusal.primary_changed(), refusal.primary_changed()),
    ],
)
def test_only_what_may_have_been_a_commit_is_unknown(
    doing: Doing, is_writer: bool, may_have: bool, because: Refusal | None, told: Refusal
) -> None:
    facts = Facts(
        to_server_bytes=0,
        to_client_bytes=0,
        held_bytes=0,
        doing=doing,
        is_awaited=False,
        is_streaming=False,
        may_have_committed=may_have,
        client_terminated=False,
        client_has_ended=False,
        server_said_goodbye=False,
    )
    assert farewell(facts, is_writer=is_writer, because=because) == told
