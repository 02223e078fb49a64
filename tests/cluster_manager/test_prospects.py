"""What status and metrics say before, while and after commits stop: each loss without whom it takes, and stuck soon."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from cluster_manager.decision.plan import decide
from cluster_manager.decision.prospects import STALLED_MS, UNANSWERED_MS
from cluster_manager.report.metrics import ManagerMetrics
from cluster_manager.report.status import make_status
from pgtopology.epoch import Epoch
from pgtopology.status import ManagerStatus, ProxyStatus, Status
from tests.cluster_manager.decision.storyboard import read_view
from tests.cluster_manager.test_metrics import Decided, Remembers

APART = "node n1 host=10.0.0.1\nnode n2 host=10.0.0.2\nnode n3 host=10.0.0.3\n"
"""Each node on a host of its own."""

FIVE = "manager nodes=n1,n2,n3,n4,n5\ndocument voters=n1,n2,n3,n4,n5/3\n" + "".join(
    f"node n{number} host=10.0.0.{number}\n" for number in range(1, 6)
)
"""Five of them, each commit on three."""

NOTHING_COMES = "node n2 advanced=9000\nnode n3 advanced=9000"
PROXY = ProxyStatus(name="proxy-1", epoch=Epoch(4), sessions=0, engine="asyncio")
LACKS = '1 of the 2 voters needed could promise; "n2" lacks the slots n1_1111, n3_3333, and as the writer would find no quorum'
ALONE = 'without "n1" no failover is possible: "n1" is the only voter (durability async)'


def told(story: str, *, proxies: tuple[ProxyStatus, ...] = (PROXY,)) -> tuple[Status, dict[str, float]]:
    """Return the status of the cluster that *story* describes, and its gauges."""
    view = read_view(story)
    plan = decide(view)
    status = make_status(
        view,
        plan,
        manager=ManagerStatus(leader="m", store="embedded"),
        last_failover=None,
        proxies=proxies,
        since={},
        version="0",
    )
    registry = CollectorRegistry()
    registry.register(ManagerMetrics(Decided(view, plan), Remembers(None), lambda: True))
    gauges = {name: registry.get_sample_value(f"endpointd_{name}") for name in ("stuck", "failover_possible", "at_risk")}
    for loss in ("server_crash", "host_loss", "zone_loss"):
        gauges[loss] = registry.get_sample_value("endpointd_survives", {"loss": loss})
    return status, {name: value for name, value in gauges.items() if value is not None}


@pytest.mark.parametrize(
    ("story", "survived", "because"),
    [
        (APART, (True, True, True), 'another voter takes over from "n1"'),
        ("", (True, False, False), 'host "127.0.0.1" has every node'),
        (APART + "node n3 age=5000", (False, False, False), "1 of the 2 voters needed could promise"),
        (APART + "node n3 not-whole", (False, False, False), '"n3" is not whole yet'),
        (APART + "node n3 disk-free=100", (False, False, False), "0 MB free"),
        (APART + "node n3 crashes=5", (False, False, False), "ended 5 times in a row"),
        (APART + "node n3 login-problem=42883", (False, False, False), 'n3" says that 42883'),
        (APART + "node n3 login-spared=53300", (True, True, True), "another voter takes over"),
        (APART + "node n2 slots-lacking=n1,n3", (False, False, False), LACKS),
        # Of the one that is lost it needs no slot.
        (APART + "node n2 slots-lacking=n1", (True, True, True), "another voter takes over"),
        (APART + "node n1 slots-lacking=n2,n3", (True, True, True), "another voter takes over"),
        # Given up after a while, it is not needed.
        (FIVE + "node n2 slots-lacking=n1,n3,n4,n5", (True, True, True), "another voter takes over"),
        (APART + "document paused", (False, False, False), "paused"),
        (APART + "document durability=async voters=n1/1", (False, False, False), "is the only voter"),
        (APART + "document durability=async voters=n1,n2/1", (False, False, False), "1 of the 2 voters needed"),
        (APART + "node n3 host=10.0.0.2", (True, False, False), 'without host "10.0.0.2" (n2, n3): commits would wait'),
        (APART + "node n3 zone=az2", (True, True, False), 'without zone "az2" (n2, n3)'),
        (APART + "node n2 zone=az1\nnode n3 zone=az1", (True, True, False), 'zone "az1" has every node'),
        (APART + "node n2 lost-stream=5000 advanced=100", (True, False, False), "commits would wait"),
        (APART + "document stopped=n3\nnode n3 postmaster=stopped", (False, False, False), '"n3" is kept down by an operator'),
        (APART + "document stopped=n3", (False, False, False), '"n3" is kept down by an operator'),
        (f"{FIVE}document stopped=n5\nnode n5 postmaster=stopped", (True, True, True), "another voter takes over"),
        (
            f"{FIVE}document stopped=n4\ndocument stopped=n5\nnode n4 postmaster=stopped\nnode n5 postmaster=stopped",
            (False, False, False),
            'commits would wait after a failover: 2 of the 3 voters needed could acknowledge; "n4" is kept down by an operator',
        ),
        ("manager empty-store", (False, False, False), "there is no cluster yet"),
    ],
)
def test_a_loss_is_judged_without_whom_it_takes(story: str, survived: tuple[bool, bool, bool], because: str) -> None:
    status, gauges = told(story)
    assert (status.survives.server_crash, status.survives.host_loss, status.survives.zone_loss) == survived
    why = status.survives_because
    assert because in f"{why.server_crash} | {why.host_loss} | {why.zone_loss}"
    assert (gauges["server_crash"], gauges["host_loss"], gauges["zone_loss"]) == survived
    assert gauges["failover_possible"] == survived[0]


@pytest.mark.parametrize(
    ("story", "state", "at_risk"),
    [
        ("", "healthy", None),
        ("manager nodes=n1\ndocument durability=async voters=n1/1\nin-force n1/1\nnode n1 shows=''", "healthy", ALONE),
        ("node n3 age=5000", "at_risk", 'without "n1" no failover would be possible'),
        ("node n1 disk-free=0", "at_risk", '"n1" has 0 MB free on its disk'),
        ("node n2 disk-free=4096", "at_risk", '"n2" has 0 MB free on its disk'),
        ("document paused", "paused", None),
        (f"node n1 heartbeat-pending={UNANSWERED_MS - 1}\nnode n2 received=100", "degraded", None),
        (f"node n1 heartbeat-pending={UNANSWERED_MS}\nnode n2 received=100", "stuck", "has acknowledged no commit of"),
        ("node n1 heartbeat-pending=5000\nnode n2 age=9000\nnode n3 age=9000", "stuck", "--allow-data-loss test"),
        ("node n1 heartbeat-error=23514", "stuck", "(23514)"),
        (f"manager soft-failovers=-5000\nnode n1 heartbeat-pending=4000\n{NOTHING_COMES}", "stuck", "held"),
        ("manager reader-lag-max=1000\nnode n2 replay-lag=9000", "healthy", None),
        ("manager reader-lag-max=1000\nnode n2 replay-lag=9000\nnode n3 replay-lag=900", "healthy", None),
        ("manager reader-lag-max=1000\nnode n2 replay-lag=9000\nnode n3 replay-lag=1001", "degraded", None),
        ("document paused\nnode n1 crashed=1", "stuck", "`endpointctl resume`"),
        (f"document durability=async voters=n1/1\nnode n1 age=9000 port=silent\n{NOTHING_COMES}", "stuck", "nobody has heard"),
        ("node n1 age=9000 port=answers", "degraded", None),
        ("node n1 crashed=1\nnode n2 age=5000\nnode n3 age=5000", "stuck", "bring back n2 or n3"),
        ("transition failover recruiting from=n1", "transition", None),
        (f"transition failover recruiting from=n1\nmanager transition-began={-STALLED_MS}", "stuck", "`endpointctl failover`"),
        (f"transition failover promoting\ncandidate n2\nmanager transition-began={-STALLED_MS}", "transition", None),
        # The second one of this outage: it has just been restarted, and so has replayed something.
        (
            f"transition failover promoting first=2\ncandidate n2\nmanager transition-began={-STALLED_MS}",
            "stuck",
            "no writer for 8 s",
        ),
        (
            f"transition failover promoting\ncandidate n2\nnode n2 replayed-ago=3000\nmanager transition-began={-STALLED_MS}",
            "stuck",
            "no writer for 8 s",
        ),
    ],
)
def test_state_and_risk_tell_the_same(story: str, state: str, at_risk: str | None) -> None:
    status, gauges = told(story)
    assert status.state == state, (status.diagnosis, status.at_risk)
    assert gauges["stuck"] == (state == "stuck")
    if at_risk is None:
        assert status.at_risk is None
    else:
        assert at_risk in str(status.at_risk)
    assert gauges["at_risk"] == (status.at_risk is not None)
    if state in ("stuck", "transition"):
        assert not status.survives.server_crash
        assert gauges["failover_possible"] == 0


def test_the_writer_is_not_counted_among_those_that_could_promise_without_it() -> None:
    status, _ = told("node n3 age=5000")
    assert (status.voters.needed, status.voters.promisable, status.voters.promisable_without_writer) == (2, 2, 1)


def test_endpoints_that_nobody_serves_are_not_healthy() -> None:
    assert told("")[0].state == "healthy"
    assert told("", proxies=())[0].state == "degraded"
