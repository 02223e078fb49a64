"""Answers the questions load balancers ask of Patroni, so that their health checks work unchanged.

Each path is a yes (200) or a no (503), derived from one observation.  `?lag=` sets a limit for a replica: bytes as Patroni
takes them (a number, or one with kB, MB, GB or TB), or a time (ms, s, min).  Source: Patroni documentation, "REST API".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import msgspec

from pgtopology.node import Role
from pgtopology.observation import Observation, PostmasterState
from pgtopology.timing import HEARTBEAT_EVERY_MS, HEARTBEAT_VALID_MS

PATHS = ("/primary", "/replica", "/read-write", "/read-only", "/health", "/liveness", "/readiness")


LAG_PATHS = ("/replica", "/read-only", "/readiness")
"""Those that `?lag=` says more about."""

_BYTES = {"": 1, "b": 1, "kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30, "tb": 1 << 40}
_MILLISECONDS = {"ms": 1, "s": 1000, "min": 60_000}
_LAG = re.compile(r"([0-9]{1,15})\s{0,3}([A-Za-z]{0,3})")

LAG_FORMS = "a whole number of up to 15 digits, of bytes or followed by kB, MB, GB, TB, ms, s or min"


@dataclass(frozen=True, slots=True)
class LagLimit:
    """How late a replica may be: in bytes or in time."""

    bytes_max: int | None = None
    ms_max: int | None = None


def parse_lag(text: str) -> LagLimit:
    """Return what `?lag=` asks for. Raises ValueError."""
    found = _LAG.fullmatch(text)
    unit = found[2].lower() if found is not None else ""
    if found is not None and unit in _BYTES:
        return LagLimit(bytes_max=int(found[1]) * _BYTES[unit])
    if found is not None and unit in _MILLISECONDS:
        return LagLimit(ms_max=int(found[1]) * _MILLISECONDS[unit])
    raise ValueError(f"lag must be {LAG_FORMS}")


class Health(msgspec.Struct, frozen=True):
    """The body of the answers: Patroni's names for what an observation says."""

    state: str
    role: str
    timeline: int | None
    server_version: str | None


def is_yes(path: str, observation: Observation, limit: LagLimit | None = None) -> bool:
    """Return whether the answer to *path* is 200; a replica that is later than *limit*, or may be, is none."""
    running = observation.postmaster.state is PostmasterState.RUNNING
    primary = running and observation.role is Role.PRIMARY and _is_acknowledged(observation)
    replica = running and observation.role is Role.STANDBY
    streaming = replica and observation.receiver is not None and observation.receiver.streaming
    streaming = streaming and (limit is None or _is_within(observation, limit))
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


def _is_within(observation: Observation, limit: LagLimit) -> bool:
    if limit.bytes_max is not None:
        return observation.behind_bytes is not None and observation.behind_bytes <= limit.bytes_max
    waiting_ms, silent_ms = observation.replay_lag_ms, observation.upstream_silent_ms
    if limit.ms_max is None or waiting_ms is None or silent_ms is None:
        return limit.ms_max is None
    return waiting_ms + max(0.0, silent_ms - HEARTBEAT_EVERY_MS) <= limit.ms_max


def _is_acknowledged(observation: Observation) -> bool:
    heartbeat = observation.heartbeat
    if heartbeat is None or heartbeat.acknowledged_age_ms is None:
        return False
    return heartbeat.acknowledged_age_ms <= HEARTBEAT_VALID_MS
