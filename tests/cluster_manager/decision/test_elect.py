"""The election: nobody who may stand is ahead of the winner, in whatever order the promises came."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from cluster_manager.decision.elect import elect, tally, who_may_stand
from pgtopology.document import Topology
from tests.cluster_manager.decision.storyboard import read_view

NAMES = ("n1", "n2", "n3", "n4", "n5")
POSITIONS = (
    "wal=0/4000000",
    "wal=0/5000000",
    "wal=0/5000000 replayed=0/4000000",
    "wal=0/6000000 timeline=4",
    "unknown=starting",
)
WISHES = ("failover", "switchover", "failover avoid-old", "switchover avoid-old", "switchover avoid-old target=n3")


def play(wish: str, positions: Sequence[str | None], tiers: Sequence[int]) -> tuple[Topology, str]:
    """Return the document of an epoch that *wish* began, and the promises of everybody who has a position."""
    kind, _, options = wish.partition(" ")
    view = read_view(
        f"manager nodes={','.join(NAMES)}\ndocument voters={','.join(NAMES)}/3\ntransition {kind} recruiting {options}"
    )
    assert view.document is not None
    members = tuple(msgspec.structs.replace(one, tier=tier) for one, tier in zip(view.document.members, tiers, strict=True))
    promises = [f"promise {name} {text}" for name, text in zip(NAMES, positions, strict=True) if text is not None]
    return msgspec.structs.replace(view.document, members=members), "\n".join(promises)


@given(
    st.sampled_from(WISHES),
    st.lists(st.sampled_from((None, *POSITIONS)), min_size=5, max_size=5),
    st.lists(st.integers(1, 3), min_size=5, max_size=5),
)
def test_nobody_who_may_stand_is_ahead_of_the_winner_and_everybody_else_is_told_why(
    wish: str, positions: list[str | None], tiers: list[int]
) -> None:
    document, promises = play(wish, positions, tiers)
    view = read_view(
        f"manager nodes={','.join(NAMES)}\ndocument voters={','.join(NAMES)}/3\ntransition failover recruiting\n{promises}"
    )
    votes = tally(document, view.promises, view.foreign)
    elected = elect(document, votes)
    if not document.is_safe_set(votes.voters):
        assert elected is None
        return
    assert elected is not None
    standing = who_may_stand(document, votes).standing
    best = max((one.position.epoch, one.position.lsn) for one in standing)
    assert (elected.position.epoch, elected.position.lsn) == best
    assert set(elected.passed_over) == set(NAMES) - {elected.node}
    if "avoid-old" not in wish:
        assert standing == votes.counted
    backwards = tally(document, dict(reversed(list(view.promises.items()))), view.foreign)
    assert elect(document, backwards) == elected
