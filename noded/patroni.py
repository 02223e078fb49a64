"""Answers the questions load balancers ask of Patroni, so that their health checks work unchanged.

Each path is a yes (200) or a no (503), derived from one observation.  Source: Patroni documentation, "REST API".
"""

from __future__ import annotations

import msgspec

from pgtopology.node import Role
from pgtopology.observation import Observation, PostmasterState

HEARTBEAT_FRESH_MS = 600
"""A primary is one only while its own commits are acknowledged (S14)."""

PATHS = ("/primary", "/replica", "/read-write", "/read-only", "/health", "/liveness", "/readiness")


class Health(msgspec.Struct, frozen=True):
    """The body of the answers: Patroni's names for what an observation says."""

    state: str
    role: str
    timeline: int | None
    server_version: str | None


def is_yes(path: str, observation: Observation) -> bool:
    """Return whether the answer to *path* is 200."""
    running = observation.postmaster.state is PostmasterState.RUNNING
    primary = running and observation.role is Role.PRIMARY and _is_acknowledged(observation)
    replica = running and observation.role is Role.STANDBY
    streaming = replica and observation.receiver is not None and observation.receiver.streaming
    match path:
        case "/primary" | "/read-write":
            return primary
        case "/replica":
            return streaming
        case "/read-only":
            return primary or streaming
        case "/readiness":
            return primary or streaming
        case "/health":
            return running
        case _:
            return True


def health(observation: Observation) -> Health:
    """Return the body."""
    role = "replica" if observation.role is Role.STANDBY else str(observation.role)
    return Health(str(observation.postmaster.state), role, observation.timeline, observation.server_version)


def _is_acknowledged(observation: Observation) -> bool:
    heartbeat = observation.heartbeat
    if heartbeat is None or heartbeat.acknowledged_age_ms is None:
        return False
    return heartbeat.acknowledged_age_ms <= HEARTBEAT_FRESH_MS
