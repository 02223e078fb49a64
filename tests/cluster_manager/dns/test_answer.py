"""What is answered, bytes for bytes, without a socket."""

from __future__ import annotations

import struct

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.update
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster_manager.dns.answer import UDP_BYTES_MAX, Answers, answer, prepare
from cluster_manager.dns.records import Record, RecordKind, Zone, desired_records
from tests.cluster_manager.dns.documents import ORIGIN, document

ANSWERS = prepare(desired_records(document(writer="n1"), 1, name_server="127.0.0.9"))


def ask(
    name: str,
    kind: str = "A",
    *,
    answers: Answers | None = ANSWERS,
    turn: int = 0,
    is_udp: bool = True,
    edns: int | bool = False,
    payload: int = 1232,
    rdclass: dns.rdataclass.RdataClass = dns.rdataclass.IN,
) -> dns.message.Message:
    query = dns.message.make_query(name, kind, rdclass, use_edns=edns, payload=payload)
    wire = answer(query.to_wire(), answers, turn=turn, is_udp=is_udp)
    assert wire is not None
    response = dns.message.from_wire(wire)
    assert query.is_response(response)
    return response


def texts(response: dns.message.Message) -> list[str]:
    return [line for rrset in response.answer for line in rrset.to_text().split("\n")]


def is_negative(response: dns.message.Message) -> bool:
    """Whether it says "no" in the way that may be remembered for one second."""
    return (
        not response.answer
        and bool(response.flags & dns.flags.AA)
        and [rrset.rdtype for rrset in response.authority] == [dns.rdatatype.SOA]
        and response.authority[0].to_text().split()[1::9] == ["1", "1"]  # its own TTL, and the one of the "no"
    )


def test_the_writer_is_answered_with_authority_and_a_short_life() -> None:
    response = ask(f"writer.{ORIGIN}")
    assert texts(response) == [f"writer.{ORIGIN}. 1 IN A 127.0.0.1"]
    assert response.flags & dns.flags.AA
    assert not response.flags & (dns.flags.RA | dns.flags.TC)
    assert response.rcode() == dns.rcode.NOERROR


def test_every_published_record_can_be_asked_for() -> None:
    zone = desired_records(document(writer="n1"), 1)
    for record in zone.records:
        assert record.content in [line.split(" ", 4)[4] for line in texts(ask(record.name, record.kind))]


def test_the_spelling_that_was_asked_for_comes_back() -> None:
    name = f"wRiTeR.{ORIGIN.upper()}."
    response = ask(name)
    assert response.question[0].name.to_text() == name
    assert response.answer[0].name.to_text() == name


def test_readers_take_turns() -> None:
    orders = [tuple(line.split()[-1] for line in texts(ask(f"reader.{ORIGIN}", turn=turn))) for turn in range(4)]
    assert orders == [("127.0.0.2", "127.0.0.3"), ("127.0.0.3", "127.0.0.2")] * 2


def test_srv_comes_with_the_addresses_of_its_targets() -> None:
    response = ask(f"_postgresql._tcp.reader.{ORIGIN}", "SRV")
    assert sorted(rrset.to_text() for rrset in response.additional) == [
        f"n2.{ORIGIN}. 1 IN A 127.0.0.2",
        f"n3.{ORIGIN}. 1 IN A 127.0.0.3",
    ]


@pytest.mark.parametrize("name", ["nobody", "x.writer", "_udp.writer", "*"])
def test_a_name_that_does_not_exist_is_nxdomain(name: str) -> None:
    response = ask(f"{name}.{ORIGIN}")
    assert response.rcode() == dns.rcode.NXDOMAIN
    assert is_negative(response)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("writer.", "AAAA"),
        ("writer.", "MX"),
        ("", "A"),
        ("_tcp.writer.", "A"),
        ("_postgresql._tcp.writer.", "A"),
        ("n1.", "TXT"),
    ],
)
def test_a_name_without_such_records_is_no_data(name: str, kind: str) -> None:
    response = ask(f"{name}{ORIGIN}", kind)
    assert response.rcode() == dns.rcode.NOERROR
    assert is_negative(response)


@pytest.mark.parametrize("name", ["endpointd.internal", "example.com", ".", f"x{ORIGIN}", "other.endpointd.internal"])
def test_other_zones_are_refused(name: str) -> None:
    response = ask(name)
    assert response.rcode() == dns.rcode.REFUSED
    assert not response.flags & dns.flags.AA
    assert not response.authority


@pytest.mark.parametrize("kind", ["AXFR", "IXFR"])
def test_transfers_are_refused(kind: str) -> None:
    query = dns.message.make_query(ORIGIN, kind)
    if kind == "IXFR":
        query.authority.append(ANSWERS.soa)
    wire = answer(query.to_wire(), ANSWERS, turn=0, is_udp=False)
    assert wire is not None
    assert dns.message.from_wire(wire).rcode() == dns.rcode.REFUSED


def test_other_classes_are_refused() -> None:
    assert ask(f"writer.{ORIGIN}", rdclass=dns.rdataclass.CH).rcode() == dns.rcode.REFUSED


def test_before_the_first_document_nothing_is_claimed_not_to_exist() -> None:
    for name in (f"writer.{ORIGIN}", "example.com"):
        response = ask(name, answers=None)
        assert response.rcode() == dns.rcode.SERVFAIL
        assert not response.flags & dns.flags.AA


def test_any_is_answered_with_one_set() -> None:
    assert len(ask(f"writer.{ORIGIN}", "ANY").answer) == 1


def test_an_alias_is_the_answer_to_every_question() -> None:
    soa = Record(ORIGIN, RecordKind.SOA, f"ns.{ORIGIN}. h.{ORIGIN}. 1 1 1 1 1")
    alias = Record(f"writer.{ORIGIN}", RecordKind.CNAME, "pg1.example.")
    answers = prepare(Zone(origin=ORIGIN, serial=1, ttl_s=1, records=(soa, alias)))
    for kind in ("A", "AAAA", "CNAME"):
        response = ask(f"writer.{ORIGIN}", kind, answers=answers)
        assert [line.split()[-2:] for line in texts(response)] == [["CNAME", "pg1.example."]]


def test_edns_is_answered_with_edns_and_only_then() -> None:
    assert ask(f"writer.{ORIGIN}").edns == -1
    response = ask(f"writer.{ORIGIN}", edns=0)
    assert (response.edns, response.payload) == (0, UDP_BYTES_MAX)
    response = ask(f"writer.{ORIGIN}", edns=1)
    assert response.rcode() == dns.rcode.BADVERS
    assert not response.answer


def test_unknown_edns_options_do_not_matter() -> None:
    options = [dns.edns.GenericOption(dns.edns.OptionType.make(65001), b"x"), dns.edns.ECSOption("10.0.0.0", 8)]
    query = dns.message.make_query(f"writer.{ORIGIN}", "A", use_edns=0, options=options)
    wire = answer(query.to_wire(), ANSWERS, turn=0, is_udp=True)
    assert wire is not None
    assert len(dns.message.from_wire(wire).answer) == 1


@pytest.mark.parametrize(("edns", "payload", "most"), [(False, 0, 512), (0, 100, 512), (0, 800, 800), (0, 65_535, 1232)])
def test_an_answer_too_large_for_udp_is_cut_and_says_so(edns: int | bool, payload: int, most: int) -> None:
    many = prepare(desired_records(document(writer="n1", nodes=200, eligible=[f"n{n}" for n in range(2, 201)]), 1))
    query = dns.message.make_query(f"reader.{ORIGIN}", "A", use_edns=edns, payload=payload)
    wire = answer(query.to_wire(), many, turn=0, is_udp=True)
    assert wire is not None
    assert len(wire) <= most
    assert dns.message.from_wire(wire).flags & dns.flags.TC
    whole = ask(f"reader.{ORIGIN}", answers=many, is_udp=False, edns=edns, payload=payload)
    assert len(texts(whole)) == 199
    assert not whole.flags & dns.flags.TC


def test_an_answer_is_not_answered() -> None:
    response = dns.message.make_response(dns.message.make_query(f"writer.{ORIGIN}", "A"))
    assert answer(response.to_wire(), ANSWERS, turn=0, is_udp=True) is None


@pytest.mark.parametrize("wire", [b"", b"\0" * 11])
def test_what_is_shorter_than_a_header_is_not_answered(wire: bytes) -> None:
    assert answer(wire, ANSWERS, turn=0, is_udp=True) is None


def header(wire: bytes | None) -> tuple[int, int, dns.rcode.Rcode]:
    """Return identity, operation and code of a bare header."""
    assert wire is not None
    assert len(wire) == 12
    identity, flags = struct.unpack_from("!HH", wire)
    assert flags & dns.flags.QR
    return identity, dns.opcode.from_flags(flags), dns.rcode.from_flags(flags, 0)


@pytest.mark.parametrize("opcode", [dns.opcode.STATUS, dns.opcode.NOTIFY, dns.opcode.UPDATE])
def test_other_operations_are_not_implemented(opcode: dns.opcode.Opcode) -> None:
    query = dns.update.UpdateMessage(ORIGIN) if opcode == dns.opcode.UPDATE else dns.message.make_query(ORIGIN, "SOA")
    query.set_opcode(opcode)
    wire = answer(query.to_wire(), ANSWERS, turn=0, is_udp=True)
    assert header(wire) == (query.id, opcode, dns.rcode.NOTIMP)


@pytest.mark.parametrize("count", [0, 2])
def test_anything_but_one_question_is_a_format_error(count: int) -> None:
    query = dns.message.make_query(f"writer.{ORIGIN}", "A")
    query.question = query.question * count
    if count == 2:
        query.question[1] = dns.message.make_query(f"reader.{ORIGIN}", "A").question[0]
    assert header(answer(query.to_wire(), ANSWERS, turn=0, is_udp=True)) == (query.id, 0, dns.rcode.FORMERR)


@pytest.mark.parametrize(
    "tail",
    [b"", b"\x06writer", b"\xc0\x0c\0\x01\0\x01", b"\x01a\0\0\x01\0\x01trailing", b"\x40a\0\0\x01\0\x01"],
)
def test_a_broken_question_is_a_format_error(tail: bytes) -> None:
    wire = struct.pack("!HHHHHH", 77, dns.flags.RD, 1, 0, 0, 0) + tail
    assert header(answer(wire, ANSWERS, turn=0, is_udp=True)) == (77, 0, dns.rcode.FORMERR)


def test_a_record_that_cannot_be_written_is_an_error() -> None:
    for record in (Record("x" * 64 + ".y", RecordKind.A, "127.0.0.1"), Record("x.y", RecordKind.A, "nonsense")):
        with pytest.raises(ValueError, match="cannot be served"):
            prepare(Zone(origin="y", serial=1, ttl_s=1, records=(record,)))


@given(wire=st.binary(max_size=200), is_udp=st.booleans())
def test_any_bytes_are_answered_or_dropped(wire: bytes, is_udp: bool) -> None:
    response = answer(wire, ANSWERS, turn=1, is_udp=is_udp)
    assert response is None or response[:2] == wire[:2]


QUESTION = dns.message.make_query(f"writer.{ORIGIN}", "A", use_edns=0).to_wire()


@given(at=st.integers(0, len(QUESTION) - 1), byte=st.integers(0, 255), cut=st.integers(0, len(QUESTION)))
def test_a_damaged_question_is_answered_or_dropped(at: int, byte: int, cut: int) -> None:
    damaged = (QUESTION[:at] + bytes([byte]) + QUESTION[at + 1 :])[:cut]
    response = answer(damaged, ANSWERS, turn=1, is_udp=True)
    if response is not None:
        assert response[:2] == damaged[:2]
        assert len(response) <= UDP_BYTES_MAX
