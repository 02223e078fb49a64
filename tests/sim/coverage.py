"""What has to occur over many seeds, and did it? A fault, a diagnosis or an action that never occurs proves nothing."""

from __future__ import annotations

from collections import Counter

from cluster_manager.decision.actions import ActionKind
from cluster_manager.decision.diagnose import Diagnosis
from cluster_manager.decision.request import RequestKind

FAULTS = (
    "crash_postgres",
    "power_off",
    "freeze_postgres",
    "freeze_node",
    "kill_noded",
    "freeze_proxy",
    "slow_disk",
    "stall_startup",
    "promote_by_hand",
    "split",
    "restart_all",
    "wipe",
    "partition",
    "partition in one direction",
    "clog",
    "reset_stream",
    "storm",
    "repeat_orders",
    "pause_manager",
    "crash_manager",
    "lose_store",
    f"ask_{RequestKind.FAILOVER.name.lower()}",
    f"ask_{RequestKind.SWITCHOVER.name.lower()}",
    "give_up_voters",
    "pause",
    "stop_node",
    "reinit",
    "strange_hand",
    "remove_node",
    "node removed",
    "node added",
    "roll_back",
    "lose_state",
    "mute",
)
OTHERS = (
    "message late",
    "message twice",
    "message lost",
    "unsynced WAL lost",
    "two managers lead",
    "walsenders bounced",
    "quarantine lifted",
    "position read from the files",
    "staying fault: a voter away, a crash",
    "staying fault: writer reaches too few",
    "staying fault: managers hear too few",
    "staying fault: all but one given up",
)

ELSEWHERE = {
    f"action {ActionKind.RESTART}": "a restart is the operator's, and no decision's; tests/integration",
    f"action {ActionKind.CONFIGURE}": "the simulated servers have no other settings than the law's; "
    "tests/cluster_manager/decision/scenarios/settings_*.txt",
    f"diagnosis {Diagnosis.NO_CANDIDATE}": "voters whose data does not count are missed before they are asked (NO_SAFE_SET), "
    "unless it changes in between; tests/cluster_manager/decision/scenarios/recruit_no_candidate.txt",
}
"""What cannot occur, or hardly ever, and what covers it."""


def expected() -> tuple[str, ...]:
    """Return everything that has to occur."""
    named = (
        *(f"fault {kind}" for kind in FAULTS),
        *OTHERS,
        *(f"diagnosis {diagnosis}" for diagnosis in Diagnosis),
        *(f"action {kind}" for kind in ActionKind),
    )
    return tuple(name for name in named if name not in ELSEWHERE)


def tell_coverage(counts: Counter[str]) -> tuple[str, int]:
    """Return a table of *counts*, and how many of those expected never occurred."""
    names = sorted({*expected(), *counts})
    lines = [f"{counts[name]:>9}  {name}{'' if counts[name] else '  NEVER'}" for name in names]
    missing = sum(1 for name in expected() if not counts[name])
    return "\n".join(lines), missing
