"""What people do to a cluster: handovers, nodes taken out and added, made anew, stopped; and hands on PostgreSQL itself."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from cluster_manager.decision.actions import Clone
from cluster_manager.decision.leaving import why_needed
from cluster_manager.decision.repair import quorum_does_without
from cluster_manager.decision.request import Request, RequestKind
from cluster_manager.decision.situation import survey
from pgtopology.document import Topology
from pgtopology.node import Role
from pgtopology.orders import Upstream
from tests.sim.manager import Process
from tests.sim.mishaps import Mishaps
from tests.sim.node import SimNode
from tests.sim.store import ANSWER_MS
from tests.sim.switches import Switch

LOOK_MS = 200.0
Edit = Callable[[Topology, bool], Topology]


class Operators(Mishaps):
    """Orders given through a leading manager, and things done behind its back."""

    def _leader(self) -> Process | None:
        """Return the manager process that leads and has a published writer, if one does."""
        for manager in self.cluster.managers:
            process = manager.process
            if process is not None and process.leads and not process.frozen:
                return process
        return None

    def ask_switchover(self) -> None:
        """An operator wants another writer."""
        to = self.rng.choice(list(self.cluster.nodes)) if self.rng.random() < 0.6 else None
        kind = self.rng.choice((RequestKind.FAILOVER, RequestKind.SWITCHOVER))
        leader = self._leader()
        if leader is not None:
            name = self.cluster.nodes[to].name if to else None
            if leader.ask(Request(kind=kind, to=name)):
                self._begin(f"ask_{kind.name.lower()}", "an operator asks for a {} to {}", kind, to)

    def give_up_voters(self) -> None:
        """An operator goes on without the voters that are away (--allow-data-loss)."""
        leader = self._leader()
        if leader is not None and leader.ask(Request(kind=RequestKind.DATA_LOSS)):
            self._begin("give_up_voters", "an operator allows data loss")

    def lose_most(self) -> None:
        """Too many voters and the writer are away for a while: nobody can be promoted, until an operator gives up the rest."""
        writer = self.cluster.writer()
        if writer is None:
            return
        others = self._others(writer.name)
        late = self.cluster.broken is Switch.SURVIVOR_MISSED
        kept = self.rng.sample(others, len(others) // 2 if late else self.rng.randint(1, len(others) // 2))
        span_ms = self.world.jitter(2500, 5000)
        for name in [writer.name, *(other for other in others if other not in kept)]:
            self.power_off(self.cluster.nodes[name], span_ms)
        if len(kept) > 1 and (late or self.rng.random() < 0.5):
            self.cluster.nodes[kept[0]].pg.stall_startup(self.world.jitter(1000, 3500))  # its promise comes late
        if self.rng.random() < 0.6:
            self._later(self.world.jitter(1000, 2400), self.give_up_voters)

    def pause(self) -> None:
        """An operator forbids failovers for a while."""
        self._edit_for("pause", "failovers are paused", _paused)

    def stop_node(self) -> None:
        """An operator wants a standby's PostgreSQL down for a while."""
        leader = self._leader()
        node = self._standby_to_spare(leader)
        if node is not None:
            name = node.name
            self._edit_for("stop_node", f"an operator stops {name}", lambda old, on: _marked(old, name, stopped=on))

    def reinit(self) -> None:
        """An operator has a standby made anew."""
        leader = self._leader()
        node = self._standby_to_spare(leader)
        writer = self.cluster.writer()
        if node is None or leader is None or leader.document is None or writer is None or not self.cluster.is_complete():
            return
        self._begin("reinit", "an operator has {} made anew", node.name)
        source = Upstream(writer.name, next(spec.address for spec in leader.host.specs if spec.name == writer.name))
        leader.order(Clone(node.name, source, node.state.incarnation, "an operator asked for it"))

    def remove_node(self) -> None:
        """An operator takes a voter out; when it is none any more its machine is replaced by an empty one of the same name."""
        leader = self._leader()
        node = self._standby_to_spare(leader)
        if node is None or leader is None or leader.document is None or why_needed(leader.document, node.name) is not None:
            return
        if self.leaving:
            return
        name, self.leaving = node.name, True
        self._begin("remove_node", "an operator takes {} out", name)
        leader.edit(lambda old: old if why_needed(old, name) is not None else _marked(old, name, leaving=True), "an operator")
        self.world.after(LOOK_MS, None, self._replace, node, leader, False)

    def _replace(self, node: SimNode, taker: Process, last: bool) -> None:
        """Look whether *node* has left; then take it out of the settings, and put an empty one in.

        An order that *taker* has not carried out yet, or was writing down when it died, may still come to stand there.
        """
        document = self.cluster.store.document
        voters = document.voters if document is not None else None
        member = document.member(node.name) if document is not None else None
        if member is not None and not member.leaving:
            if last:
                self.leaving = False
                return
            may_come = not taker.dead and taker.loop.has_unwritten
            self.world.after(LOOK_MS if may_come else ANSWER_MS, None, self._replace, node, taker, not may_come)
            return
        if voters is not None and voters.find(node.name) is not None:
            self.world.after(LOOK_MS, None, self._replace, node, taker, False)
            return
        self._begin("node removed", "{} is no voter any more, and goes", node.name)
        self.cluster.set_members([name for name in self.cluster.nodes if name != node.name])
        node.replace()
        self.world.after(self.world.jitter(500, 2000), None, self._add, node)

    def _add(self, node: SimNode) -> None:
        """Add an empty node as soon as the document has forgotten the old one, as whoever removes a node waits for."""
        document = self.cluster.store.document
        if document is not None and document.member(node.name) is not None:
            self.world.after(LOOK_MS, None, self._add, node)
            return
        self._begin("node added", "an empty {} is added", node.name)
        self.leaving = False
        self.cluster.set_members(list(self.cluster.nodes))
        node.boot()

    def promote_by_hand(self, node: SimNode | None = None) -> None:
        """Somebody calls pg_promote() on a standby. That costs a copy, as a wipe does: once, while nobody else lacks one.

        Whoever follows the node goes along, to a timeline that nobody claimed, and his copy is lost with it: PostgreSQL does
        that before anybody can look. A safe set is left over, as otherwise nothing but an operator helps.
        """
        node = node or self._node()
        if self.lost_copies or not self._all_count() or not self._can_spare(node):
            return
        life = node.pg.life
        if life is not None and life.ready and not life.frozen and life.role is Role.STANDBY:
            self.lost_copies += 1
            self._begin("promote_by_hand", "somebody promotes {} by hand", node.name)
            node.pg.promote(0)

    def _can_spare(self, node: SimNode) -> bool:
        """Return whether a safe set is left of those who neither are *node* nor follow it."""
        document = self.cluster.store.document
        if document is None or document.voters is None:
            return False
        followings = {other: self.cluster.nodes[other].state.following for other in self._others(node.name)}
        left = [other for other, one in followings.items() if one is None or one.upstream.name != node.name]
        return len(left) >= document.voters.safe_set_size

    def strange_hand(self, node: SimNode | None = None) -> None:
        """Somebody empties the writer's list of synchronous standbys with ALTER SYSTEM."""
        writer = node or self.cluster.writer()
        pg = writer.pg if writer is not None else None
        if writer is None or pg is None or pg.life is None or pg.life.frozen or not pg.conf_names or not writer.noded:
            return
        if pg.life.role is not Role.PRIMARY:
            return
        self._begin("strange_hand", "somebody empties the list of {}", writer.name)
        pg.configure(pg.conf_upstream, "")
        pg.conf_by_hand = self.cluster.broken is not Switch.STRANGE_HANDS  # what is not mended is not excused
        pg.reload()

    def _standby_to_spare(self, leader: Process | None) -> SimNode | None:
        """Return a standby that the quorum does without, as the API asks before it takes such an order."""
        writer = self.cluster.writer()
        if leader is None or leader.document is None or leader.document.writer is None or writer is None:
            return None
        node = self.cluster.nodes[self.rng.choice(self._others(writer.name))]
        view = leader.look()
        seen, situation = view.node(node.name), survey(view)
        if seen is None or seen.observation is None or situation is None or not quorum_does_without(situation, seen):
            return None
        return node

    def _edit_for(self, kind: str, text: str, change: Edit) -> None:
        """Have the document changed, and changed back after a while by whoever leads then."""
        leader = self._leader()
        if leader is None or leader.document is None or leader.document.writer is None:
            return
        self._begin(kind, text)
        leader.edit(lambda old: change(old, True), text)
        self._for(self._span(), lambda: self._change_back(change, text))

    def _change_back(self, change: Edit, text: str) -> None:
        """Until it is seen to have worked, for the edit dies with the process that took it."""
        leader, document = self._leader(), self.cluster.store.document
        settled = leader is not None and not leader.loop.has_unwritten
        if settled and document is not None and change(document, False) == document:
            return
        if settled and leader is not None:
            leader.edit(lambda old: change(old, False), f"no longer: {text}")
        self.world.after(LOOK_MS, None, self._change_back, change, text)

    def restored(self, document: Topology) -> None:
        """A node that is kept down by an order of that time is wanted again, and so are failovers."""
        if document.paused:
            self._change_back(_paused, "failovers are paused")
        for member in document.members:
            if member.stopped:
                self._change_back(lambda old, on, name=member.name: _marked(old, name, stopped=on), f"{member.name} is stopped")


def _paused(document: Topology, on: bool) -> Topology:
    return msgspec.structs.replace(document, paused=on)


def _marked(document: Topology, name: str, **marks: bool) -> Topology:
    members = tuple(msgspec.structs.replace(member, **marks) if member.name == name else member for member in document.members)
    return msgspec.structs.replace(document, members=members)
