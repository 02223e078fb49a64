"""Whether a standby gets WAL is told by WAL that grows, not by streams that begin."""

from __future__ import annotations

import msgspec

from cluster_manager.observing.wal_starvation import LASTING_MS, WalStarvation
from pgtopology.epoch import Epoch
from pgtopology.lsn import Lsn
from pgtopology.node import NodeName, Role
from pgtopology.observation import Observation, PostmasterState, Receiver
from testkit.documents import observation

ROUND_MS = 200


def standby(
    *, streaming: bool = False, connects: bool = False, wal: int | None = 100, epoch: int = 4, running: bool = True
) -> Observation:
    """Return what a standby says; before it accepts connections it does not know how far its WAL reaches."""
    return observation(
        "n2",
        postmaster=PostmasterState.RUNNING if running else PostmasterState.STARTING,
        role=Role.STANDBY if running else Role.NONE,
        wal_end=Lsn(wal) if wal is not None and running else None,
        receiver=Receiver(
            running=connects or streaming, streaming=streaming, upstream=NodeName("n1"), upstream_epoch=Epoch(epoch)
        ),
    )


def after(*rounds: Observation) -> float:
    """Return how long a standby has starved that said *rounds*, one after the other."""
    starvation = WalStarvation()
    for number, seen in enumerate(rounds):
        starvation.take(seen, number * ROUND_MS)
    return starvation.for_ms((len(rounds) - 1) * ROUND_MS)


def test_streams_that_only_begin_give_nothing() -> None:
    flapping = [standby(), standby(), standby(streaming=True)] * 50
    assert after(*flapping) == (len(flapping) - 1) * ROUND_MS


def test_growing_wal_feeds() -> None:
    assert after(*(standby(streaming=True, wal=number) for number in range(50))) == 0
    assert after(*(standby(wal=number) for number in range(50))) == 0  # its own, which it replays


def test_a_stream_that_lasts_is_one_although_nothing_is_written() -> None:
    assert after(*[standby(streaming=True)] * (int(LASTING_MS / ROUND_MS) + 1)) == 0


def test_each_order_to_follow_begins_anew() -> None:
    assert after(*[standby()] * 50, standby(epoch=5)) == 0


def test_whoever_starts_starves_from_its_first_connection_on() -> None:
    assert after(*[standby(running=False)] * 50) == 0
    assert after(standby(running=False), standby(running=False, connects=True), *[standby(running=False)] * 10) == 10 * ROUND_MS


def test_whoever_follows_nobody_lacks_nothing() -> None:
    cut = msgspec.structs.replace(standby(), receiver=Receiver(running=False, streaming=False, upstream=None))
    assert after(*[standby()] * 5, cut) == 0
    assert after(*[standby()] * 5, msgspec.structs.replace(standby(), role=Role.PRIMARY)) == 0
