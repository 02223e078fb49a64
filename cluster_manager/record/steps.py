"""What the steps of a transition are: one answer for the journal, the log and the flight recorder.

`written` says what a write of the document means by comparing it with the one before; the rest says what is seen rather than
written.  Pure, and knows nothing of how a step is told.
"""

from __future__ import annotations

from dataclasses import dataclass

from cluster_manager.decision.elect import Elected, Tally, elect, tally
from cluster_manager.decision.nodeview import NodeView
from cluster_manager.decision.view import View
from pgtopology.document import Adopted, Topology, Transition
from pgtopology.node import NodeName, Role
from pgtopology.quorum import Voters
from pgtopology.succession import made_anew


@dataclass(frozen=True, slots=True)
class Remade:
    """The document was made anew, because the store was behind (S12)."""

    adopts: Adopted


@dataclass(frozen=True, slots=True)
class Begun:
    """An attempt to have a writer: a transition, or the next try of one."""

    transition: Transition
    is_first: bool


@dataclass(frozen=True, slots=True)
class Claimed:
    """A candidate and its timeline."""

    node: NodeName
    votes: Tally
    voters: Voters
    """Of whom a safe set promised."""
    elected: Elected | None
    """By the promises known to whoever claimed; None if they are not."""


@dataclass(frozen=True, slots=True)
class Opened:
    """There is a writer again."""

    node: NodeName
    ended: Transition | None


@dataclass(frozen=True, slots=True)
class VotersChanged:
    """One step of the voters."""

    voters: Voters


@dataclass(frozen=True, slots=True)
class SettingsChanged:
    """An operator wants other settings of PostgreSQL."""

    version: int


@dataclass(frozen=True, slots=True)
class PauseChanged:
    """Automatic failover was paused, or goes on."""

    is_paused: bool


Step = Remade | Begun | Claimed | Opened | VotersChanged | SettingsChanged | PauseChanged


def written(old: Topology | None, new: Topology, view: View) -> tuple[Step, ...]:
    """Return what the write of *new* over *old*, decided upon *view*, means; nothing if only members were noted down."""
    transition = new.transition
    steps: list[Step] = []
    adopted = made_anew(old, new)
    if adopted is not None:
        steps.append(Remade(adopted))
    if transition is not None and (old is None or new.epoch > old.epoch):
        steps.append(Begun(transition, new.epoch == transition.first_epoch))
    elif old is not None and (step := _within_an_epoch(old, new, view)) is not None:
        steps.append(step)
    return tuple(steps)


def _within_an_epoch(old: Topology, new: Topology, view: View) -> Step | None:
    if new.transition is not None and new.candidate is not None and old.candidate is None and old.voters is not None:
        votes = tally(old, view.promises, view.foreign)
        return Claimed(new.candidate.node, votes, old.voters, elect(old, votes))
    if new.writer is not None and old.writer is None:
        return Opened(new.writer, old.transition)
    if new.voters is not None and new.voters != old.voters:
        return VotersChanged(new.voters)
    if new.desired != old.desired:
        return SettingsChanged(new.desired.version)
    if new.paused != old.paused:
        return PauseChanged(new.paused)
    return None


def promoted(view: View) -> NodeView | None:
    """Return the candidate if it runs as the primary of the document's epoch, else None."""
    document = view.document
    node = view.node(document.candidate.node) if document is not None and document.candidate is not None else None
    seen = node.observation if node is not None else None
    if document is None or seen is None or seen.role is not Role.PRIMARY or seen.promoted_epoch != document.epoch:
        return None
    return node


def repointed(view: View) -> tuple[NodeName, ...]:
    """Return who streams from the candidate in the document's epoch, if they are as many as its commits need; else nobody."""
    document = view.document
    node = view.node(document.candidate.node) if document is not None and document.candidate is not None else None
    if document is None or document.voters is None or node is None or node.observation is None:
        return ()
    following = tuple(
        other.name
        for other in view.nodes
        if other.observation is not None
        and (receiver := other.observation.receiver) is not None
        and receiver.streaming
        and (receiver.upstream, receiver.upstream_epoch) == (node.name, document.epoch)
    )
    needed = document.voters.others_needed(node.name)
    return following if needed and len(following) >= needed else ()


def follows_the_writer(view: View, name: str | None) -> bool:
    """Return whether the node called *name* streams from the published writer."""
    writer = view.document.writer if view.document is not None else None
    node = view.node(name)
    receiver = node.observation.receiver if node is not None and node.observation is not None else None
    return writer is not None and receiver is not None and receiver.streaming and receiver.upstream == writer
