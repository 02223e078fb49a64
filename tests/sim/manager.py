"""A simulated manager: the real `decide` on views built as the real observer, executor and reconciler build them.

Its memory dies with it.  It acts while it believes to hold the lease; paused at any point it goes on later with what it knew,
so that two can believe to lead.  Every write is checked by the real `may_follow` first.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable

import msgspec

from cluster_manager.decision.actions import NodeAction, WriteDocument
from cluster_manager.decision.flapping import AntiFlap
from cluster_manager.decision.nodeview import NodeSpec
from cluster_manager.decision.plan import Plan, decide
from cluster_manager.decision.refusal import refusal
from cluster_manager.decision.request import Request, RequestKind
from cluster_manager.decision.timings import Timings
from cluster_manager.decision.view import Failure, SettingsSent, View
from cluster_manager.settings import FAILOVERS_REMEMBERED
from cluster_manager.watched import Watched
from pgtopology.document import Durability, Endpoints, Topology
from pgtopology.epoch import NO_EPOCH, NO_REVISION, Revision
from pgtopology.node import NodeName
from pgtopology.observation import Observation, Port
from pgtopology.orders import Order
from pgtopology.report import ProxyReport
from pgtopology.succession import may_follow
from pgtopology.timing import FRAME_LEASE_MS
from tests.sim.breaks import break_plan, break_view
from tests.sim.executor import Executor
from tests.sim.network import Network, Stream
from tests.sim.node import CLUSTER, SimNode
from tests.sim.store import LEASE_MS, SimStore
from tests.sim.switches import Switch
from tests.sim.world import World

KEEP_MS = 300.0
STORE_RETRY_MS = 200.0
PROBE_MS = 100.0
RESTART_MS = 300.0
SILENCE_MS = 2000.0
"""A proxy that was not heard for so long is not connected."""
PROBE_AFTER_MS = 250.0


class SimManager:
    """A host that runs a manager, again and again."""

    def __init__(
        self,
        world: World,
        net: Network,
        store: SimStore,
        name: str,
        nodes: dict[str, SimNode],
        specs: tuple[NodeSpec, ...],
        endpoints: Endpoints,
        broken: Switch | None,
    ) -> None:
        self.world, self.net, self.store, self.name = world, net, store, name
        self.nodes, self.specs, self.endpoints, self.broken = nodes, specs, endpoints, broken
        self.publish: Callable[[SimManager, Topology], None] = _nobody
        self.process: Process | None = None
        self.fellows: list[SimManager] = [self]
        self.anti_flap = AntiFlap(interval_ms=0, hold_after=0)
        self.sent: deque[Order] = deque(maxlen=40)
        self.actions = 0
        self.kinds: set[str] = set()
        """Which kinds of action were about to be taken so far."""
        self.crash_at: tuple[int, bool] | None = None
        """At which action, counted from 1, this manager dies, and whether just after it."""

    def start(self) -> None:
        """Run one process."""
        if self.process is None:
            self.process = Process(self)

    def set_specs(self, specs: tuple[NodeSpec, ...]) -> None:
        """Go on with these nodes, as after a reload of the settings."""
        self.specs = specs
        process = self.process
        if process is None:
            return
        for spec in specs:
            if spec.name not in process.watched:
                process.watched[spec.name] = Watched(spec)
                process.subscribe(spec.name)
        process.watched = {spec.name: process.watched[spec.name] for spec in specs}

    def crash(self) -> None:
        """Kill it."""
        if self.process is not None:
            self.process.dead = True
            self.process = None
            for node in self.nodes.values():
                node.subscribers.pop(self.name, None)

    def dies(self, *, after: bool, kind: str = "write") -> bool:
        """Return whether the manager dies here, before or after an action; it is started again soon."""
        if not after:
            self.actions += 1
            self.kinds.add(kind)
        if self.crash_at != (self.actions, after):
            return False
        self.crash_at = None
        self.world.say("{}: dies {} its action {}", self.name, "after" if after else "before", self.actions)
        self.crash()
        self.world.after(RESTART_MS, None, self.start)
        return True

    def pause(self) -> None:
        """SIGSTOP."""
        if self.process is not None and not self.process.frozen:
            self.world.freeze(self.process)
            self.process.paused_at_ms = self.world.now

    def resume(self) -> None:
        """SIGCONT: the loop notices how late it is and discounts what it missed."""
        process = self.process
        if process is not None and process.frozen:
            lag_ms = self.world.now - process.paused_at_ms
            for watched in process.watched.values():
                watched.discount(lag_ms, self.world.now)
            self.world.thaw(process)


class Process(Executor):
    """One manager process."""

    def __init__(self, host: SimManager) -> None:
        super().__init__(host)
        self.started_ms = self.world.now
        self.paused_at_ms = 0.0
        self.lease_until_ms = 0.0
        self.leads = False
        self.reading = False
        self.writing = False
        self.document: Topology | None = None
        self.epoch_is_ours = False
        self.epoch_began_ms = self.claimed_ms = self.transition_began_ms = self.world.now
        self.reports: dict[str, ProxyReport] = {}
        self.heard_ms: dict[str, float] = defaultdict(lambda: -SILENCE_MS)
        self.lent_ms: dict[str, float] = defaultdict(lambda: -SILENCE_MS)
        self.request: Request | None = None
        self.soft_failovers_ms: deque[float] = deque(maxlen=FAILOVERS_REMEMBERED)
        self.edits: deque[tuple[Callable[[Topology], Topology], str]] = deque()
        self.plan: Plan | None = None
        timings = Timings(reader_lease_ms=0) if host.broken is Switch.OPEN_AT_ONCE else Timings()
        self.timings = timings
        self._woken = False
        self._alarm = 0
        for name in self.watched:
            self.subscribe(name)
        self._keep()
        self.world.after(self.world.jitter(0, PROBE_MS), self, self._probe)

    def subscribe(self, name: NodeName) -> None:
        """Be told what *name* observes from now on."""
        self.host.nodes[name].subscribers[self.host.name] = self._subscriber(name, Stream(name, self.host.name))

    def _subscriber(self, name: NodeName, stream: Stream) -> Callable[[Observation], None]:
        watched = self.watched[name]

        def arrive(observation: Observation) -> None:
            if self.watched.get(name) is not watched:
                return
            if watched.take(observation, self.world.now) or self.plan is None or not self.plan.is_restful:
                self._wake()

        def tell(observation: Observation) -> None:
            self.host.net.stream(stream, self, arrive, observation)

        return tell

    def _keep(self) -> None:
        asked_at = self.world.now
        host = self.host

        def answered(held: object) -> None:
            if held is True:
                self.lease_until_ms = asked_at + LEASE_MS
                if not self.leads:
                    self.leads = True
                    if any(m.process is not None and m.process.leads for m in host.fellows if m is not host):
                        self.world.counts["two managers lead"] += 1
                    self.world.say("{}: leads", host.name)
                    self._read()
            elif held is False and host.broken is not Switch.BLIND_WRITES:
                self.lease_until_ms = 0.0
                if self.leads:
                    self._end()

        renewed = self.leads
        host.store.ask(host.name, self, lambda: host.store.acquire(host.name, renewed=renewed), answered)
        self.world.after(KEEP_MS, self, self._keep)

    def _end(self) -> None:
        """The lease is lost, which ends the program; it is started again."""
        self.world.say("{}: leads no longer, and ends", self.host.name)
        self.host.crash()
        self.world.after(RESTART_MS, None, self.host.start)

    @property
    def lease_ms(self) -> float:
        """For how long this process knows that nobody else leads."""
        if self.host.broken in (Switch.LEASE_IGNORED, Switch.BLIND_WRITES) and self.leads:
            return FRAME_LEASE_MS
        return max(0.0, self.lease_until_ms - self.world.now) if self.leads else 0.0

    def _wake(self) -> None:
        if not self._woken and self.leads and not self.reading and not self.writing:
            self._woken = True
            self.world.after(0.5, self, self._step)

    def _alarmed(self, alarm: int) -> None:
        if alarm == self._alarm:
            self._wake()

    def _read(self) -> None:
        host = self.host
        self.reading = True

        def answered(document: Topology | str | None) -> None:
            if isinstance(document, str):
                self.world.after(STORE_RETRY_MS, self, self._read)
                return
            self.reading = self.writing = False
            self.document = document
            self.epoch_is_ours = False
            self.epoch_began_ms = self.claimed_ms = self.transition_began_ms = self.world.now
            if document is not None:
                host.publish(host, document)
                self._enter_epoch(document.epoch)
                self.settings_sent = SettingsSent(None, document.revision)
            self._wake()

        host.store.ask(host.name, self, lambda: host.store.document, answered)

    def look(self) -> View:
        """Return the view of this moment."""
        now, host = self.world.now, self.host
        view = View(
            now_ms=now,
            started_at_ms=self.started_ms,
            cluster=CLUSTER,
            specs=host.specs,
            endpoints=host.endpoints,
            wanted_durability=Durability.QUORUM,
            bootstrap_ordered=True,
            document=self.document,
            epoch_is_ours=self.epoch_is_ours,
            epoch_began_at_ms=self.epoch_began_ms,
            transition_began_at_ms=self.transition_began_ms,
            claimed_at_ms=self.claimed_ms,
            proxies_seen=max(
                ((r.epoch, r.revision) for name, r in self.reports.items() if now - self.heard_ms[name] < SILENCE_MS),
                default=(NO_EPOCH, NO_REVISION),
            ),
            proxies_settled=self._proxies_settled(now),
            nodes=tuple(watched.view(now) for watched in self.watched.values()),
            promises=dict(self.promises),
            request=self.request,
            soft_failovers_at_ms=tuple(self.soft_failovers_ms),
            anti_flap=self.host.anti_flap,
            checkpointed_at_ms=self.checkpointed_ms,
            being_remade=self._being_remade(now),
            in_flight=frozenset(self.in_flight),
            failures={
                key: Failure(count=end.failures, age_ms=now - end.at_ms, code=end.code, message="")
                for key, end in self.ended.items()
                if end.failures
            },
            in_force=self.in_force,
            slots_in_force=self.slots_in_force,
            settings_sent=self.settings_sent,
            timings=self.timings,
        )
        return view if host.broken is None else break_view(view, host.broken)

    def _proxies_settled(self, now: float) -> bool:
        """Every connected proxy has reported this epoch, and what the last frame lent to those that left has run out."""
        epoch = self.document.epoch if self.document is not None else NO_EPOCH
        return all(
            report.epoch >= epoch
            for name, report in self.reports.items()
            if now - self.heard_ms[name] < SILENCE_MS or now - self.lent_ms[name] < FRAME_LEASE_MS
        )

    def lose_report(self, proxy: str) -> None:
        """The proxy's connection was reset."""
        self.heard_ms[proxy] = -SILENCE_MS

    def take_report(self, report: ProxyReport) -> None:
        """A proxy says how things stand there."""
        before = self.reports.get(report.name)
        self.reports[report.name] = report
        self.heard_ms[report.name] = self.world.now
        if before is None or before.epoch != report.epoch:
            self._wake()

    def _step(self) -> None:
        self._woken = False
        if not self.leads or self.reading or self.writing or self.lease_ms <= 0:
            return
        self._enter_epoch(self.document.epoch if self.document is not None else NO_EPOCH)
        view = self.look()
        plan = decide(view)
        if self.host.broken is not None:
            plan = break_plan(view, plan, self.host.broken)
        before, self.plan = self.plan, plan
        if before is None or before.diagnosis is not plan.diagnosis:
            self.world.counts[f"diagnosis {plan.diagnosis}"] += 1
        if before is None or before.diagnosis != plan.diagnosis:
            self.world.say("{}: {} {}", self.host.name, plan.diagnosis.value, plan.reason)
        write = next((action for action in plan.actions if isinstance(action, WriteDocument)), None)
        if write is not None:
            self.writing = True
            self._write(view, write)
            return
        if self.edits and self.document is not None and not plan.is_unsure:
            change, because = self.edits.popleft()
            changed = change(self.document)
            if changed != self.document:
                self.writing = True
                revision = Revision(self.document.revision + 1)
                self._write(view, WriteDocument(msgspec.structs.replace(changed, revision=revision), because))
                return
        if self.document is not None:
            for action in plan.actions:
                if not isinstance(action, WriteDocument) and not self.dead:
                    self._start(action, self.document)
        self._alarm += 1
        self.world.after(max(1.0, plan.wake_at_ms - self.world.now), self, self._alarmed, self._alarm)

    def _write(self, view: View, write: WriteDocument) -> None:
        host, old, new = self.host, self.document, write.document
        if host.broken is None and old is not None:
            why_not = may_follow(old, new)
            assert why_not is None, f"the plan breaks the rules of succession: {why_not}"
        expected = old.revision if old is not None else None
        host.store.checks.decided(view, old, new)

        def answered(written: bool | str) -> None:
            if written is not True:
                self.world.say("{}: revision {} was not written: {}", host.name, new.revision, written)
                self.world.after(STORE_RETRY_MS if written == "unavailable" else 0.0, self, self._read)
                return
            self.writing = False
            self.document = new
            if new.transition is not None and (old is None or old.transition is None):
                self.transition_began_ms = self.world.now
            if old is None or new.epoch > old.epoch:
                self.epoch_is_ours = True
                self.epoch_began_ms = self.world.now
                self.request = None
                if self.plan is not None and self.plan.finding.failed and self.plan.finding.is_soft:
                    self.soft_failovers_ms.append(self.world.now)
            if new.candidate is not None and (old is None or new.candidate != old.candidate):
                self.claimed_ms = self.world.now
            if host.broken is Switch.SECOND_CANDIDATE and old is not None and old.candidate and not new.candidate:
                self.promises.clear()
            host.publish(host, new)
            self.world.say(
                "{}: epoch {} revision {} writer {} candidate {}: {}",
                host.name, new.epoch, new.revision, new.writer, new.candidate, write.because,
            )  # fmt: skip
            self._wake()

        if host.dies(after=False):
            return
        host.store.ask(host.name, self, lambda: host.store.write(new, expected), answered)
        host.dies(after=True)

    def ask(self, request: Request) -> bool:
        """Take an operator's order, if it can be carried out now."""
        if not self.leads or self.reading or self.writing or self.document is None:
            return False
        needless = self.host.broken is Switch.NEEDLESS_LOSS and request.kind is RequestKind.DATA_LOSS
        if not needless and refusal(self.look(), request) is not None:
            return False
        self.request = request
        self._wake()
        return True

    def edit(self, change: Callable[[Topology], Topology], because: str) -> None:
        """Have *change* applied to the document between two decisions, unless the document may be an old copy."""
        if self.plan is not None and self.plan.is_unsure:
            return
        self.edits.append((change, because))
        self._wake()

    def order(self, action: NodeAction) -> None:
        """Give a node an order that an operator asked for."""
        if self.document is not None:
            self._start(action, self.document)

    def _probe(self) -> None:
        self.world.after(PROBE_MS, self, self._probe)
        writer = self.document.writer if self.document is not None else None
        if writer is None or writer not in self.watched or self.world.now - self.watched[writer].arrived_ms < PROBE_AFTER_MS:
            return
        node, net, name = self.host.nodes[writer], self.host.net, self.host.name
        if not node.is_up or net.is_cut(name, writer) or net.is_cut(writer, name):
            met, delay_ms = Port.SILENT, 250.0
        elif node.pg.life is None:
            met, delay_ms = Port.REFUSED, 1.0
        else:
            met, delay_ms = (Port.SILENT, 250.0) if node.pg.life.frozen else (Port.ANSWERS, 1.0)
        self.world.after(delay_ms, self, self._knocked, writer, met)

    def _knocked(self, writer: NodeName, met: Port) -> None:
        watched = self.watched[writer]
        if self.world.now - watched.arrived_ms >= PROBE_AFTER_MS:
            watched.port = met
            self._wake()


def _nobody(_: SimManager, __: Topology) -> None:
    pass
