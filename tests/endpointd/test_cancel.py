"""Where a cancel key leads."""

from __future__ import annotations

from endpointd.session.cancelkeys import CancelKeys, Cancellable
from pgtopology.node import Address
from pgwire.messages import BackendKey

KEY = BackendKey(7, b"abcd")
HERE, THERE = Cancellable(Address("h", 1), KEY), Cancellable(Address("h", 2), BackendKey(7, b"efgh"))


def test_a_key_leads_to_its_server_while_the_session_lives() -> None:
    keys = CancelKeys()
    keys.add(KEY, 1, HERE)
    assert keys.find(KEY) == (HERE,)
    assert keys.find(BackendKey(7, b"abce")) == ()
    keys.remove(KEY, 1)
    assert keys.find(KEY) == ()
    assert len(keys) == 0


def test_the_sessions_that_a_request_may_stop_are_known() -> None:
    keys = CancelKeys()
    keys.add(KEY, 1, HERE)
    keys.add(KEY, 2, THERE)
    assert keys.sessions(KEY) == (1, 2)
    keys.remove(KEY, 1)
    assert keys.sessions(KEY) == (2,)
    assert keys.sessions(BackendKey(7, b"abce")) == ()


def test_two_sessions_with_one_key_are_both_told_and_end_apart() -> None:
    keys = CancelKeys()
    keys.add(KEY, 1, HERE)
    keys.add(KEY, 2, THERE)
    keys.add(KEY, 3, HERE)
    assert keys.find(KEY) == (HERE, THERE)
    keys.remove(KEY, 1)
    keys.remove(KEY, 9)
    assert keys.find(KEY) == (THERE, HERE)
    keys.remove(KEY, 2)
    keys.remove(KEY, 3)
    keys.remove(KEY, 3)
    assert len(keys) == 0
