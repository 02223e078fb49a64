"""The settings a Patroni cluster is measured with, as the texts of its files and of HAProxy's.

Pure.  Two variants: what Patroni does when nobody asks for anything else, and the shortest times that it accepts.  Both
commit by quorum, because without it Patroni may lose acknowledged commits by design and would be another thing.
HAProxy's file is the one of Patroni's documentation, with a check of `/primary`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

HOST = "127.0.0.1"
SUPERUSER = "postgres"
REPLICATION_ROLE = "replicator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to set Patroni and HAProxy up; times in seconds, HAProxy's in its own notation."""

    name: str
    ttl: int
    loop_wait: int
    retry_timeout: int
    primary_start_timeout: int
    check: str
    """How HAProxy checks a server: interval, and how many answers change its mind."""
    check_timeout: str
    retries: int
    """How often HAProxy tries a server that refuses, a second apart, before the client hears of it."""
    parameters: Mapping[str, str] = field(default_factory=dict[str, str])
    """PostgreSQL's parameters beside those that every variant gets."""

    def __str__(self) -> str:
        text = (
            f"ttl {self.ttl}, loop_wait {self.loop_wait}, retry_timeout {self.retry_timeout}, "
            f"primary_start_timeout {self.primary_start_timeout}, synchronous_mode quorum; "
            f"HAProxy {self.check}, timeout check {self.check_timeout}, retries {self.retries}"
        )
        if self.parameters:
            text += "; " + ", ".join(f"{name} {value}" for name, value in self.parameters.items())
        return text


DEFAULT = Variant(
    name="patroni-default",
    ttl=30,
    loop_wait=10,
    retry_timeout=10,
    primary_start_timeout=300,
    check="inter 3s fall 3 rise 2",
    check_timeout="5s",
    retries=2,
)

FAST = Variant(
    name="patroni-fast",
    # The least that Patroni accepts for each.
    ttl=20,
    loop_wait=1,
    retry_timeout=3,
    # A crashed primary is not started again in its place while a replica can take over.
    primary_start_timeout=0,
    check="inter 200ms fall 2 rise 1",
    check_timeout="1s",
    retries=0,
    # What endpointd's servers have, so that replicas find and leave a server as quickly here as there.
    parameters={
        "wal_sender_timeout": "2s",
        "wal_receiver_timeout": "2s",
        "wal_receiver_status_interval": "1s",
        "wal_retrieve_retry_interval": "100ms",
        "max_standby_streaming_delay": "500ms",
    },
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One node of a Patroni cluster: where it listens and keeps things."""

    name: str
    port: int
    rest_port: int
    home: Path

    @property
    def pgdata(self) -> Path:
        """The data directory."""
        return self.home / "pgdata"

    @property
    def settings(self) -> Path:
        """Patroni's settings file."""
        return self.home / "patroni.yml"

    @property
    def log(self) -> Path:
        """What Patroni and PostgreSQL wrote."""
        return self.home / "log"


def patroni_settings(variant: Variant, member: Member, *, pg_bin: Path, pg_major: int, etcd_port: int, password: str) -> str:
    """Return the settings file of *member*: JSON, which every reader of YAML takes."""
    locale = [{"locale-provider": "builtin"}] if pg_major >= 17 else []
    settings: dict[str, object] = {
        "scope": variant.name,
        "name": member.name,
        "restapi": {"listen": f"{HOST}:{member.rest_port}", "connect_address": f"{HOST}:{member.rest_port}"},
        "etcd3": {"hosts": f"{HOST}:{etcd_port}"},
        # There is no watchdog device for a process on a developer's machine.
        "watchdog": {"mode": "off"},
        "bootstrap": {
            "dcs": {
                "ttl": variant.ttl,
                "loop_wait": variant.loop_wait,
                "retry_timeout": variant.retry_timeout,
                "primary_start_timeout": variant.primary_start_timeout,
                "maximum_lag_on_failover": 1048576,
                "synchronous_mode": "quorum",
                "synchronous_node_count": 1,
                "postgresql": {
                    "use_pg_rewind": True,
                    "use_slots": True,
                    "parameters": {"shared_buffers": "32MB", "max_connections": 100, **variant.parameters},
                },
            },
            "initdb": [{"encoding": "UTF8"}, {"locale": "C.UTF-8"}, *locale, "data-checksums"],
        },
        "postgresql": {
            "listen": f"{HOST}:{member.port}",
            "connect_address": f"{HOST}:{member.port}",
            "data_dir": str(member.pgdata),
            "bin_dir": str(pg_bin),
            "pgpass": str(member.home / "pgpass"),
            "authentication": {
                "superuser": {"username": SUPERUSER, "password": password},
                "replication": {"username": REPLICATION_ROLE, "password": password},
            },
            "parameters": {"unix_socket_directories": str(member.home)},
            "pg_hba": [
                f"host replication {REPLICATION_ROLE} {HOST}/32 scram-sha-256",
                f"host all all {HOST}/32 scram-sha-256",
            ],
            # A former primary that cannot be rewound is made anew, as noded does it.
            "remove_data_directory_on_rewind_failure": True,
            "remove_data_directory_on_diverged_timelines": True,
        },
    }
    return json.dumps(settings, indent=2) + "\n"


def haproxy_settings(variant: Variant, members: Sequence[Member], *, port: int) -> str:
    """Return HAProxy's file: the primary of *members* on *port*."""
    lines = [
        "global",
        "    maxconn 1000",
        "defaults",
        "    log global",
        "    mode tcp",
        f"    retries {variant.retries}",
        "    timeout client 30m",
        "    timeout connect 4s",
        "    timeout server 30m",
        f"    timeout check {variant.check_timeout}",
        "listen primary",
        f"    bind {HOST}:{port}",
        "    option httpchk OPTIONS /primary",
        "    http-check expect status 200",
        f"    default-server {variant.check} on-marked-down shutdown-sessions",
    ]
    lines += [f"    server {member.name} {HOST}:{member.port} maxconn 100 check port {member.rest_port}" for member in members]
    return "\n".join(lines) + "\n"


def haproxy_dsn(password: str, port: int) -> str:
    """Return how clients reach the primary through HAProxy."""
    return f"postgresql://{SUPERUSER}:{password}@{HOST}:{port}/postgres"


def direct_dsn(password: str, members: Sequence[Member]) -> str:
    """Return how clients find the primary of *members* themselves, where there is no HAProxy."""
    hosts = ",".join(f"{HOST}:{member.port}" for member in members)
    return f"postgresql://{SUPERUSER}:{password}@{hosts}/postgres?target_session_attrs=read-write"


def is_healthy(cluster: Mapping[str, object], *, nodes: int) -> bool:
    """Return whether *cluster*, Patroni's answer to GET /cluster, shows a leader and quorum standbys that all stream."""
    members = cluster.get("members")
    if not isinstance(members, list) or len(members) != nodes:
        return False
    seen = [(member.get("role"), member.get("state")) for member in members]
    timelines = {member.get("timeline") for member in members}
    return (
        seen.count(("leader", "running")) == 1
        and seen.count(("quorum_standby", "streaming")) == nodes - 1
        and len(timelines) == 1
    )
