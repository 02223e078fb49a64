"""What a node's metrics say, read back by the parser that a monitoring system would use."""

from __future__ import annotations

from msgspec.structs import replace
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from noded.report.collector import ObservationCollector
from noded.report.gatherer import Slots
from pgtopology.epoch import Epoch
from pgtopology.lsn import Lsn
from pgtopology.node import NodeName, Role
from pgtopology.observation import Disk, Heartbeat, Observation, Postmaster, PostmasterState, Receiver, SlotCount, Walsender
from pgtopology.timeline import Timeline
from testkit.documents import observation

STOPPED = observation(postmaster=PostmasterState.STOPPED)
RUNNING = replace(STOPPED, postmaster=Postmaster(state=PostmasterState.RUNNING, deaf_ms=1500), server_version="18.1")


def sender(name: str, slot: str | None, flush_lsn: Lsn | None) -> Walsender:
    return Walsender(name=name, slot=slot, streaming=True, flush_lsn=flush_lsn, replay_lsn=flush_lsn, sync_priority=1)


Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(seen: Observation, slots: Slots | None = None) -> Samples:
    registry = CollectorRegistry(auto_describe=True)
    registry.register(ObservationCollector(lambda: seen, lambda: slots))
    samples: Samples = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        assert family.documentation.endswith(".")
        for sample in family.samples:
            key = sample.name.removeprefix("endpointd_node_"), tuple(sorted(sample.labels.items()))
            assert key not in samples
            samples[key] = sample.value
    return samples


def test_a_stopped_node_says_so_and_nothing_it_does_not_know() -> None:
    samples = scrape(STOPPED)
    assert samples["up", ()] == 0
    assert samples["role", (("role", "none"),)] == 1
    assert samples["postmaster", (("state", "stopped"),)] == 1
    assert not {name for name, _ in samples} & {"timeline", "wal_end_bytes", "heartbeat_age_seconds", "disk_free_bytes"}


def test_a_writer() -> None:
    seen = replace(
        RUNNING,
        role=Role.PRIMARY,
        timeline=Timeline(4),
        promised=Epoch(3),
        wal_end=Lsn(5000),
        heartbeat=Heartbeat(epoch=Epoch(3), acknowledged_age_ms=120, pending_ms=20),
        walsenders=(
            sender("n2_ab", "n2_ab", Lsn(4000)),
            sender("n3_cd", "n3_cd", None),
            sender("whatever a user says", None, Lsn(1)),
        ),
        disk=Disk(free_bytes=10, total_bytes=100),
    )
    samples = scrape(seen, Slots(SlotCount(used=3, limit=20), 2048))
    assert samples["role", (("role", "primary"),)] == 1
    assert samples["role", (("role", "standby"),)] == 0
    assert {
        name: samples[name, ()]
        for name in ("up", "timeline", "promised_epoch", "wal_end_bytes", "heartbeat_age_seconds", "heartbeat_pending_seconds",
                     "deaf_seconds", "replication_slots", "slots_retained_bytes", "foreign_walsenders", "disk_free_bytes")
    } == {
        "up": 1, "timeline": 4, "promised_epoch": 3, "wal_end_bytes": 5000, "heartbeat_age_seconds": 0.12,
        "heartbeat_pending_seconds": 0.02, "deaf_seconds": 1.5, "replication_slots": 3, "slots_retained_bytes": 2048,
        "foreign_walsenders": 1, "disk_free_bytes": 10,
    }  # fmt: skip
    assert [key for key in samples if key[0] == "standby_flush_lag_bytes"] == [
        ("standby_flush_lag_bytes", (("standby", "n2_ab"),))
    ]
    assert samples["standby_flush_lag_bytes", (("standby", "n2_ab"),)] == 1000


def test_a_standby() -> None:
    receiver = Receiver(running=True, streaming=True, upstream=NodeName("n2"))
    samples = scrape(replace(RUNNING, role=Role.STANDBY, wal_end=Lsn(900), replayed_lsn=Lsn(850), receiver=receiver))
    assert samples["replay_lag_bytes", ()] == 50
    assert samples["receiver_streaming", ()] == 1
    assert ("foreign_walsenders", ()) not in samples
