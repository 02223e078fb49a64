"""What a noded counts, for GET /metrics. What an observation says is not counted but read off it: see report.collector."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

STARTS = Counter("endpointd_node_postgres_starts", "Times PostgreSQL was started by this noded.")
UNEXPECTED_EXITS = Counter("endpointd_node_postgres_unexpected_exits", "Times PostgreSQL ended although nobody ordered it.")
HEARTBEAT_SECONDS = Histogram(
    "endpointd_node_heartbeat_seconds",
    "How long the writer's own commits took through the quorum, those that were acknowledged.",
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
HEARTBEAT_FAILURES = Counter(
    "endpointd_node_heartbeat_failures", "The writer's own commits that were not acknowledged, by error or by warning."
)
ORDERS = Counter("endpointd_node_orders", "Orders, by what became of them: done, or why not.", ["order", "outcome"])
RELOADS = Counter("endpointd_node_reloads", "Attempts to read the settings anew.", ["outcome"])
