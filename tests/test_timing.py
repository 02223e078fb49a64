"""The inequalities between what one program does and what another one waits for (pgtopology/timing.py)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cluster_manager.decision.actions import ActionKind
from cluster_manager.decision.timings import Timings
from cluster_manager.loop import orders
from cluster_manager.operations import configuring
from cluster_manager.shell import observer
from endpointctl import configuring as ctl_configuring
from endpointctl import restarting
from endpointd import service as proxy
from endpointd.routing import feed, heartbeat_check, switchboard
from endpointd.takeover import incumbent, predecessor
from endpointd.wire import link
from endpointd.workers import crew
from noded.postgres import postmaster
from noded.report import settings_check
from pgtopology import timing
from supervisor import program, stopping

ROOT = Path(__file__).parents[1]
MANAGER = Timings()


def test_a_new_writer_is_published_when_nobody_serves_the_old_one_any_more() -> None:
    """S14."""
    assert MANAGER.reader_lease_ms >= max(timing.FRAME_LEASE_MS, timing.HEARTBEAT_VALID_MS)


def test_two_lost_frames_do_not_stop_the_writers() -> None:
    assert timing.FRAME_LEASE_MS >= 3 * timing.FRAME_EVERY_MS
    asks_after_ms = timing.FRAME_LEASE_MS - heartbeat_check.SILENCE_S * 1000
    assert asks_after_ms >= 2 * timing.FRAME_EVERY_MS, "nodeds are asked only while managers are silent"


def test_one_lost_answer_about_the_heartbeat_does_not_stop_the_writers() -> None:
    oldest_ms = timing.HEARTBEAT_EVERY_MS + 2 * heartbeat_check.ASK_EVERY_S * 1000
    assert oldest_ms <= timing.HEARTBEAT_VALID_MS


def test_a_heartbeat_is_not_stuck_before_it_has_ceased_to_vouch() -> None:
    assert MANAGER.stuck_ms >= timing.HEARTBEAT_VALID_MS
    assert timing.HEARTBEAT_VALID_MS >= 3 * timing.HEARTBEAT_EVERY_MS


def test_silence_is_several_missed_reports_or_frames() -> None:
    assert MANAGER.fresh_ms > timing.REPORT_EVERY_MS
    assert MANAGER.silence_ms >= 3 * timing.REPORT_EVERY_MS
    assert observer.IDLE_TIMEOUT_S * 1000 >= 3 * timing.REPORT_EVERY_MS
    assert feed.SILENCE_S * 1000 >= 3 * timing.FRAME_EVERY_MS


def test_a_receiver_that_flushes_is_believed_as_long_as_it_keeps_its_upstream() -> None:
    assert MANAGER.unflushed_ms <= timing.WAL_RECEIVER_TIMEOUT_MS


def test_a_handover_waits_longer_than_streams_of_replication_last() -> None:
    assert MANAGER.drain_ms >= timing.DRAIN_MS
    assert MANAGER.handover_ms > switchboard.LAST_WORDS_S * 1000


def test_whoever_stops_a_server_waits_longer_than_its_noded_does() -> None:
    stop_s = timing.FAST_STOP_MS / 1000 + postmaster.KILL_AFTER_S
    for patience_s in (orders.DEADLINE_S[ActionKind.STOP], stopping.NODE_STOP_S, _grace_period_s("node")):
        assert patience_s > stop_s


def test_whoever_orders_a_restart_waits_longer_than_who_carries_it_out() -> None:
    assert restarting.ORDER_TIMEOUT_S > orders.DEADLINE_S[ActionKind.RESTART] > timing.FAST_STOP_MS / 1000


def test_whoever_has_settings_tried_waits_longer_than_who_tries_them() -> None:
    assert ctl_configuring.CHECK_TIMEOUT_S > configuring.CHECK_TIMEOUT_S > settings_check.CHECK_TIMEOUT_S


@pytest.mark.parametrize("patience_s", [stopping.PROXY_STOP_S, pytest.param(None, id="containers")])
def test_whoever_stops_a_proxy_waits_until_it_has_drained(patience_s: float | None) -> None:
    drained_s = proxy.DRAIN_S + link.LINGER_S
    # Its main process waits for the workers, and whoever stops it for that.
    assert drained_s < crew.END_S < (patience_s if patience_s is not None else _grace_period_s("proxy"))


def test_whoever_has_a_proxy_relieved_waits_longer_than_the_new_one_and_the_former_one_longest() -> None:
    assert predecessor.READY_S + predecessor.DYING_S < program.RELIEF_S < incumbent.READY_S


def _grace_period_s(service: str) -> float:
    """Return what docker-compose.yml gives *service*, or the template `x-SERVICE`, to stop."""
    text = (ROOT / "docker-compose.yml").read_text()
    found = re.search(rf"^(?:x-|  ){service}:.*?stop_grace_period: (\d+)s", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    return float(found[1])
