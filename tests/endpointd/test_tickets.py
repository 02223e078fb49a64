"""Which logins may be tried on the short way, and what an ordinary login does not say again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from endpointd.routing.table import Door
from endpointd.session.replay import Repeated
from endpointd.session.tickets import TICKETS_MAX, Tickets
from pgwire import messages as m
from pgwire.startup import encode_startup, make_startup

MESSAGE = make_startup("ann", "shop")
PACKET = encode_startup(MESSAGE)


def test_a_ticket_is_for_one_packet_of_one_address_at_one_door() -> None:
    tickets = Tickets()
    tickets.note(Door.WRITER, "10.0.0.1", PACKET, MESSAGE, is_encrypted=False)
    found = tickets.find(Door.WRITER, "10.0.0.1", PACKET + b"and more", is_encrypted=False)
    assert found is not None
    assert (found.packet, found.message) == (PACKET, MESSAGE)
    assert tickets.find(Door.WRITER, "10.0.0.1", PACKET, is_encrypted=True) is None
    assert tickets.find(Door.READER, "10.0.0.1", PACKET, is_encrypted=False) is None
    assert tickets.find(Door.WRITER, "10.0.0.2", PACKET, is_encrypted=False) is None
    assert tickets.find(Door.WRITER, "10.0.0.1", encode_startup(make_startup("ann", "other")), is_encrypted=False) is None


@given(st.binary(max_size=2 * len(PACKET)), st.integers(0, len(PACKET) - 1))
def test_nothing_but_a_whole_packet_has_one(words: bytes, size: int) -> None:
    tickets = Tickets()
    tickets.note(Door.WRITER, "10.0.0.1", PACKET, MESSAGE, is_encrypted=False)
    assert tickets.find(Door.WRITER, "10.0.0.1", PACKET[:size], is_encrypted=False) is None
    assert (tickets.find(Door.WRITER, "10.0.0.1", words, is_encrypted=False) is not None) is words.startswith(PACKET)


def test_there_is_an_end_to_how_many_are_remembered() -> None:
    tickets = Tickets()
    for number in range(TICKETS_MAX + 10):
        tickets.note(Door.WRITER, str(number), PACKET, MESSAGE, is_encrypted=False)
        tickets.note(Door.WRITER, "0", PACKET, MESSAGE, is_encrypted=False)
    assert len(tickets) == TICKETS_MAX
    assert tickets.find(Door.WRITER, "0", PACKET, is_encrypted=False) is not None, "it was noted lately"
    assert tickets.find(Door.WRITER, "1", PACKET, is_encrypted=False) is None


def test_what_was_said_is_not_said_again_and_what_differs_is() -> None:
    same = Repeated((b"offer", b"challenge"))
    assert [same.rest_of(words) for words in (b"offer", b"challenge", b"final")] == [b"", b"", b"final"]
    other = Repeated((b"offer", b"challenge"))
    assert [other.rest_of(words) for words in (b"offer", b"refused", b"challenge")] == [b"", b"refused", b"challenge"]
    assert Repeated().rest_of(b"offer") == b"offer"


def test_a_challenge_is_given_once_also_if_the_role_has_another_password_since() -> None:
    def challenge(data: bytes) -> bytes:
        return m.encode_authentication(m.Authentication(m.AuthenticationKind.SASL_CONTINUE, data))

    told = Repeated((b"offer", challenge(b"r=1,s=old,i=1")))
    assert [told.rest_of(words) for words in (b"offer", challenge(b"r=1,s=new,i=1"), b"refused")] == [b"", b"", b"refused"]
    assert Repeated((b"offer",)).rest_of(b"offer") == b""
    first = Repeated((b"offer",))
    assert [first.rest_of(words) for words in (b"offer", challenge(b"r=1"))] == [b"", challenge(b"r=1")]
