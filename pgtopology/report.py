"""What manager and proxy say to each other on the one connection between them.

The manager sends a frame at every new document and every 150 ms; the proxy answers each with a report, and sends one at every
change.  A frame is the proxy's permission to serve the writer endpoint until *lease_ms* after it had sent the report that the
frame answers (S14): counted from the frame's arrival, one that lay in a slow link would vouch for too long.
"""

from __future__ import annotations

import msgspec

from pgtopology.cancels import CancelQuestion
from pgtopology.document import FORMAT_VERSION, Topology
from pgtopology.epoch import Epoch, Revision
from pgtopology.node import NodeName


class FeedFrame(msgspec.Struct, frozen=True, kw_only=True):
    """One message of the document feed."""

    format_version: int = FORMAT_VERSION
    lease_ms: int
    """For how long the document may be relied upon; 0 from a manager that does not hold the lease."""
    echo_ms: int | None = None
    """*clock_ms* of the newest report that had arrived when the frame was made; None: it vouches for nothing."""
    epoch: Epoch
    revision: Revision
    document: Topology | None = None
    """Sent when it changed and in the first frame; otherwise the one with this (epoch, revision) stays."""
    questions: tuple[msgspec.Raw, ...] = ()
    """Each a SessionQuestion (sessions.py), asked once and answered beside this connection. Read one by one: a question that a
    proxy does not understand must not cost it the frame, and is not answered in part."""
    cancels: tuple[CancelQuestion, ...] = ()
    """Cancel requests that came to other proxies, each answered beside this connection."""


class BackendHealth(msgspec.Struct, frozen=True):
    """Whether a proxy could last connect to a node."""

    node: NodeName
    answers: bool


class ProxyEndpoint(msgspec.Struct, frozen=True):
    """Where a proxy listens for clients."""

    name: str
    """writer, reader, or a node's."""
    host: str
    port: int


class ProxyReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a proxy tells of itself."""

    format_version: int = FORMAT_VERSION
    name: str
    proxy: str = ""
    """The name in its settings, which all processes of one proxy have in common; empty from an earlier version."""
    pid: int = 0
    """Of the process that reports."""
    version: str
    epoch: Epoch
    """Of the document it routes by: no session of an earlier writer is left when this is published."""
    revision: Revision
    clock_ms: int = 0
    """The proxy's own clock when it sent this, for nobody but itself: frames bring it back."""
    sessions: int
    engine: str
    relaxed_sessions: int = 0
    """Of these, those on the writer that may have weakened what their commits promise; always 0 without a quorum."""
    is_draining: bool = False
    """Whether it lets nobody in any more: another process has taken over its endpoints."""
    backends: tuple[BackendHealth, ...] = ()
    endpoints: tuple[ProxyEndpoint, ...] = ()
