"""What the proxy is like at the moment when somebody asks: counted then, not kept up to date in between.

Bytes are those of the sessions that live and of those that have ended, so that a session of a week shows in its first minute.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from endpointd.auth.rolefeed import RoleFeed
from endpointd.pooling.pools import Pools
from endpointd.routing.feed import Feed
from endpointd.routing.switchboard import Switchboard
from endpointd.servers.warm import WarmServers
from endpointd.session.registry import SessionRegistry
from endpointd.takeover.colleagues import Colleagues


class ProxyCollector(Collector):
    """Counts sessions, their bytes, and how old what is known is."""

    def __init__(
        self,
        registry: SessionRegistry,
        board: Switchboard,
        feeds: Sequence[Feed],
        rolefeed: RoleFeed,
        colleagues: Colleagues,
        warm: WarmServers,
        pools: Pools | None,
        now: Callable[[], float],
    ) -> None:
        self._registry = registry
        self._board = board
        self._feeds = feeds
        self._rolefeed = rolefeed
        self._colleagues = colleagues
        self._warm = warm
        self._pools = pools
        self._now = now

    def collect(self) -> Iterable[Metric]:
        """Return the families; called for each GET /metrics, on the loop."""
        sessions: Counter[tuple[str, str]] = Counter()
        moved = Counter(self._registry.bytes_of_ended)
        held = 0
        for session in self._registry:
            facts, backend = session.facts, session.backend
            sessions[session.door.name, backend.node if backend is not None else ""] += 1
            held += facts.held_bytes if facts is not None else 0
            for direction, count in session.bytes_moved():
                moved[session.door.name, direction] += count
        here = GaugeMetricFamily(
            "endpointd_sessions",
            "Client connections that are open; node is empty while they have no server.",
            labels=["endpoint", "node"],
        )
        for labels, count in sorted(sessions.items()):
            here.add_metric(labels, count)
        through = CounterMetricFamily("endpointd_bytes", "Bytes of all sessions.", labels=["endpoint", "direction"])
        for labels, count in sorted(moved.items()):
            through.add_metric(labels, count)
        age = GaugeMetricFamily(
            "endpointd_feed_age_seconds", "Since the last word of a manager; infinite before the first.", labels=["manager"]
        )
        for feed in self._feeds:
            age.add_metric([feed.url], max(0.0, self._now() - feed.heard_at))
        draining = GaugeMetricFamily(
            "endpointd_draining_sessions",
            "Sessions of an earlier process of this proxy, which this one has relieved.",
            labels=["pid"],
        )
        for standing in self._colleagues.standings:
            draining.add_metric([str(standing.pid)], standing.sessions)
        kept = GaugeMetricFamily(
            "endpointd_warm_servers", "Connections to servers that are kept for the next clients.", labels=["node"]
        )
        for node, count in sorted(self._warm.by_node().items()):
            kept.add_metric([node], count)
        vouched_s = max(0.0, self._board.freshness.until - self._now())
        return (
            here,
            through,
            age,
            draining,
            kept,
            *self._pool_families(),
            GaugeMetricFamily(
                "endpointd_roles", "Roles that clients' passwords are checked against.", value=self._rolefeed.roles.count
            ),
            GaugeMetricFamily(
                "endpointd_roles_age_seconds",
                "Since a node last said what the roles are; infinite before the first time.",
                value=max(0.0, self._now() - self._rolefeed.heard_at),
            ),
            GaugeMetricFamily("endpointd_held_bytes", "Bytes of all sessions in the proxy's memory.", value=held),
            GaugeMetricFamily(
                "endpointd_relaxed_sessions",
                "Sessions on the writer that spoke of a setting that weakens what a commit promises.",
                value=self._registry.relaxed_sessions(self._board.topology),
            ),
            GaugeMetricFamily("endpointd_writer_vouched_seconds", "How long the writer may still be served.", value=vouched_s),
        )

    def _pool_families(self) -> Iterable[Metric]:
        if self._pools is None:
            return
        clients = GaugeMetricFamily(
            "endpointd_pool_clients",
            "Sessions of pooled endpoints; waiting: for a server; pinned: they keep theirs.",
            labels=["endpoint", "state"],
        )
        servers = GaugeMetricFamily("endpointd_pool_servers", "Servers of pools.", labels=["endpoint", "state"])
        waits = CounterMetricFamily(
            "endpointd_pool_waits", "How often a session was given a server that it had waited for.", labels=["endpoint"]
        )
        longest = GaugeMetricFamily(
            "endpointd_pool_longest_wait_seconds", "How long the first of those has waited that wait now.", labels=["endpoint"]
        )
        waited = CounterMetricFamily("endpointd_pool_waited_seconds", "How long these waited together.", labels=["endpoint"])
        prepared = CounterMetricFamily(
            "endpointd_pool_statements_prepared", "Statements that were prepared at a server.", labels=["endpoint"]
        )
        evicted = CounterMetricFamily(
            "endpointd_pool_statements_evicted", "Statements that made room for others at a server.", labels=["endpoint"]
        )
        for endpoint, facts in self._pools.totals().items():
            clients.add_metric([endpoint, "waiting"], facts.waiting)
            clients.add_metric([endpoint, "pinned"], facts.pinned)
            clients.add_metric([endpoint, "other"], facts.clients - facts.waiting - facts.pinned)
            servers.add_metric([endpoint, "idle"], facts.idle)
            servers.add_metric([endpoint, "busy"], facts.servers - facts.idle)
            waits.add_metric([endpoint], facts.waits)
            longest.add_metric([endpoint], facts.longest_wait_ms / 1000)
            waited.add_metric([endpoint], facts.waited_ms / 1000)
            prepared.add_metric([endpoint], facts.parses)
            evicted.add_metric([endpoint], facts.evicted)
        yield from (clients, servers, longest, waits, waited, prepared, evicted)
