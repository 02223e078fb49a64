"""What the proxy counts, for GET /metrics."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

SESSIONS = Gauge("endpointd_sessions", "Client connections that are open.", ["endpoint"])
SESSIONS_OPENED = Counter("endpointd_sessions_opened", "Sessions that were connected to a server.", ["endpoint", "node"])
REFUSALS = Counter("endpointd_refusals", "Connections ended by the proxy itself.", ["endpoint", "sqlstate"])
HELD = Gauge("endpointd_held", "Clients that wait for somebody to connect to.", ["endpoint"])
DIAL_FAILURES = Counter("endpointd_dial_failures", "Servers that could not be connected to.", ["node", "reason"])
CANCELS = Counter("endpointd_cancels", "Cancel requests, by whether the key was known.", ["known"])
BYTES = Counter("endpointd_bytes", "Bytes of ended sessions.", ["endpoint", "direction"])
EPOCH = Gauge("endpointd_epoch", "Epoch of the document that is routed by.")
REVISION = Gauge("endpointd_revision", "Revision of the document that is routed by.")
WRITER_VOUCHED = Gauge("endpointd_writer_vouched", "Whether somebody vouches for the writer now.")
BUGS = Counter("endpointd_bugs", "Sessions that ended because of a fault of ours.")
