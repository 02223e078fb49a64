"""From a question to an answer: what an authoritative server says about one zone, without a socket.

Bytes in, bytes out.  The zone is one immutable value that is exchanged as a whole; until there is one, everything is
answered with SERVFAIL, because "no such name" would be remembered.  Sources: RFC 1034 section 4.3.2 (the algorithm), RFC 2308
(negative answers), RFC 6891 (EDNS), RFC 8482 (ANY), RFC 8906 (what must be answered at all).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.IN.SRV
import dns.rrset

from cluster_manager.dns.records import Zone, names_of

UDP_BYTES_MAX = 1232
"""Fits every path without fragments. DNS flag day 2020."""
UDP_BYTES_MIN = 512
"""What a client without EDNS can take."""
TCP_BYTES_MAX = 65_535
HEADER_BYTES = 12
NOT_ANSWERED = frozenset({dns.rdatatype.AXFR, dns.rdatatype.IXFR, dns.rdatatype.MAILA, dns.rdatatype.MAILB})
"""Transfers of whole zones, and two questions nobody has asked since 1987."""

Key = tuple[dns.name.Name, dns.rdatatype.RdataType]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """A zone, ready to be asked."""

    origin: dns.name.Name
    rrsets: Mapping[Key, dns.rrset.RRset]
    names: frozenset[dns.name.Name]
    """Every name that exists, those without records of their own included."""

    @property
    def soa(self) -> dns.rrset.RRset:
        """The start of authority."""
        return self.rrsets[self.origin, dns.rdatatype.SOA]


def prepare(zone: Zone) -> Answers:
    """Return *zone* ready to be asked. Raises ValueError if a record cannot be written as one."""
    contents: dict[Key, list[str]] = {}
    try:
        for record in zone.records:
            key = (dns.name.from_text(record.name), dns.rdatatype.from_text(record.kind))
            contents.setdefault(key, []).append(record.content)
        rrsets = {
            (name, kind): dns.rrset.from_text_list(name, zone.ttl_s, dns.rdataclass.IN, kind, texts)
            for (name, kind), texts in contents.items()
        }
        origin = dns.name.from_text(zone.origin)
        names = frozenset(dns.name.from_text(name) for name in names_of(zone.records))
    except dns.exception.DNSException as error:
        raise ValueError(f"the zone {zone.origin} cannot be served: {error}") from error
    return Answers(origin=origin, rrsets=rrsets, names=frozenset(name for name in names if name.is_subdomain(origin)))


def answer(wire: bytes, answers: Answers | None, *, turn: int, is_udp: bool) -> bytes | None:
    """Return the answer to the message *wire*, or None if it deserves none.

    *turn* is drawn at random for each question: by it the addresses of `reader` change places.  (A count would not do: clients
    that ask for A and AAAA in turns would get the same address first every time.)
    """
    if len(wire) < HEADER_BYTES:
        return None
    identity, flags = struct.unpack_from("!HH", wire)
    if flags & dns.flags.QR:
        return None  # an answer; to answer it could go on forever
    if dns.opcode.from_flags(flags) != dns.opcode.QUERY:
        return _bare(identity, flags, dns.rcode.NOTIMP)
    try:
        query = dns.message.from_wire(wire)
    except (dns.exception.DNSException, ValueError, struct.error):
        return _bare(identity, flags, dns.rcode.FORMERR)
    if not isinstance(query, dns.message.QueryMessage) or len(query.question) != 1:
        return _bare(identity, flags, dns.rcode.FORMERR)
    response = dns.message.make_response(query, our_payload=UDP_BYTES_MAX)
    if query.edns > 0:
        response.set_rcode(dns.rcode.BADVERS)
    else:
        _fill(response, query.question[0], answers, turn)
    size = TCP_BYTES_MAX
    if is_udp:
        asked = query.payload if query.edns >= 0 else UDP_BYTES_MIN
        size = max(UDP_BYTES_MIN, min(asked, UDP_BYTES_MAX))
    return response.to_wire(max_size=size, prefer_truncation=True, want_shuffle=False)  # the order is ours


def _fill(response: dns.message.Message, question: dns.rrset.RRset, answers: Answers | None, turn: int) -> None:
    """Put what *answers* knows about *question* into *response*."""
    name, kind = question.name, question.rdtype
    if answers is None:
        response.set_rcode(dns.rcode.SERVFAIL)
        return
    if question.rdclass != dns.rdataclass.IN or not name.is_subdomain(answers.origin) or kind in NOT_ANSWERED:
        response.set_rcode(dns.rcode.REFUSED)
        return
    response.flags |= dns.flags.AA
    found = _look_up(answers, name, kind)
    if found is None:
        if name not in answers.names:
            response.set_rcode(dns.rcode.NXDOMAIN)
        response.authority.append(answers.soa)
        return
    response.answer.append(_rotated(found, name, turn))
    for rdata in found:
        if isinstance(rdata, dns.rdtypes.IN.SRV.SRV):
            _add_addresses(response, answers, rdata.target)


def _look_up(answers: Answers, name: dns.name.Name, kind: dns.rdatatype.RdataType) -> dns.rrset.RRset | None:
    """Return the records of *kind* at *name*, or the one that stands for all, or None."""
    if kind == dns.rdatatype.ANY:
        # One set of them is enough of an answer, and nothing to amplify an attack with.
        return next((rrset for (owner, _), rrset in answers.rrsets.items() if owner == name), None)
    return answers.rrsets.get((name, kind)) or answers.rrsets.get((name, dns.rdatatype.CNAME))


def _rotated(rrset: dns.rrset.RRset, name: dns.name.Name, turn: int) -> dns.rrset.RRset:
    """Return *rrset* under the very spelling that was asked for, with the record first whose *turn* it is."""
    rdatas = list(rrset)
    first = turn % len(rdatas)
    return dns.rrset.from_rdata_list(name, rrset.ttl, rdatas[first:] + rdatas[:first])


def _add_addresses(response: dns.message.Message, answers: Answers, target: dns.name.Name) -> None:
    """Spare the client the next question."""
    for kind in (dns.rdatatype.A, dns.rdatatype.AAAA):
        rrset = answers.rrsets.get((target, kind))
        if rrset is not None and rrset not in response.additional:
            response.additional.append(rrset)


def _bare(identity: int, flags: int, rcode: dns.rcode.Rcode) -> bytes:
    """Return an answer that is a header alone: for questions that cannot be repeated because they were not understood."""
    kept = flags & (0x7800 | dns.flags.RD)  # the operation, and the wish for recursion
    return struct.pack("!HHHHHH", identity, dns.flags.QR | kept | rcode, 0, 0, 0, 0)
