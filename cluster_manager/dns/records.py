"""Which names the cluster should have, as one pure function of the topology document.

Names follow the document, they never lead: nothing here is known to a client before it stands in the document.  While there is
no writer, `writer` stays at the last one that was published (the newest timeline that was ever opened).  To take it away
would be an answer that resolvers remember as "no such address", beyond the moment the next writer is named; and whoever
connects to the old one meanwhile meets a stopped or fenced node, which is an error and not a wrong answer.

The names, below ``<cluster>.<zone>``: `writer`, `reader` (every member that may serve reads, else the writer), each member's
own; SRV for both endpoints, which carry the ports that address records cannot; and TXT that tells which nodes are meant, for
people.  A host that is given by name cannot stand in an address record: its own name becomes a CNAME, an endpoint a CNAME
only if none of its members has an address.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from pgtopology.document import Topology
from pgtopology.epoch import Epoch
from pgtopology.node import Member

SERIAL_MODULUS = 1 << 32
"""A zone's serial is a 32-bit number that wraps. RFC 1982."""
REFRESH_S, RETRY_S, EXPIRE_S = 60, 10, 7 * 86_400
"""For secondary servers, if somebody sets one up. What is old beyond a week is given up."""


STRING_BYTES_MAX = 255
"""Of one string in a TXT record."""


class RecordKind(StrEnum):
    """The types of records in use."""

    A = "A"
    AAAA = "AAAA"
    CNAME = "CNAME"
    NS = "NS"
    SOA = "SOA"
    SRV = "SRV"
    TXT = "TXT"


@dataclass(frozen=True, slots=True, order=True)
class Record:
    """One record; *name* is absolute, without the final dot."""

    name: str
    kind: RecordKind
    content: str
    """As in a zone file (RFC 1035, section 5); names in it are absolute, with the final dot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Zone:
    """Everything that should be answered for *origin* and below."""

    origin: str
    serial: int
    ttl_s: int
    records: tuple[Record, ...]
    """Sorted, each once."""


def desired_records(topology: Topology, ttl_s: int, *, name_server: str | None = None, after: int = 0) -> Zone:
    """Return the zone that *topology* calls for, each record to be remembered for *ttl_s* seconds.

    *name_server* is the address of the server that will answer, if it has one that others can use; *after* is the serial of the
    zone that it answers from so far.  Raises ValueError if the document's own names do not lie in one zone.
    """
    origin = _origin(topology)
    serial = _serial(topology, after)
    records = {
        Record(origin, RecordKind.SOA, _start_of_authority(serial, origin, ttl_s)),
        Record(origin, RecordKind.NS, f"ns.{origin}."),
    }
    if name_server is not None:
        records.add(_host_record(f"ns.{origin}", name_server))
    for member in topology.members:
        records.add(_host_record(_name(member), member.address.host))
    writer, epoch = _writer(topology)
    writers = [writer] if writer is not None else []
    readers = [member for member in topology.members if member.reader_eligible and member.name != topology.writer] or writers
    records |= _endpoint(f"writer.{origin}", writers, f"node={writer.name if writer is not None else '-'} epoch={epoch}")
    records |= _endpoint(
        f"reader.{origin}", readers, f"nodes={','.join(m.name for m in readers) or '-'} epoch={topology.epoch}"
    )
    return Zone(origin=origin, serial=serial, ttl_s=ttl_s, records=tuple(sorted(records)))


def _origin(topology: Topology) -> str:
    """Return the name all others lie below: the writer's, without its first label."""
    label, _, origin = _plain(topology.endpoints.writer.dns).partition(".")
    if label != "writer" or not origin:
        raise ValueError(f'the writer\'s name "{topology.endpoints.writer.dns}" is not "writer.<cluster>.<zone>"')
    names = [_plain(topology.endpoints.reader.dns), *(_name(member) for member in topology.members)]
    stranger = next((name for name in names if not name.endswith(f".{origin}")), None)
    if stranger is not None:
        raise ValueError(f'the name "{stranger}" does not lie below "{origin}"')
    return origin


def _writer(topology: Topology) -> tuple[Member | None, Epoch]:
    """Return the member that `writer` names and the epoch it was published in: the present writer, else the last."""
    if topology.writer is not None:
        return topology.member(topology.writer), topology.epoch
    last = next((record for record in reversed(topology.timelines) if record.opened), None)
    return (topology.member(last.node), last.epoch) if last is not None else (None, topology.epoch)


def _endpoint(name: str, members: list[Member], text: str) -> set[Record]:
    """Return what *name* is, if its clients are to reach *members*."""
    services = {
        Record(f"_postgresql._tcp.{name}", RecordKind.SRV, f"0 0 {member.address.port} {_name(member)}.") for member in members
    }
    hosts = [member.address.host for member in members]
    addresses = {_host_record(name, host) for host in hosts if _is_address(host)}
    if hosts and not addresses:
        # A CNAME is alone at its name, and there can be only one: no text, and no spreading. RFC 1034, section 3.6.2.
        return {_host_record(name, min(hosts)), *services}
    return {Record(name, RecordKind.TXT, _quoted(text)), *addresses, *services}


def _quoted(text: str) -> str:
    """Return *text* as the strings of a TXT record, which readers put together again. RFC 1035, section 3.3.14."""
    return " ".join(f'"{text[start : start + STRING_BYTES_MAX]}"' for start in range(0, len(text), STRING_BYTES_MAX))


def _host_record(name: str, host: str) -> Record:
    """Return the record that leads from *name* to *host*, an address or a name."""
    if not _is_address(host):
        return Record(name, RecordKind.CNAME, f"{_plain(host)}.")
    address = ipaddress.ip_address(host)
    return Record(name, RecordKind.A if address.version == 4 else RecordKind.AAAA, str(address))


def _serial(topology: Topology, after: int) -> int:
    """Return a serial that lies behind *after*: the second in which the document was written or, within it, the next number."""
    number = topology.revision // 1000 % SERIAL_MODULUS
    is_behind = 0 < (number - after) % SERIAL_MODULUS < SERIAL_MODULUS // 2
    return number if is_behind else (after + 1) % SERIAL_MODULUS


def _start_of_authority(serial: int, origin: str, ttl_s: int) -> str:
    """Return the SOA. Its last number, for how long a "no" is remembered, is the TTL: a name may come back any moment."""
    return f"ns.{origin}. hostmaster.{origin}. {serial} {REFRESH_S} {RETRY_S} {EXPIRE_S} {ttl_s}"


def names_of(records: Iterable[Record]) -> frozenset[str]:
    """Return every name that exists because of *records*: their own and those between them and the zone's."""
    return frozenset(
        ".".join(labels[start:]) for labels in (record.name.split(".") for record in records) for start in range(len(labels))
    )


def _name(member: Member) -> str:
    return _plain(member.dns)


def _plain(name: str) -> str:
    return name.rstrip(".").lower()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
