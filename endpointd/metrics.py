"""What the proxy counts, for GET /metrics. What can be read off the state of things when somebody asks is in collector.py.

Every label has a bounded set of values: endpoints and nodes of the cluster, managers of the settings, words of our own.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

CONNECTIONS = Counter("endpointd_connections", "Client connections that were accepted.", ["endpoint"])
SESSIONS_OPENED = Counter("endpointd_sessions_opened", "Sessions that were connected to a server.", ["endpoint", "node"])
STARTUP_FAILURES = Counter(
    "endpointd_startup_failures", "Connections that ended before a session stood, by what was wrong.", ["endpoint", "reason"]
)
REFUSALS = Counter("endpointd_refusals", "Connections ended by the proxy itself, by what it told.", ["endpoint", "sqlstate"])
EVICTIONS = Counter("endpointd_evictions", "Sessions that were ended without their client's doing.", ["endpoint", "reason"])
HELD = Gauge("endpointd_held", "Clients that wait for somebody to connect to.", ["endpoint"])
HOLD_SECONDS = Histogram(
    "endpointd_hold_seconds",
    "How long clients that had to wait for somebody to connect to waited.",
    ["endpoint"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60),
)
DIAL_SECONDS = Histogram(
    "endpointd_dial_seconds",
    "How long connections to servers took, those that failed included.",
    ["node"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 3),
)
LOGIN_SECONDS = Histogram(
    "endpointd_login_seconds",
    "From a client's connection to the first ReadyForQuery.",
    ["endpoint"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
DIAL_FAILURES = Counter("endpointd_dial_failures", "Servers that could not be connected to.", ["node", "reason"])
QUICK_LOGINS = Counter(
    "endpointd_quick_logins",
    "Logins of clients that were here before: as usual (begun), or the ordinary login took over (given_up).",
    ["endpoint", "outcome"],
)
SERVER_CONNECTIONS = Counter(
    "endpointd_server_connections",
    "Connections to servers that clients were given, by whether they were dialled or kept from a client before (reused).",
    ["node", "origin"],
)
WARM_DISCARDED = Counter(
    "endpointd_warm_discarded", "Connections to servers that were kept, or were to be, and went without a client.", ["reason"]
)
POOL_PINS = Counter(
    "endpointd_pool_pins", "Sessions of pooled endpoints that keep their server from then on, by why.", ["endpoint", "reason"]
)
CANCELS = Counter("endpointd_cancels", "Cancel requests, by whether the key was known.", ["known"])
RELAXED = Counter(
    "endpointd_relaxed_statements",
    "Sessions on the writer that began to speak of a setting that weakens what a commit promises.",
    ["setting"],
)
TLS_HANDSHAKES = Counter(
    "endpointd_tls_handshakes", "Clients that TLS was agreed on with, by its version.", ["endpoint", "version"]
)
CERTIFICATE_END = Gauge(
    "endpointd_certificate_end_seconds",
    "When the certificate ends that is shown to clients, in seconds since 1970.",
    ["shown_to"],
)
EPOCH = Gauge("endpointd_epoch", "Epoch of the document that is routed by.")
REVISION = Gauge("endpointd_revision", "Revision of the document that is routed by.")
WRITER_VOUCHED = Gauge("endpointd_writer_vouched", "Whether somebody vouches for the writer now.")
PROCESSES = Gauge("endpointd_processes", "Processes of the proxy that have started, its main one among them.")
WORKERS_ENDED = Counter("endpointd_workers_ended", "Workers that have ended by themselves or were killed, with their sessions.")
RELOADS = Counter("endpointd_reloads", "Attempts to read the settings anew.", ["outcome"])
BUGS = Counter("endpointd_bugs", "Sessions that ended because of a fault of ours.")
