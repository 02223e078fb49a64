"""Makes observations of everything known and hands them to listeners.

Whoever changes something calls `poke`, and the news goes out at once with the last facts gathered; then a round of
gathering begins, whose result goes out as well.  A listener that is slow misses observations, never the newest one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable

from msgspec.structs import replace

from noded.acts.memory import Memory
from noded.law.durable_state import DurableState
from noded.postgres.disk_space import disk_of
from noded.postgres.instance import Instance
from noded.report.attention import Attention
from noded.report.findings import NO_FINDINGS, Findings
from noded.report.gatherer import Gatherer, Slots
from noded.report.heartbeat import Heartbeat
from noded.report.last_commit import left_age_ms
from noded.report.ports import Deafness, UpstreamPort
from noded.report.replay_lag import ReplayLag
from noded.report.sync_trial import SyncTrial
from pgtopology.epoch import NO_EPOCH
from pgtopology.node import Role
from pgtopology.observation import Observation, Postmaster, PostmasterState, Receiver, Walsender
from pgtopology.timing import REPORT_EVERY_MS

ROUND_S = REPORT_EVERY_MS / 1000
STARTING_ROUND_S = 0.02
"""While PostgreSQL is starting, and nothing but its pid file is read."""
SOONEST_S = 0.01
"""Between two rounds, however often somebody pokes."""
TARDY_S = 0.02
"""A round that takes longer is not waited for: what is known is told without it."""


class Reporter:
    """The observations of one node."""

    def __init__(self, instance: Instance, heartbeat: Heartbeat, memory: Memory, attention: Attention) -> None:
        self._instance = instance
        self._heartbeat = heartbeat
        self._memory = memory
        self._state: DurableState = instance.state
        self._sequence = 0
        self._poked = asyncio.Event()
        self._news = asyncio.Event()
        self.gatherer = Gatherer(instance, attention)
        self.deafness = Deafness(instance.doorway, attention, lambda: instance.postmaster.ready_seen)
        self.sync_trial = SyncTrial(instance, self.gatherer, heartbeat, attention)
        self.upstream_port = UpstreamPort(instance, self.gatherer)
        self.replay_lag = ReplayLag(instance.sessions.observer, lambda: self.gatherer.facts)
        self.findings: Callable[[], Findings] = lambda: NO_FINDINGS
        """Gives what housekeeping has found out."""
        self.late_ms: Callable[[], int] = int
        """Gives how long the loop stood still."""
        self.latest = self.compose()

    @property
    def slots(self) -> Slots | None:
        """All replication slots of this server, as they were counted last."""
        return self.gatherer.facts.slots

    def poke(self) -> None:
        """Something has changed: tell it now, and look again."""
        if not self._instance.running:
            self.gatherer.forget()
        self._publish()
        self._poked.set()

    async def run(self) -> None:
        """Gather and publish for ever."""
        loop = asyncio.get_running_loop()
        while True:
            begun = loop.time()
            self._poked.clear()
            await self._round()
            self._publish()
            starting = self._instance.postmaster.state is PostmasterState.STARTING
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(begun + (STARTING_ROUND_S if starting else ROUND_S)):
                    await self._poked.wait()
            await asyncio.sleep(max(0.0, begun + SOONEST_S - loop.time()))

    async def _round(self) -> None:
        """Gather, and publish also while a PostgreSQL that hangs keeps the round waiting: ages grow, and noded is alive."""
        async with asyncio.TaskGroup() as tasks:
            gathering = tasks.create_task(self.gatherer.gather())
            patience_s = TARDY_S
            while not (await asyncio.wait((gathering,), timeout=patience_s))[0]:
                self._publish()
                patience_s = ROUND_S

    async def observations(self) -> AsyncIterator[Observation]:
        """Yield the present observation, and each new one that the caller is quick enough for."""
        told = self.compose()
        while True:
            yield told
            while self.latest.sequence <= told.sequence:
                await self._news.wait()
            told = self.latest

    def _with_unflushed(self, sender: Walsender, asked_at: float) -> Walsender:
        """Return *sender* with the lag that our own heartbeats prove, if that is more: PostgreSQL's waits for an answer."""
        unflushed_s = self._heartbeat.unflushed_s(sender.flush_lsn, asked_at)
        if unflushed_s is None:
            return sender
        return replace(sender, flush_lag_ms=max(sender.flush_lag_ms or 0.0, round(unflushed_s * 1000, 3)))

    def _publish(self) -> None:
        self.latest = self.compose()
        news, self._news = self._news, asyncio.Event()
        news.set()

    def compose(self) -> Observation:
        """Return what is known at this moment."""
        now = asyncio.get_running_loop().time()
        self._sequence += 1
        instance, state, facts, memory = self._instance, self._state.value, self.gatherer.facts, self._memory
        found = self.findings()
        postmaster = instance.postmaster
        running = postmaster.state in (PostmasterState.RUNNING, PostmasterState.STARTING)
        standby = running and facts.role is not Role.PRIMARY
        return Observation(
            node=state.node,
            noded_pid=os.getpid(),
            sequence=self._sequence,
            system_identifier=state.system_identifier,
            incarnation=state.incarnation,
            whole=state.whole,
            foreign=state.foreign,
            promised=state.promised,
            seen=state.seen,
            left_age_ms=left_age_ms(state) if facts.role is not Role.PRIMARY else None,
            promoted_epoch=state.promotion.epoch if state.promotion is not None else None,
            activity=memory.activity,
            progress_percent=memory.progress_percent if memory.work is not None else None,
            problem=memory.blocked or memory.problem or self.gatherer.complaint,
            quarantined=memory.blocked is not None,
            storage_problem=self._state.problem,
            crashes=instance.crashes.failures,
            refused_start=instance.refused_start,
            mute_ms=self.gatherer.mute_ms(),
            relaxations=found.relaxations,
            late_ms=self.late_ms(),
            outside=found.outside,
            repairs=found.repairs,
            login_problem=found.login_problem,
            login_spared=found.login_spared,
            locked_elsewhere=found.locked_elsewhere,
            role_notes=found.role_notes,
            postmaster=Postmaster(
                state=postmaster.state,
                pid=postmaster.pid,
                exit_status=postmaster.exit_status,
                unexpected_exit=postmaster.unexpected_exit,
                deaf_ms=self.deafness.milliseconds(),
            ),
            role=facts.role if running else Role.NONE,
            timeline=facts.timeline,
            wal_end=facts.wal_end,
            replayed_lsn=facts.replayed_lsn,
            replay_lag_ms=self.replay_lag.lag_ms if standby else None,
            upstream_silent_ms=self.replay_lag.silent_ms if standby else None,
            behind_bytes=self.replay_lag.behind_bytes if standby else None,
            receiver=Receiver(
                running=facts.receiver_running,
                streaming=facts.receiver_streaming,
                upstream=state.following.upstream.name if state.following is not None else None,
                upstream_epoch=state.following.epoch if state.following is not None else NO_EPOCH,
                upstream_port=self.upstream_port.met,
                written_lsn=facts.written_lsn,
            )
            if standby
            else None,
            heartbeat=self._heartbeat.report(now),
            walsenders=tuple(self._with_unflushed(sender, facts.asked_at) for sender in facts.walsenders),
            synchronous_standby_names=facts.synchronous_standby_names,
            connections=facts.connections,
            slots=facts.slots.count if facts.slots is not None else None,
            slots_kept=tuple(sorted(found.slots_kept)),
            slots_lacking=found.slots_lacking if running else (),
            user_slots=found.user_slots if running else (),
            horizon=found.horizon if running else None,
            disk=disk_of(instance),
            sync=self.sync_trial.report() if running else None,
            data_dir=str(instance.layout.pgdata),
            server_version=instance.binaries.version,
            pending_restart=bool(facts.restart_for),
            desired_version=state.desired.version,
            loaded_version=facts.loaded_version,
            restart_for=facts.restart_for,
        )
