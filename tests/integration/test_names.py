"""DNS: the writer's name before and after a failover, on the real name server, asked by a real client."""

from __future__ import annotations

import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype

from testkit.cluster import Cluster

ZONE = "local.endpointd.internal"


def ask(cluster: Cluster, name: str, kind: str, *, tcp: bool = False) -> dns.message.Message:
    query = dns.message.make_query(name, kind)
    send = dns.query.tcp if tcp else dns.query.udp
    return send(query, "127.0.0.1", port=cluster.port(53), timeout=5.0)


def texts(answer: dns.message.Message) -> set[str]:
    return {item.to_text() for section in answer.answer for item in section}


def writer_port(cluster: Cluster) -> int:
    [service] = texts(ask(cluster, f"_postgresql._tcp.writer.{ZONE}", "SRV"))
    return int(service.split()[2])


def test_the_endpoints_have_addresses_with_a_short_life(cluster: Cluster) -> None:
    for name in ("writer", "reader", "n1", "n2", "n3"):
        for tcp in (False, True):
            answer = ask(cluster, f"{name}.{ZONE}", "A", tcp=tcp)
            assert texts(answer) == {"127.0.0.1"}
            assert answer.flags & dns.flags.AA
            assert answer.answer[0].ttl <= 5


def test_the_zone_has_a_start_of_authority(cluster: Cluster) -> None:
    answer = ask(cluster, ZONE, "SOA")
    assert answer.answer[0].rdtype == dns.rdatatype.SOA
    assert answer.flags & dns.flags.AA


def test_unknown_names_do_not_exist_and_foreign_ones_are_refused(cluster: Cluster) -> None:
    missing = ask(cluster, f"nobody.{ZONE}", "A")
    assert missing.rcode() == dns.rcode.NXDOMAIN
    assert missing.authority[0].rdtype == dns.rdatatype.SOA
    assert ask(cluster, "example.com", "A").rcode() == dns.rcode.REFUSED


def test_the_writers_name_follows_a_failover(cluster: Cluster) -> None:
    before = cluster.status()
    assert before.writer is not None
    assert writer_port(cluster) == cluster.node(before.writer, before).port
    serial = _serial(cluster)
    target = next(node.name for node in before.nodes if node.name != before.writer)
    cluster.ctl("failover", "--to", target)
    after = cluster.status()
    cluster.wait(lambda _: writer_port(cluster) == cluster.node(target, after).port, "followed by DNS", timeout_s=5.0)
    assert _serial(cluster) > serial
    cluster.wait_healthy()


def _serial(cluster: Cluster) -> int:
    [text] = texts(ask(cluster, ZONE, "SOA"))
    return int(text.split()[2])
