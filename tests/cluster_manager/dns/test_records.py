"""Which names there should be, for each shape of the document."""

from __future__ import annotations

import msgspec
import pytest

from cluster_manager.dns.records import Record, RecordKind, desired_records, names_of
from pgtopology.document import Candidate, Topology
from pgtopology.epoch import Epoch, Revision
from pgtopology.lsn import Lsn
from pgtopology.node import NodeName
from pgtopology.timeline import Timeline, TimelineRecord
from tests.cluster_manager.dns.documents import ORIGIN, document, member

replace = msgspec.structs.replace


def contents(topology: Topology, name: str, kind: RecordKind) -> list[str]:
    absolute = f"{name}.{ORIGIN}" if name else ORIGIN
    return [r.content for r in desired_records(topology, 1).records if (r.name, r.kind) == (absolute, kind)]


def claimed(timeline: int, epoch: int, node: str, *, opened: bool) -> TimelineRecord:
    parent = Timeline(timeline - 1)
    return TimelineRecord(
        timeline=Timeline(timeline), epoch=Epoch(epoch), node=node, parent=parent, fork_lsn=Lsn(1), opened=opened
    )


def test_the_writer_is_where_the_document_says_and_srv_carries_the_port() -> None:
    topology = document(writer="n2")
    assert contents(topology, "writer", RecordKind.A) == ["127.0.0.2"]
    assert contents(topology, "_postgresql._tcp.writer", RecordKind.SRV) == [f"0 0 6412 n2.{ORIGIN}."]
    assert contents(topology, "writer", RecordKind.TXT) == ['"node=n2 epoch=7"']


def test_readers_are_the_eligible_members_but_the_writer() -> None:
    topology = document(writer="n1", eligible=("n1", "n2", "n3"))
    assert contents(topology, "reader", RecordKind.A) == ["127.0.0.2", "127.0.0.3"]
    assert contents(topology, "_postgresql._tcp.reader", RecordKind.SRV) == [f"0 0 6412 n2.{ORIGIN}.", f"0 0 6413 n3.{ORIGIN}."]
    assert contents(topology, "reader", RecordKind.TXT) == ['"nodes=n2,n3 epoch=7"']


def test_a_long_list_of_readers_is_cut_into_strings_that_fit() -> None:
    (text,) = contents(document(writer="n1", nodes=100, eligible=[f"n{n}" for n in range(2, 101)]), "reader", RecordKind.TXT)
    strings = text[1:-1].split('" "')
    assert [len(string) <= 255 for string in strings] == [True, True]
    assert "".join(strings) == f"nodes={','.join(f'n{n}' for n in range(2, 101))} epoch=7"


def test_without_readers_the_reader_is_the_writer() -> None:
    assert contents(document(writer="n1", eligible=()), "reader", RecordKind.A) == ["127.0.0.1"]
    assert contents(document(writer="n1", eligible=("n1",)), "reader", RecordKind.A) == ["127.0.0.1"]


def test_each_member_has_its_own_name() -> None:
    topology = document(writer="n1")
    assert [contents(topology, name, RecordKind.A) for name in ("n1", "n2", "n3")] == [
        ["127.0.0.1"],
        ["127.0.0.2"],
        ["127.0.0.3"],
    ]


def test_members_on_one_address_are_one_address_record() -> None:
    members = tuple(member(f"n{n}", host="127.0.0.1", eligible=True) for n in (1, 2, 3))
    topology = replace(document(writer="n1"), members=members)
    assert contents(topology, "reader", RecordKind.A) == ["127.0.0.1"]
    assert len(contents(topology, "_postgresql._tcp.reader", RecordKind.SRV)) == 2


def test_while_there_is_no_writer_the_name_stays_at_the_last_one() -> None:
    timelines = (claimed(2, 1, "n1", opened=True), claimed(3, 5, "n2", opened=True), claimed(4, 6, "n3", opened=False))
    topology = replace(document(writer=None), timelines=timelines, candidate=Candidate(NodeName("n3"), Timeline(4)))
    assert contents(topology, "writer", RecordKind.A) == ["127.0.0.2"]
    assert contents(topology, "writer", RecordKind.TXT) == ['"node=n2 epoch=5"']


def test_before_the_first_writer_the_name_exists_without_an_address() -> None:
    topology = document(writer=None, eligible=())
    assert contents(topology, "writer", RecordKind.A) == []
    assert contents(topology, "writer", RecordKind.TXT) == ['"node=- epoch=7"']
    assert contents(topology, "reader", RecordKind.TXT) == ['"nodes=- epoch=7"']
    assert contents(topology, "_postgresql._tcp.writer", RecordKind.SRV) == []


def test_a_last_writer_that_is_no_member_any_more_has_no_address() -> None:
    record = claimed(2, 1, "gone", opened=True)
    topology = replace(document(writer=None), timelines=(record,))
    assert contents(topology, "writer", RecordKind.A) == []


def test_ipv6_hosts_become_aaaa() -> None:
    topology = replace(document(writer="n1"), members=(member("n1", host="2001:db8:0::1"),))
    assert contents(topology, "writer", RecordKind.AAAA) == ["2001:db8::1"]
    assert contents(topology, "writer", RecordKind.A) == []


def test_hosts_given_by_name_become_aliases_that_stand_alone() -> None:
    members = (member("n1", host="pg1.example"), member("n2", host="pg2.example", eligible=True))
    topology = replace(document(writer="n1"), members=members)
    assert contents(topology, "n1", RecordKind.CNAME) == ["pg1.example."]
    assert contents(topology, "writer", RecordKind.CNAME) == ["pg1.example."]
    assert contents(topology, "reader", RecordKind.CNAME) == ["pg2.example."]
    assert contents(topology, "writer", RecordKind.TXT) == []
    assert contents(topology, "_postgresql._tcp.writer", RecordKind.SRV) == [f"0 0 6411 n1.{ORIGIN}."]


def test_among_readers_with_addresses_those_with_names_are_left_out() -> None:
    members = (member("n1"), member("n2", host="pg2.example", eligible=True), member("n3", eligible=True))
    topology = replace(document(writer="n1"), members=members)
    assert contents(topology, "reader", RecordKind.A) == ["127.0.0.3"]
    assert contents(topology, "reader", RecordKind.CNAME) == []


def test_the_zone_says_who_answers_and_how_old_it_is() -> None:
    topology = replace(document(writer="n1"), revision=Revision(((1 << 32) + 5) * 1000 + 999))
    zone = desired_records(topology, 3, name_server="127.0.0.9")
    assert (zone.origin, zone.serial, zone.ttl_s) == (ORIGIN, 5, 3)
    assert Record(ORIGIN, RecordKind.SOA, f"ns.{ORIGIN}. hostmaster.{ORIGIN}. 5 60 10 604800 3") in zone.records
    assert Record(ORIGIN, RecordKind.NS, f"ns.{ORIGIN}.") in zone.records
    assert Record(f"ns.{ORIGIN}", RecordKind.A, "127.0.0.9") in zone.records
    assert list(zone.records) == sorted(set(zone.records))


@pytest.mark.parametrize(
    ("revision", "after", "serial"),
    [
        pytest.param(1_800_000_000_123, 0, 1_800_000_000, id="the first"),
        pytest.param(1_800_000_000_999, 1_799_999_000, 1_800_000_000, id="a later second"),
        pytest.param(1_800_000_000_999, 1_800_000_000, 1_800_000_001, id="the same second"),
        pytest.param(1_800_000_001_000, 1_800_000_007, 1_800_000_008, id="more than one a second"),
        pytest.param(7, 3, 4, id="no clock"),
        pytest.param(7, (1 << 32) - 1, 0, id="it wraps"),
    ],
)
def test_a_serial_lies_behind_the_one_before(revision: int, after: int, serial: int) -> None:
    assert desired_records(replace(document(writer="n1"), revision=Revision(revision)), 1, after=after).serial == serial


def test_final_dots_and_capitals_in_the_document_do_not_matter() -> None:
    topology = document(writer="n1")
    writer = replace(topology.endpoints.writer, dns=f"Writer.{ORIGIN.upper()}.")
    spelled = replace(topology, endpoints=replace(topology.endpoints, writer=writer))
    assert desired_records(spelled, 1) == desired_records(topology, 1)


@pytest.mark.parametrize("name", ["cluster.local.endpointd.internal", "writer", "", "writer."])
def test_a_writer_name_of_another_form_is_an_error(name: str) -> None:
    topology = document(writer="n1")
    writer = replace(topology.endpoints.writer, dns=name)
    with pytest.raises(ValueError, match='is not "writer'):
        desired_records(replace(topology, endpoints=replace(topology.endpoints, writer=writer)), 1)


def test_a_member_outside_the_zone_is_an_error() -> None:
    topology = replace(document(writer=None), members=(replace(member("n1"), dns="n1.example"),))
    with pytest.raises(ValueError, match=r'"n1\.example" does not lie below'):
        desired_records(topology, 1)


def test_names_between_a_record_and_the_root_exist() -> None:
    assert names_of([Record("_tcp.a.b", RecordKind.SRV, "")]) == {"_tcp.a.b", "a.b", "b"}
