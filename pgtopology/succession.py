"""Which document may follow which.

The manager asks before each write, the simulator at every step; a reader that may have missed revisions asks the weaker
question.  The rules are what the failover law says of epochs (docs/law.md, D1, D2, S3, S5): an epoch has at most one
candidate, one timeline and one writer; the writer never goes from one node to another directly.  One document may follow any
other: that which a manager makes anew out of what nodes have seen, because its store was behind them (S12); it begins an epoch
beyond all of theirs.  The answer to "may it?" is the reason why not, or None.
"""

from __future__ import annotations

import msgspec

from pgtopology.document import Adopted, Durability, Step, Topology
from pgtopology.quorum import Voters
from pgtopology.timeline import is_claimable


def may_follow(old: Topology, new: Topology) -> str | None:
    """Return why *new* may not be written directly after *old*, or None if it may."""
    if new.cluster != old.cluster:
        return f'the cluster went from "{old.cluster}" to "{new.cluster}"'
    if old.system_identifier is not None and new.system_identifier != old.system_identifier:
        return f"the system identifier went from {old.system_identifier} to {new.system_identifier}"
    if new.revision <= old.revision:
        return f"revision went from {old.revision} to {new.revision}, not up"
    adopted = made_anew(old, new)
    if adopted is not None:
        return _adoption_rules(old, new, adopted) or inconsistency(new)
    if new.epoch < old.epoch:
        return f"epoch went back from {old.epoch} to {new.epoch}"
    return inconsistency(new) or _epoch_rules(old, new) or _timeline_rules(old, new) or _voter_rules(old, new)


def made_anew(old: Topology | None, new: Topology) -> Adopted | None:
    """Return what *new* was made anew out of; None if it was written on from *old*, which is an epoch further at most."""
    adopts = new.transition.adopts if new.transition is not None else None
    return adopts if old is None or new.epoch > old.epoch + 1 else None


def may_replace(old: Topology, new: Topology) -> str | None:
    """Return why a reader that holds *old* must not accept *new*, or None if it may; revisions in between may be missing.

    A manager of an older version writes a revision twice if the store was restored from a copy that lacked it: then the one
    that is sent now is in the store.
    """
    if new.cluster != old.cluster:
        return f'the cluster went from "{old.cluster}" to "{new.cluster}"'
    # A greater epoch may come with a smaller revision: the document was made anew by one who had seen fewer revisions (S12).
    if (new.epoch, new.revision) < (old.epoch, old.revision):
        return f"(epoch, revision) went from ({old.epoch}, {old.revision}) to ({new.epoch}, {new.revision})"
    again = new.revision == old.revision and new.writer is None
    if old.epoch == new.epoch and old.writer is not None and new.writer != old.writer and not again:
        return f'epoch {new.epoch} has two writers, "{old.writer}" and "{new.writer}"'
    return inconsistency(new)


def inconsistency(new: Topology) -> str | None:
    """Return what is wrong with *new* whatever came before it, or None."""
    if new.writer is not None and (new.candidate is None or new.candidate.node != new.writer):
        return f'"{new.writer}" is the writer but not the candidate of epoch {new.epoch}'
    if new.writer is None and new.transition is None:
        return "there is neither a writer nor a transition"
    if new.writer is not None and new.transition is not None:
        return f'"{new.writer}" is the writer while a transition is unfinished'
    if new.transition is not None and (new.transition.step is Step.PROMOTING) != (new.candidate is not None):
        return f"the transition is {new.transition.step}, but {'there is a' if new.candidate else 'there is no'} candidate"
    if new.transition is not None and new.transition.step is Step.INITIALISING and new.voters is not None:
        return "there are voters before there is data"
    if new.candidate is not None and new.candidate.timeline is not None:
        record = next((r for r in new.timelines if r.timeline == new.candidate.timeline), None)
        if record is None or record.epoch != new.epoch or record.node != new.candidate.node:
            return f"timeline {new.candidate.timeline} is not claimed for epoch {new.epoch}"
    names = [member.name for member in new.members]
    if len(set(names)) != len(names):
        return "two members have one name"
    if new.voters is not None:
        stranger = next((name for name in new.voters.names if new.member(name) is None), None)
        if stranger is not None:
            return f'voter "{stranger}" is not a member'
    return None


def _adoption_rules(old: Topology, new: Topology, adopted: Adopted) -> str | None:
    """Return what is wrong with a document that was made anew, or None: it goes beyond everything, and begins with nobody."""
    if new.epoch <= max(old.epoch, adopted.epoch) or new.revision <= adopted.revision:
        return f"an adopted document must go beyond epoch {max(old.epoch, adopted.epoch)} and revision {adopted.revision}"
    if new.writer is not None or new.candidate is not None:
        return f"epoch {new.epoch} begins with a candidate or a writer"
    return "an adopted document has no voters" if new.voters is None else None


def _epoch_rules(old: Topology, new: Topology) -> str | None:
    if new.epoch > old.epoch:
        if new.writer is not None or new.candidate is not None:
            return f"epoch {new.epoch} begins with a candidate or a writer"
        return None
    if old.writer is not None and new.writer != old.writer:
        return f'the writer went from "{old.writer}" to "{new.writer}" within epoch {new.epoch}'
    if old.writer is None and new.writer is not None and (old.candidate is None or old.candidate.timeline is None):
        return f'"{new.writer}" was named writer without a claimed timeline'
    if old.candidate is not None:
        if new.candidate is None or new.candidate.node != old.candidate.node:
            return f"epoch {new.epoch} has two candidates"
        if old.candidate.timeline is not None and new.candidate.timeline != old.candidate.timeline:
            return f"epoch {new.epoch} has two timelines"
    return None


def _timeline_rules(old: Topology, new: Topology) -> str | None:
    greatest = max((record.timeline for record in old.timelines), default=1)
    before = {record.timeline: record for record in old.timelines}
    claims = 0
    last = 0
    for record in new.timelines:
        if record.timeline <= last:
            return "the timelines are not in ascending order"
        last = record.timeline
        known = before.get(record.timeline)
        if known is None:
            claims += 1
            if record.timeline <= greatest or record.epoch != new.epoch:
                return f"timeline {record.timeline} was claimed below {greatest} or for another epoch than {new.epoch}"
            if not is_claimable(record.timeline):
                return f"timeline {record.timeline} is even: PostgreSQL gives such a number to whoever is promoted by hand"
        elif known not in (record, msgspec.structs.replace(record, opened=False)):
            return f"the record of timeline {record.timeline} was changed"
    if claims > 1:
        return "two timelines were claimed in one write"
    kept = {record.timeline for record in new.timelines}
    if before and max(before) not in kept:
        return f"the record of timeline {max(before)} was dropped"
    return None


def _voter_rules(old: Topology, new: Topology) -> str | None:
    if old.voters is None or new.voters == old.voters:
        return None
    if new.voters is None:
        return "the voters were forgotten"
    if new.epoch > old.epoch and new.durability is Durability.REDUCED:
        return None
    if new.epoch != old.epoch or (new.writer is None and not _is_anew_beside_candidate(old, old.voters, new, new.voters)):
        return "the voters changed while there is no writer"
    if old.former_voters is not None and _replaced(old.voters, new.voters) == 0:
        return "the voters changed again before the last change was known"
    if not is_single_step(old.voters, new.voters):
        return "the voters changed by more than one step"
    return None


def _is_anew_beside_candidate(old: Topology, before: Voters, new: Topology, after: Voters) -> bool:
    """Return whether nothing but the data of one voter changed, beside a candidate that stays (docs/decisions/0005)."""
    candidate = new.candidate
    if candidate is None or candidate != old.candidate or new.transition != old.transition:
        return False
    kept = before.find(candidate.node) == after.find(candidate.node)
    return kept and before.names == after.names and before.w == after.w


def is_single_step(old: Voters, new: Voters) -> bool:
    """Return whether *new* differs from *old* by at most one voter, and w by at most one.

    A voter whose data was made anew under the same name is one step too.  The old incarnation can never promise again, so
    no safe set of *old* leans on it; and the new one is counted only when it is whole, that is, when it holds everything
    its predecessor ever acknowledged.
    """
    return len(set(old.names) ^ set(new.names)) + _replaced(old, new) <= 1 and abs(old.w - new.w) <= 1


def _replaced(old: Voters, new: Voters) -> int:
    """Count the names that stand in both with different incarnations."""
    return sum(1 for voter in new.members if (before := old.find(voter.name)) is not None and before != voter)
