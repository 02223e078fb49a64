"""A simulated manager: the real loop (`cluster_manager.loop`), on a simulated network, clock and store.

What is here is what a machine and its network do: orders and answers travel and may be lost, the store may be out of reach, the
process dies with all it knows, or stands still and goes on later, so that two can believe to lead.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any

from cluster_manager.decision.actions import NodeAction
from cluster_manager.decision.diagnose import Diagnosis
from cluster_manager.decision.flapping import AntiFlap
from cluster_manager.decision.nodeview import NodeSpec
from cluster_manager.decision.plan import Plan
from cluster_manager.decision.request import Request
from cluster_manager.decision.timings import Timings
from cluster_manager.decision.view import View
from cluster_manager.loop import effects, events
from cluster_manager.loop.core import Loop
from cluster_manager.loop.effects import Effects, Read, ReadDesired, Send, Write, WriteDesired
from cluster_manager.loop.events import Event, Outside
from cluster_manager.loop.orders import Failed
from cluster_manager.loop.settings import LoopSettings
from cluster_manager.provision.provisioner import ByOthers
from pgtopology.document import Durability, Endpoints, Topology
from pgtopology.epoch import NO_EPOCH, NO_REVISION
from pgtopology.node import NodeName
from pgtopology.observation import Observation, Port
from pgtopology.orders import Order
from pgtopology.report import ProxyReport
from pgtopology.timing import FRAME_LEASE_MS
from tests.sim.breaks import broken_rules
from tests.sim.network import Network, Stream
from tests.sim.node import CLUSTER, SimNode
from tests.sim.store import LEASE_MS, SimStore
from tests.sim.switches import Switch
from tests.sim.world import Owner, World

CLOCK_MS = 1_700_000_000_000
CLOCKS_APART_MS = 100
"""By so much the clocks of two managers differ."""
KEEP_MS = 300.0
PROBE_MS = 100.0
RESTART_MS = 300.0
SILENCE_MS = 2000.0
"""A proxy that was not heard for so long is not connected."""
THINKS_MS = 0.5
"""What a turn takes, from what it is about to what it says."""


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
        self.clock_ms = CLOCK_MS - CLOCKS_APART_MS * (int(name[1:]) - 1) if store.checks.has_clocks else 0
        """What this host's clock said when the world began."""
        self.crash_at: tuple[int, bool] | None = None
        """At which action, counted from 1, this manager dies, and whether just after it."""

    def settings(self) -> LoopSettings:
        """What its settings file says."""
        return LoopSettings(
            cluster=CLUSTER,
            specs=self.specs,
            endpoints=self.endpoints,
            durability=Durability.QUORUM,
            bootstrap_ordered=True,
            anti_flap=self.anti_flap,
            timings=Timings(reader_lease_ms=0) if self.broken is Switch.OPEN_AT_ONCE else Timings(),
        )

    def start(self) -> None:
        """Run one process."""
        if self.process is None:
            self.process = Process(self)

    def set_specs(self, specs: tuple[NodeSpec, ...]) -> None:
        """Go on with these nodes, as after a reload of the settings."""
        self.specs = specs
        if self.process is not None:
            self.process.listen()
            self.process.tell(events.Configured(self.settings()))

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
        self.end()
        return True

    def end(self) -> None:
        """Have the process end, and another one begin soon."""
        self.crash()
        self.world.after(RESTART_MS, None, self.start)

    def pause(self) -> None:
        """SIGSTOP."""
        if self.process is not None and not self.process.frozen:
            self.world.freeze(self.process)
            self.process.paused_at_ms = self.world.now

    def resume(self) -> None:
        """SIGCONT: the loop notices how late it is and discounts what it missed."""
        process = self.process
        if process is not None and process.frozen:
            process.tell(events.Late(self.world.now - process.paused_at_ms))
            self.world.thaw(process)


class Process(Owner):
    """One manager process."""

    def __init__(self, host: SimManager) -> None:
        super().__init__()
        self.host, self.world = host, host.world
        self.loop = Loop(host.settings(), self.world.now, broken_rules(host.broken))
        self.published: Topology | None = None
        self.paused_at_ms = 0.0
        self.lease_until_ms = 0.0
        self.leads = False
        self.reports: dict[str, ProxyReport] = {}
        self.heard_ms: dict[str, float] = defaultdict(lambda: -SILENCE_MS)
        self.lent_ms: dict[str, float] = defaultdict(lambda: -SILENCE_MS)
        self._streams: dict[NodeName, Stream] = {}
        self._wake_at_ms = math.inf
        self._diagnosis: Diagnosis | None = None
        self.listen()
        self._keep_lease()
        self.world.after(self.world.jitter(0, PROBE_MS), self, self._try_port)

    @property
    def document(self) -> Topology | None:
        """The document as this process last read or wrote it."""
        return self.loop.document

    @property
    def plan(self) -> Plan | None:
        """Its newest plan."""
        return self.loop.plan

    def look(self) -> View:
        """Return the view of this moment."""
        return self.loop.look(self.world.now)

    # Operators

    def ask(self, request: Request) -> bool:
        """Take an operator's order, if it can be carried out now."""
        return self.tell(events.Asked(request)).refused is None

    def edit(self, change: Callable[[Topology], Topology], because: str) -> None:
        """Have the document changed, unless it may be an old copy."""
        self.tell(events.Edited(change, because))

    def order(self, action: NodeAction) -> None:
        """Give a node an order that an operator asked for."""
        self.tell(events.Ordered(action))

    # The loop

    def _tell(self, event: Event) -> None:
        self.tell(event)

    def tell(self, event: Event) -> Effects:
        """Give the loop an event now, and carry out what it asks for; an action may be the last that the process takes."""
        host = self.host
        todo = self.loop.handle(event, self.world.now)
        if todo.publish is not None:
            self.published = todo.publish
            host.publish(host, todo.publish)
        for note in todo.notes:
            self._note(note)
        for send in todo.orders:
            if not self.dead and not host.dies(after=False, kind=send.action.kind):
                self._send(send)
                host.dies(after=True)
        if todo.store is not None and not self.dead:
            self._ask_store(todo.store)
        if todo.desired is not None and not self.dead:
            self._ask_desired(todo.desired)
        for order in todo.provision:
            self.tell(events.Provisioned(order.number, ByOthers("the faults make nodes here")))
        if todo.wake_at_ms != self._wake_at_ms:
            self._wake_at_ms = todo.wake_at_ms
            if self._wake_at_ms < math.inf:
                delay_ms = max(0.0, self._wake_at_ms - self.world.now) + THINKS_MS
                self.world.after(delay_ms, self, self._turn, self._wake_at_ms)
        return todo

    def _turn(self, wake_at_ms: float) -> None:
        if wake_at_ms != self._wake_at_ms:
            return
        now = self.world.now
        heard = {name: report for name, report in self.reports.items() if now - self.heard_ms[name] < SILENCE_MS}
        lent = {name: report for name, report in self.reports.items() if now - self.lent_ms[name] < FRAME_LEASE_MS}
        epoch = self.document.epoch if self.document is not None else NO_EPOCH
        self._wake_at_ms = math.inf
        outside = Outside(
            lease_until_ms=now + self.lease_ms,
            proxies_settled=all(report.epoch >= epoch for report in (heard | lent).values()),
            proxies_seen=max(((report.epoch, report.revision) for report in heard.values()), default=(NO_EPOCH, NO_REVISION)),
            wall_ms=self.host.clock_ms + int(now),
        )
        self.tell(events.Turn(outside))

    def _note(self, note: object) -> None:
        say, name = self.world.say, self.host.name
        match note:
            case effects.Decided(plan=plan):
                self._decided(plan)
            case effects.DocumentWritten(write=Write(document=new, because=because)):
                candidate = new.candidate.node if new.candidate is not None else None
                text = "{}: epoch {}, revision {} is written (writer {}, candidate {}): {}"
                say(text, name, new.epoch, new.revision, new.writer or "none", candidate or "none", because)
                if self.host.broken is Switch.SECOND_CANDIDATE and note.old and note.old.candidate and not new.candidate:
                    self.loop.orders.promises.clear()
            case effects.WriteFailed(write=write, why=why):
                say("{}: revision {} was not written: {}", name, write.document.revision, why)
            case effects.RequestGivenUp(because=because):
                self.world.counts["request given up"] += 1
                say("{}: an operator's order is given up: {}", name, because)
            case _:
                pass

    def _decided(self, plan: Plan) -> None:
        before, self._diagnosis = self._diagnosis, plan.diagnosis
        if before is not plan.diagnosis:
            self.world.counts[f"diagnosis {plan.diagnosis}"] += 1
            self.world.say("{}: {} {}", self.host.name, plan.diagnosis.value, plan.reason)

    # The store

    def _ask_store(self, wanted: Read | Write) -> None:
        host, loop = self.host, self.loop

        def read() -> None:
            host.store.ask(host.name, self, lambda: host.store.document, loaded)

        def loaded(answer: Topology | str | None) -> None:
            self.tell(events.StoreFailed(answer) if isinstance(answer, str) else events.Loaded(answer))

        def written(answer: bool | str) -> None:
            outcome = events.Written() if answer else events.Overtaken()
            self.tell(events.StoreFailed(answer) if isinstance(answer, str) else outcome)

        if isinstance(wanted, Read):
            self.world.after(max(0.0, wanted.not_before_ms - self.world.now), self, read)
            return
        assert loop.view is not None
        host.store.checks.decided(loop.view, loop.document, wanted.document)
        if not host.dies(after=False):
            host.store.ask(host.name, self, lambda: host.store.write(wanted.document, wanted.expected), written)
            host.dies(after=True)

    def _ask_desired(self, wanted: ReadDesired | WriteDesired) -> None:
        """Ask for the record of desired nodes, whose way to the store is neither slow nor cut."""
        store = self.host.store
        match wanted:
            case ReadDesired():
                self.tell(events.DesiredLoaded(store.desired))
            case WriteDesired():
                self.tell(events.DesiredWritten() if store.write_desired(wanted) else events.DesiredOvertaken())

    def _keep_lease(self) -> None:
        asked_at, host, renewed = self.world.now, self.host, self.leads

        def answered(held: object) -> None:
            if held is True:
                self.lease_until_ms = asked_at + LEASE_MS
                if not self.leads:
                    self.leads = True
                    if any(m.process is not None and m.process.leads for m in host.fellows if m is not host):
                        self.world.counts["two managers lead"] += 1
                    self.world.say("{}: leads", host.name)
                    self.tell(events.Woken())
            elif held is False and host.broken is not Switch.BLIND_WRITES:
                self.lease_until_ms = 0.0
                if self.leads:
                    self.world.say("{}: leads no longer, and ends", host.name)
                    host.end()

        host.store.ask(host.name, self, lambda: host.store.acquire(host.name, renewed=renewed), answered)
        self.world.after(KEEP_MS, self, self._keep_lease)

    @property
    def lease_ms(self) -> float:
        """For how long this process knows that nobody else leads."""
        if self.host.broken in (Switch.LEASE_IGNORED, Switch.BLIND_WRITES) and self.leads:
            return FRAME_LEASE_MS
        return max(0.0, self.lease_until_ms - self.world.now) if self.leads else 0.0

    # Nodes and proxies

    def listen(self) -> None:
        """Follow what the nodes of the settings observe, and no others."""
        known = self._streams
        self._streams = {spec.name: known.get(spec.name) or Stream(spec.name, self.host.name) for spec in self.host.specs}
        for name, stream in self._streams.items():
            if name not in known:
                self.host.nodes[name].subscribers[self.host.name] = self._subscriber(name, stream)

    def _subscriber(self, name: NodeName, stream: Stream) -> Callable[[Observation], None]:
        def arrive(observation: Observation) -> None:
            if self._streams.get(name) is stream:
                self.tell(events.Observed(observation))

        return lambda observation: self.host.net.stream(stream, self, arrive, observation)

    def _send(self, send: Send) -> None:
        node, net, name = self.host.nodes[send.action.node], self.host.net, self.host.name
        self.world.counts[f"action {send.action.kind}"] += 1
        self.host.sent.append(send.order)
        self.world.say("{}: orders {} to {} (epoch {})", name, send.action.kind, node.name, send.order.epoch)

        def arrive() -> None:
            if not node.is_up:
                return
            if node.noded is None:
                back(("unavailable", "refused"))
            elif node.noded.frozen:
                node.noded.parked.append((node.noded.receive, (send.order, back)))
            else:
                node.noded.receive(send.order, back)

        def back(outcome: Any) -> None:
            net.send(node.name, name, self, answered, outcome)

        def answered(outcome: Any) -> None:
            self.tell(events.Answered(send.number, Failed(*outcome) if isinstance(outcome, tuple) else outcome))

        net.send(name, node.name, None, arrive)
        self.world.after(send.deadline_s * 1000, self, answered, ("unavailable", "timeout"))

    def _try_port(self) -> None:
        self.world.after(PROBE_MS, self, self._try_port)
        writer = self.loop.silent_writer(self.world.now)
        if writer is None:
            return
        node, net, name = self.host.nodes[writer], self.host.net, self.host.name
        if not node.is_up or net.is_cut(name, writer) or net.is_cut(writer, name):
            met, delay_ms = Port.SILENT, 250.0
        elif node.pg.life is None:
            met, delay_ms = Port.REFUSED, 1.0
        else:
            met, delay_ms = (Port.SILENT, 250.0) if node.pg.life.frozen else (Port.ANSWERS, 1.0)
        self.world.after(delay_ms, self, self._tell, events.PortTried(writer, met))

    def lose_report(self, proxy: str) -> None:
        """The proxy's connection was reset."""
        self.heard_ms[proxy] = -SILENCE_MS

    def take_report(self, report: ProxyReport) -> None:
        """A proxy says how things stand there."""
        before = self.reports.get(report.name)
        self.reports[report.name] = report
        self.heard_ms[report.name] = self.world.now
        if before is None or before.epoch != report.epoch:
            self.tell(events.Woken())


def _nobody(_: SimManager, __: Topology) -> None:
    pass
