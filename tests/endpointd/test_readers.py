"""Where readers go as replicas fall behind, leave and come back; on real servers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from pgtopology.document import Topology
from testkit.feedserver import feed_server
from tests.endpointd.conftest import Servers
from tests.endpointd.proxies import proxy
from tests.endpointd.test_failover import connect, ended_by, value


def eligible(servers: Servers, revision: int, *nodes: str) -> Topology:
    """Return a document in which *nodes* are within the lag limit."""
    topology = servers.document(revision=revision)
    members = tuple(
        msgspec.structs.replace(member, reader_eligible=member.name in nodes and member.name != "n1")
        for member in topology.members
    )
    return msgspec.structs.replace(topology, members=members)


async def test_a_replica_that_is_too_far_behind_is_left_out_until_it_has_caught_up(servers: Servers, tmp_path: Path) -> None:
    ports = {str(server.port): name for name, server in (("n1", servers.n1), ("n2", servers.n2), ("n3", servers.n3))}

    async def where(count: int) -> tuple[dict[str, int], list[Any]]:
        sessions = [await connect(running.reader_port) for _ in range(count)]
        return Counter([ports[await value(session, "show port")] for session in sessions]), sessions

    async with feed_server(eligible(servers, 1, "n2", "n3")) as feed, proxy(tmp_path / "proxy", [feed.port]) as running:
        await running.wait_for_health(status="serving")
        found, both = await where(6)
        assert found == {"n2": 3, "n3": 3}
        feed.publish(eligible(servers, 2, "n3"))
        await running.wait_for_health(revision=2)
        found, late = await where(4)
        assert found == {"n3": 4}
        # Who is on a replica that fell behind stays there.
        assert Counter([ports[await value(session, "show port")] for session in both]) == {"n2": 3, "n3": 3}
        feed.publish(eligible(servers, 3))
        await running.wait_for_health(revision=3, readers=())
        found, fallen_back = await where(2)
        assert found == {"n1": 2}
        assert await value(fallen_back[0], "show transaction_read_only") == "off"
        feed.publish(eligible(servers, 4, "n2", "n3"))
        await running.wait_for_health(revision=4)
        # n2 has 3 sessions and n3 has 7: of two drawn, the one with fewer.
        found, new = await where(4)
        assert found == {"n2": 4}
        # Without the fallback they wait, and those that fell back before stay.
        running.reload(("fallback_to_writer = true", "fallback_to_writer = false"))
        await running.wait_for_log("settings read anew")
        assert await value(fallen_back[0], "select 1") == "1"
        feed.publish(eligible(servers, 5, "n2"))
        removed = msgspec.structs.replace(eligible(servers, 6, "n2"), members=servers.document().members[:2])
        feed.publish(removed)
        await running.wait_for_health(revision=6)
        assert [await ended_by(session) for session in late] == ["57P01"] * 4
        for session in (*both, *late, *fallen_back, *new):
            await session.close()
