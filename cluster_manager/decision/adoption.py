"""A store that is behind what nodes and proxies have seen: the document is made anew out of what they report (S12).

Restored from an old copy, or empty, a store would have the manager order the past.  Every node keeps the greatest (epoch,
revision) it has acted on, with the voters of that document and the timelines claimed so far.  The newest of these, by revision
(a lost history may have come to a greater epoch, and was written earlier), stands for the lost document once enough of *its*
voters are heard: a safe set, which meets every set of voters that may have acknowledged a commit or been told of newer voters
(membership puts nothing in force that such a set would not know of), and so many that they meet every other safe set, so that
no election is unknown.  The new document begins an epoch beyond everything anybody saw, without a writer: what was
acknowledged is then found as in any failover, by promises and the election.  The argument is docs/decisions/0006.
"""

from __future__ import annotations

import msgspec

from cluster_manager.decision.actions import Action, WriteDocument
from cluster_manager.decision.diagnose import Diagnosis, Finding, speaks_of
from cluster_manager.decision.nodeview import NodeSpec, is_fresh
from cluster_manager.decision.situation import Situation, situate
from cluster_manager.decision.suspicion import tell
from cluster_manager.decision.view import View
from pgtopology.document import Adopted, Durability, Step, Topology, Transition, TransitionKind
from pgtopology.epoch import NO_EPOCH, NO_REVISION, Epoch, Revision
from pgtopology.node import Member
from pgtopology.observation import Observation, Seen
from pgtopology.timeline import RECORDS_MAX, TimelineRecord, last_claimable, merge_records

EPOCHS_SKIPPED = 100
"""So far beyond the newest epoch seen the adopted one lies: nobody was elected in between, but somebody who is away may have
been asked, and orders may be under way."""


def unheard(view: View) -> tuple[str, ...]:
    """Return whom of the document's voters this manager has not heard, if too few of them to know that the store is not behind.

    A node counts that remembers having been ordered anything, whatever became of its data since.
    """
    voters = view.document.voters if view.document is not None else None
    if voters is None:
        return ()
    heard = {node.name for node in view.nodes if node.observation is not None and node.observation.seen.epoch > NO_EPOCH}
    away = tuple(name for name in voters.names if name not in heard)
    return away if len(voters.members) - len(away) < voters.adoption_size else ()


def adopt(view: View, behind: Finding) -> tuple[Finding, tuple[Action, ...]]:
    """Return the write that makes the document anew, or what it still waits for."""
    newest = _newest(view)
    if newest.voters is None or newest.timelines is None:
        missing = "its voters" if newest.voters is None else "which timelines were claimed"
        return _waiting(behind, f"nobody who has seen revision {newest.revision} can say {missing}")
    if view.now_ms - view.started_at_ms < view.timings.adopt_ms:
        unheard = [node.name for node in view.nodes if not is_fresh(node, view.timings)]
        if unheard:
            return _waiting(behind, f"waiting a moment for {', '.join(unheard)}, who may have seen more")
    systems = {
        node.observation.system_identifier
        for node in view.nodes
        if node.observation is not None and node.observation.system_identifier is not None and speaks_of(node, view.document)
    }
    if len(systems) != 1:
        return _waiting(behind, "the nodes hold data of different clusters" if systems else "no node has data")
    members = {spec.name: _member(view, spec) for spec in view.specs}
    for voter in newest.voters.members:
        known = view.document.member(voter.name) if view.document is not None else None
        if voter.name not in members and known is not None:
            members[voter.name] = msgspec.structs.replace(known, leaving=True)
        elif voter.name not in members:
            return _waiting(behind, f'its voter "{voter.name}" is not configured')
    document = _document(view, newest, systems.pop(), tuple(members.values()), behind)
    anew = situate(view, document, newest.voters)
    able, needed = anew.promisable, newest.voters.adoption_size
    if len(able) < needed:
        why = f"only {len(able)} of the {needed} of its voters needed could promise: {tell(anew.missing)}"
        return _waiting(behind, why)
    because = (
        f"{behind.reason}; the document is made anew from epoch {newest.epoch}, revision {newest.revision}, the newest that "
        f"anybody has seen, and {', '.join(voter.name for voter in able)} are enough of its voters"
    )
    return Finding(Diagnosis.STORE_BEHIND, because), (WriteDocument(document, because),)


def completed(situation: Situation, transition: Transition) -> WriteDocument | None:
    """Return the write that adopts once more, if a node reports a claimed timeline that an adopted document lacks, or None.

    An order of the lost document may have been under way when it was made anew.
    """
    if transition.adopts is None or transition.step is not Step.RECRUITING:
        return None
    document = situation.document
    known = {record.timeline for record in document.timelines}
    told = _reported(situation.view)
    new = [record for record in told if record.timeline not in known and record.epoch < document.epoch]
    if not new:
        return None
    names = ", ".join(str(record.timeline) for record in new)
    again = msgspec.structs.replace(
        document,
        epoch=Epoch(document.epoch + EPOCHS_SKIPPED),
        revision=Revision(document.revision + 1),
        timelines=merge_records(document.timelines, told)[-RECORDS_MAX:],
    )
    return WriteDocument(again, f"the lost document claimed timeline {names} too")


def _newest(view: View) -> Seen:
    """Return the newest document that anybody can tell of: the store's own, or what a node has seen."""
    document = view.document
    stored = Seen(
        epoch=document.epoch if document is not None else NO_EPOCH,
        revision=document.revision if document is not None else NO_REVISION,
        voters=document.voters if document is not None else None,
        timelines=document.timelines if document is not None else None,
    )
    seen = [stored, *(one.seen for one in _speaking(view))]
    # Of several who have seen the same, one that knows the timelines: an older noded keeps none.
    return max(seen, key=lambda one: (one.revision, one.epoch, one.voters is not None, one.timelines is not None))


def _speaking(view: View) -> list[Observation]:
    return [node.observation for node in view.nodes if node.observation is not None and speaks_of(node, view.document)]


def _reported(view: View) -> tuple[TimelineRecord, ...]:
    """Return every claim that nodes have kept."""
    claims: tuple[TimelineRecord, ...] = ()
    for observation in sorted(_speaking(view), key=lambda one: (one.seen.revision, one.seen.epoch), reverse=True):
        claims = merge_records(claims, observation.seen.timelines or ())
    return claims


def _document(view: View, newest: Seen, system: str | None, members: tuple[Member, ...], behind: Finding) -> Topology:
    stored = view.document
    proxies_epoch, proxies_revision = view.proxies_seen
    promised = [max(one.promised, one.seen.epoch) for one in _speaking(view)]
    epoch = max([newest.epoch, proxies_epoch, *promised, stored.epoch if stored is not None else NO_EPOCH])
    revision = max(newest.revision, proxies_revision, stored.revision if stored is not None else NO_REVISION)
    claims = merge_records(_reported(view), stored.timelines if stored is not None else ())[-RECORDS_MAX:]
    begun = Epoch(epoch + EPOCHS_SKIPPED)
    durability = Durability.QUORUM if newest.voters is not None and newest.voters.w > 1 else Durability.ASYNC
    if stored is not None and stored.voters == newest.voters:
        durability = stored.durability
    document = Topology(
        cluster=view.cluster,
        system_identifier=system,
        revision=Revision(revision + 1),
        epoch=begun,
        durability=durability,
        voters=newest.voters,
        timelines=claims,
        members=members,
        endpoints=view.endpoints,
        transition=Transition(
            kind=TransitionKind.FAILOVER,
            step=Step.RECRUITING,
            cause=str(behind.diagnosis),
            first_epoch=begun,
            started_at=view.wall_time,
            adopts=Adopted(epoch=newest.epoch, revision=newest.revision, timeline=last_claimable(claims, epoch)),
        ),
    )
    if stored is None:
        return document
    return msgspec.structs.replace(document, paused=stored.paused, desired=stored.desired)


def _member(view: View, spec: NodeSpec) -> Member:
    stored = view.document.member(spec.name) if view.document is not None else None
    node = view.node(spec.name)
    voter = node.voter() if node is not None else None
    place = {"zone": spec.zone, "address": spec.address, "noded": spec.noded, "dns": spec.dns, "tier": spec.tier}
    incarnation = voter.incarnation if voter is not None else None
    if stored is None:
        return Member(name=spec.name, incarnation=incarnation, **place)
    # Readers stay where they are; who may be read is noted anew when there is a writer.
    return msgspec.structs.replace(stored, incarnation=incarnation or stored.incarnation, **place)


def _waiting(behind: Finding, why: str) -> tuple[Finding, tuple[Action, ...]]:
    return Finding(behind.diagnosis, f"{behind.reason}; {why}"), ()
