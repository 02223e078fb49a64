"""Carries out acts on this machine: every effect on the real PostgreSQL, files, clock and log.

Knows how, and nothing of what for: what is done when is in `noded.acts`.  An effect that takes no time is done at once, without
a turn of the loop; whatever the world does to one is raised where the act waits for it, and a cancelled act ends there.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, cast

from daemonkit.logs import get_logger
from noded.acts import effects as do
from noded.acts.effects import Act, Effect, Failed, Known, Late, Present, Steps, T
from noded.data.copies import Copies, draw_incarnation
from noded.data.leftovers import end_tools, sweep_up
from noded.files import history, segments
from noded.hands import promotion, synchronous
from noded.hands.conflicts import end_blockers
from noded.hands.receivers import receiver_is_gone
from noded.housekeeping.housekeeping import Housekeeping
from noded.position import asking, at_shutdown
from noded.position.by_files import read_wal_end
from noded.postgres.instance import Instance
from noded.postgres.postmaster import FAST_STOP_S, PostmasterError
from noded.postgres.sessions import SessionError
from noded.postgres.slots import ensure_slots
from noded.postgres.tools import ToolError
from noded.report.gatherer import Gatherer
from noded.report.heartbeat import Heartbeat
from pgtopology.node import Position

SLOTS_TIMEOUT_S = 1.0
ASK_TIMEOUT_S = 0.5


class Hands:
    """Carries out the acts of one node."""

    def __init__(
        self,
        *,
        instance: Instance,
        heartbeat: Heartbeat,
        gatherer: Gatherer,
        copies: Copies,
        housekeeping: Housekeeping,
        turn: asyncio.Lock,
        poke: Callable[[], None],
    ) -> None:
        self.instance = instance
        self.heartbeat = heartbeat
        self.gatherer = gatherer
        self.copies = copies
        self.housekeeping = housekeeping
        self.turn = turn
        self.poke = poke
        self._log = get_logger(node=instance.state.value.node)
        self.tasks: asyncio.TaskGroup | None = None
        """Where what is begun lives, while the node does."""
        self.promotion: asyncio.Task[None] | None = None
        """The newest promotion, finished or not."""
        self.work: asyncio.Task[None] | None = None
        """The newest long work, finished or not."""

    async def carry_out(self, act: Act[T]) -> T:
        """Do *act* to its end and return what it ends with; raise what it raises."""
        steps: Steps[T] = iter(act)
        try:
            effect = next(steps)
            while True:
                try:
                    result = HOW[type(effect)](self, effect)
                    if inspect.isawaitable(result):
                        result = await result
                except (ToolError, PostmasterError, ValueError) as error:
                    effect = steps.throw(_failed(error))
                except BaseException as error:
                    effect = steps.throw(error)
                else:
                    effect = steps.send(result)
        except StopIteration as end:
            return cast("T", end.value)

    async def in_turn(self, effect: do.InTurn[Any]) -> object:
        async with self.turn:
            return await self.carry_out(effect.steps)

    def begin_promotion(self, effect: do.BeginPromotion) -> None:
        assert self.tasks is not None
        self.promotion = self.tasks.create_task(self.carry_out(effect.steps))

    async def await_promotion(self, effect: do.AwaitPromotion) -> bool:
        if self.promotion is None:
            return True
        await asyncio.wait([self.promotion], timeout=effect.timeout_s)
        return self.promotion.done()

    def begin_work(self, effect: do.BeginWork) -> None:
        assert self.tasks is not None
        self.work = self.tasks.create_task(self.carry_out(effect.steps))

    def note(self, effect: do.Note) -> None:
        {"info": self._log.info, "warning": self._log.warning, "error": self._log.error}[effect.level](
            effect.event, **effect.fields
        )

    def look(self) -> Present:
        instance, layout = self.instance, self.instance.layout
        return Present(
            directory=str(layout.pgdata),
            state_file=str(layout.state),
            running=instance.running,
            ready=instance.note_readiness(),
            has_directory=layout.pgdata.exists(),
            has_data=instance.has_data(),
            standby_signal=layout.standby_signal.exists(),
            why_not_yet=instance.why_not_yet(),
        )

    def recall(self) -> Known:
        facts = self.gatherer.facts
        return Known(
            running=self.instance.running,
            role=facts.role,
            timeline=facts.timeline,
            wal_end=facts.wal_end,
            streaming=facts.receiver_streaming,
            mute_ms=self.gatherer.mute_ms(),
            turn_is_taken=self.turn.locked(),
        )

    async def start(self, effect: do.Start) -> Position | None:
        control = await self.instance.start(effect.configuration)
        return at_shutdown.position_of(self.instance.layout.wal, control) if control is not None else None

    async def stop(self, effect: do.Stop) -> None:
        await self.instance.stop(effect.mode, fast_s=effect.fast_s if effect.fast_s is not None else FAST_STOP_S)

    def reconfigure(self, effect: do.Reconfigure) -> None:
        if effect.promoted:
            self.instance.standby_slots = None
        self.instance.configure(effect.configuration)
        self.instance.postmaster.reload()

    def reload_settings(self, _: do.ReloadSettings) -> None:
        self.instance.write_settings()
        self.instance.postmaster.reload()

    async def rewrite_settings(self, _: do.RewriteSettings) -> None:
        await self.instance.learn_demands()
        self.instance.write_settings()

    async def read_identifier(self, _: do.ReadIdentifier) -> str:
        return (await self.instance.control_data()).system_identifier

    async def ensure_slots(self, _: do.EnsureSlots) -> None:
        with contextlib.suppress(SessionError, ValueError, TimeoutError):
            async with asyncio.timeout(SLOTS_TIMEOUT_S):
                await ensure_slots(self.instance.sessions.control, self.housekeeping.slots.members or ())

    async def in_proof(self, effect: do.InProof[Any]) -> object:
        session = self.instance.sessions.fresh("endpointd settings")
        try:
            async with asyncio.timeout(effect.timeout_s):
                return await self.carry_out(effect.proof(session))
        except TimeoutError as error:
            raise Late("it took too long") from error
        finally:
            session.drop()


def _failed(error: Exception) -> Failed:
    failed = Failed(str(error))
    failed.__cause__ = error
    return failed


async def _asked(asking: Awaitable[T]) -> T:
    try:
        return await asking
    except SessionError as error:
        raise _failed(error) from error


async def _tried(doing: Any) -> None:
    with contextlib.suppress(SessionError):
        await doing


HOW: dict[type[Effect[Any]], Callable[[Hands, Any], Any]] = {
    do.Now: lambda hands, _: asyncio.get_running_loop().time(),
    do.Pause: lambda hands, effect: asyncio.sleep(effect.seconds),
    do.InTurn: Hands.in_turn,
    do.BeginPromotion: Hands.begin_promotion,
    do.AwaitPromotion: Hands.await_promotion,
    do.BeginWork: Hands.begin_work,
    do.Store: lambda hands, effect: hands.instance.state.store(effect.state),
    do.RenewState: lambda hands, _: hands.instance.state.renew(),
    do.Poke: lambda hands, _: hands.poke(),
    do.Note: Hands.note,
    do.LearnSlots: lambda hands, effect: hands.housekeeping.learn_slots(effect.names),
    do.Recall: lambda hands, _: hands.recall(),
    do.Look: lambda hands, _: hands.look(),
    do.AskRole: lambda hands, effect: hands.instance.role(by_files=effect.by_files),
    do.ReadTimeline: lambda hands, _: segments.newest_timeline(hands.instance.layout.wal),
    do.Start: Hands.start,
    do.Stop: Hands.stop,
    do.Reconfigure: Hands.reconfigure,
    do.ReloadSettings: Hands.reload_settings,
    do.ForgetPassword: lambda hands, _: hands.instance.forget_password(),
    do.EndReceiver: lambda hands, _: receiver_is_gone(hands.instance),
    do.RemovePlaceholders: lambda hands, _: history.remove_placeholders(hands.instance.layout.wal),
    do.ForgetCrashes: lambda hands, _: hands.instance.crashes.forget(),
    do.Checkpoint: lambda hands, effect: _asked(
        hands.instance.sessions.checkpoint.rows("CHECKPOINT", timeout_s=effect.timeout_s)
    ),
    do.AskEnd: lambda hands, _: asking.ask_end(hands.instance, timeout_s=ASK_TIMEOUT_S),
    do.EndBlockers: lambda hands, _: _tried(end_blockers(hands.instance.sessions.control, timeout_s=ASK_TIMEOUT_S)),
    do.ResumeReplay: lambda hands, _: _tried(asking.resume_replay(hands.instance, timeout_s=ASK_TIMEOUT_S)),
    do.WalkWal: lambda hands, _: read_wal_end(hands.instance.layout.pgdata, hands.instance.binaries),
    do.AskWriter: lambda hands, effect: asking.ask_writer(hands.instance, effect.upstream),
    do.EnsureSlots: Hands.ensure_slots,
    do.PlantPlaceholders: lambda hands, effect: history.plant_placeholders(hands.instance.layout.wal, effect.timeline),
    do.TriggerPromotion: lambda hands, _: promotion.trigger(hands.instance),
    do.AwaitPrimary: lambda hands, effect: promotion.await_primary(hands.instance, effect.still_wanted),
    do.BeginHeartbeat: lambda hands, effect: hands.heartbeat.begin(effect.epoch),
    do.EndHeartbeat: lambda hands, _: hands.heartbeat.end(),
    do.InProof: Hands.in_proof,
    do.AwaitShown: lambda hands, effect: _asked(synchronous.await_shown(hands.instance, effect.names)),
    do.AwaitRead: lambda hands, effect: _asked(synchronous.await_read(effect.prover)),
    do.EndWalsenders: lambda hands, effect: _asked(synchronous.end_walsenders(effect.prover)),
    do.AwaitAgreement: lambda hands, effect: _asked(synchronous.await_agreement(effect.prover, effect.listed)),
    do.CommitBarrier: lambda hands, effect: _asked(synchronous.commit_barrier(effect.prover)),
    do.DrawIncarnation: lambda hands, _: draw_incarnation(),
    do.MakeData: lambda hands, _: hands.copies.make(),
    do.CopyData: lambda hands, effect: hands.copies.copy(effect.source, effect.incarnation),
    do.MakeRoom: lambda hands, effect: hands.copies.make_room(effect.source),
    do.PutInPlace: lambda hands, _: hands.copies.put_in_place(),
    do.RemoveReplaced: lambda hands, _: hands.copies.remove_replaced(),
    do.RewindData: lambda hands, effect: hands.copies.rewind(effect.source),
    do.RemoveData: lambda hands, _: hands.copies.remove_data(),
    do.MakePlace: lambda hands, _: hands.instance.layout.make(),
    do.EndTools: lambda hands, _: end_tools(hands.instance),
    do.SweepUp: lambda hands, _: sweep_up(hands.instance.layout),
    do.ReadIdentifier: Hands.read_identifier,
    do.Adopt: lambda hands, _: hands.instance.postmaster.adopt(),
    do.RewriteSettings: Hands.rewrite_settings,
    do.AwaitReady: lambda hands, effect: hands.instance.wait_ready(effect.timeout_s),
}
"""How each effect is done: what it returns is what comes of it, or has to be waited for."""
