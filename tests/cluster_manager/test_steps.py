"""What a write of the document means: the steps that journal, log and flight recorder tell of."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from cluster_manager.decision.actions import WriteDocument
from cluster_manager.decision.plan import decide
from cluster_manager.record.steps import (
    Begun,
    Claimed,
    Opened,
    PauseChanged,
    Remade,
    SettingsChanged,
    Step,
    VotersChanged,
    follows_the_writer,
    promoted,
    repointed,
    written,
)
from pgtopology.desired import DesiredSettings
from tests.cluster_manager.decision.storyboard import read_view

SCENARIOS = Path(__file__).parent / "decision" / "scenarios"


def steps_of(scenario: str) -> tuple[Step, ...]:
    """Return what the write that *scenario* ends in means."""
    view = read_view((SCENARIOS / f"{scenario}.txt").read_text(encoding="utf-8").partition("----\n")[0])
    (write,) = decide(view).actions
    assert isinstance(write, WriteDocument)
    return written(view.document, write.document, view)


@pytest.mark.parametrize(
    ("scenario", "kinds"),
    [
        ("postmaster_killed", [Begun]),
        ("switchover_begins", [Begun]),
        ("candidate_dies", [Begun]),
        ("bootstrap_begins", [Begun]),
        ("store_behind", [Remade, Begun]),
        ("elect_greatest_lsn", [Claimed]),
        ("open", [Opened]),
        ("grow_records", [VotersChanged]),
        ("shrink_records", [VotersChanged]),
        ("candidate_gets_a_voter_made_anew", [VotersChanged]),
    ],
)
def test_each_write_of_a_failover_is_one_step(scenario: str, kinds: list[type]) -> None:
    assert [type(step) for step in steps_of(scenario)] == kinds


def test_a_write_that_only_notes_members_is_none() -> None:
    view = read_view("node n3 age=900")
    (write,) = decide(view).actions
    assert isinstance(write, WriteDocument)
    assert written(view.document, write.document, view) == ()


def test_the_first_attempt_is_told_from_the_next() -> None:
    (first,), (next_one,) = steps_of("postmaster_killed"), steps_of("candidate_dies")
    assert isinstance(first, Begun)
    assert isinstance(next_one, Begun)
    assert first.is_first
    assert not next_one.is_first


def test_a_claim_carries_its_election() -> None:
    (claimed,) = steps_of("elect_greatest_lsn")
    assert isinstance(claimed, Claimed)
    assert claimed.elected is not None
    assert claimed.elected.node == claimed.node
    since_ms = claimed.votes.safe_since_ms(claimed.voters.safe_set_size)
    at_ms = sorted(one.promise.at_ms for one in claimed.votes.counted)
    assert since_ms == at_ms[claimed.voters.safe_set_size - 1]
    assert claimed.votes.safe_since_ms(len(at_ms) + 1) is None


def test_what_operators_change_is_a_step() -> None:
    view = read_view("")
    assert view.document is not None
    paused = msgspec.structs.replace(view.document, paused=True)
    assert written(view.document, paused, view) == (PauseChanged(is_paused=True),)
    settings = msgspec.structs.replace(view.document, desired=DesiredSettings(version=3))
    assert written(view.document, settings, view) == (SettingsChanged(3),)


PROMOTED = "transition failover promoting from=n1\ncandidate n2 timeline=6\nnode n2 primary-of=5 timeline=6"


def test_a_candidate_is_promoted_when_it_says_so_under_its_own_epoch() -> None:
    seen = promoted(read_view(PROMOTED))
    assert seen is not None
    assert seen.name == "n2"
    assert promoted(read_view(PROMOTED.replace("primary-of=5", "primary-of=4"))) is None
    assert promoted(read_view(PROMOTED.partition("\nnode")[0])) is None


def test_as_many_as_its_commits_need_have_been_repointed() -> None:
    assert repointed(read_view(f"{PROMOTED}\nnode n3 follows=n2/5")) == ("n3",)
    assert repointed(read_view(f"{PROMOTED}\nnode n3 follows=n2/4")) == ()
    assert repointed(read_view(PROMOTED)) == ()


def test_a_node_has_rejoined_when_it_streams_from_the_writer() -> None:
    assert follows_the_writer(read_view(""), "n2")
    assert not follows_the_writer(read_view("node n2 follows=n3"), "n2")
    assert not follows_the_writer(read_view("node n2 lost-stream=900"), "n2")
    assert not follows_the_writer(read_view(""), "n1")
    assert not follows_the_writer(read_view(""), None)
