"""Gathers the facts of an observation, and gives them to whoever listens.

Functions are asked, not the views made of them: those read pg_authid and pg_database, and whoever locks these would blind us.
One SQL statement per round, at least every 200 ms, on a standby one IDENTIFY_SYSTEM, and one look at the process table while
nothing is streamed; no process is started for it.  What is known without asking (the postmaster's end, a promise) goes out at
once, joined with the last facts gathered.  Slow listeners miss observations, never the newest one.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

import msgspec

from noded.postgres import processes
from noded.postgres.disk_space import lack_of_space
from noded.postgres.instance import Instance
from noded.postgres.sessions import ANOTHER_WAY, LACKS_RIGHTS, SessionError
from noded.postgres.walsender import WalsenderError
from noded.report.attention import Attention
from pgtopology.lsn import Lsn
from pgtopology.node import Role
from pgtopology.observation import Connections, SlotCount, Walsender
from pgtopology.timeline import Timeline

ASK_TIMEOUT_S = 1.0
RARELY = 25
"""Rounds between two looks at what costs more to ask: pending restarts and slots."""
NOW_AND_THEN = 5
"""The same of what grows with the number of clients."""

MEASURED_S = 2.0
"""How long a measured lag is told. PostgreSQL forgets it as soon as a standby has reported twice that it has everything, which
at rest happens each wal_receiver_status_interval (1 s here); the next heartbeat is measured again."""

SAMPLE = """
SELECT pg_is_in_recovery() AS standby,
       CASE WHEN pg_is_in_recovery() THEN NULL ELSE (pg_current_wal_flush_lsn() - '0/0')::int8 END AS flushed,
       CASE WHEN pg_is_in_recovery() THEN NULL
            ELSE ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int4 END AS timeline,
       CASE WHEN pg_is_in_recovery() THEN (pg_last_wal_replay_lsn() - '0/0')::int8 END AS replayed,
       current_setting('synchronous_standby_names') AS names,
       current_setting('endpointd.desired_version', true) AS loaded,
       CASE WHEN pg_is_in_recovery() THEN pg_get_wal_replay_pause_state() = 'paused' ELSE false END AS paused,
       EXISTS (SELECT FROM pg_stat_get_wal_receiver() WHERE status = 'streaming') AS streaming,
       (SELECT (written_lsn - '0/0')::int8 FROM pg_stat_get_wal_receiver() WHERE status = 'streaming') AS written,
       EXISTS (SELECT FROM pg_stat_get_activity(NULL) WHERE backend_type IS NULL) AS hidden,
       (SELECT json_agg(json_build_object(
                   'name', coalesce(a.application_name, ''), 'slot', s.slot_name,
                   'streaming', coalesce(r.state = 'streaming', false),
                   'flush_lsn', (r.flush_lsn - '0/0')::int8, 'replay_lsn', (r.replay_lsn - '0/0')::int8,
                   'flush_lag_ms', extract(epoch FROM r.flush_lag)::float8 * 1000,
                   'sync_priority', coalesce(r.sync_priority, 0)))
          FROM pg_stat_get_wal_senders() r JOIN pg_stat_get_activity(NULL) a ON a.pid = r.pid
          LEFT JOIN pg_get_replication_slots() s ON s.active_pid = r.pid
         WHERE a.application_name NOT LIKE 'endpointd %')::text AS walsenders
"""

STATEMENTS: list[tuple[str, tuple[object, ...]]] = [(SAMPLE, ())]
"""What the session that is asked runs once at its opening."""

_PENDING_RESTART = "SELECT array(SELECT name FROM pg_show_all_settings() WHERE pending_restart ORDER BY name) AS names"

_SLOTS = """
SELECT count(*) AS count,
       max(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END - restart_lsn)::int8
           AS retained,
       current_setting('max_replication_slots')::int4 AS most
  FROM pg_get_replication_slots()
"""

_CONNECTIONS = """
SELECT count(*) FILTER (WHERE backend_type = 'client backend') AS used,
       count(*) FILTER (WHERE wait_event = 'SyncRep') AS waiting,
       current_setting('max_connections')::int4 AS most
  FROM pg_stat_get_activity(NULL) WHERE backend_type IN ('client backend', 'walsender')
"""
"""A walsender that runs SQL may wait for the quorum like anybody; it takes no client's connection."""

_walsenders_decoder = msgspec.json.Decoder(tuple[Walsender, ...])


@dataclass(frozen=True, slots=True)
class Slots:
    """The replication slots of this server, whosever they are."""

    count: SlotCount
    retained_bytes: int | None
    """WAL that is kept for the one that is furthest behind; None if none keeps any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a round found out."""

    role: Role = Role.NONE
    timeline: Timeline | None = None
    wal_end: Lsn | None = None
    replayed_lsn: Lsn | None = None
    receiver_running: bool = False
    receiver_streaming: bool = False
    written_lsn: Lsn | None = None
    walsenders: tuple[Walsender, ...] = ()
    synchronous_standby_names: str | None = None
    restart_for: tuple[str, ...] = ()
    loaded_version: int | None = None
    replay_paused: bool = False
    slots: Slots | None = None
    asked_at: float = 0.0
    """When the round began, on the loop's clock."""
    connections: Connections | None = None


NOTHING = Facts()


class Gatherer:
    """Asks this node's PostgreSQL, round after round."""

    def __init__(self, instance: Instance, attention: Attention) -> None:
        self._instance = instance
        self._attention = attention
        self._rounds = 0
        self.facts = NOTHING
        self._mute_since: float | None = None
        self._refused = False
        self._complaint = ""
        self._round_over = asyncio.Event()
        self._flush_lags: dict[str, tuple[float, float]] = {}
        """Of each walsender the lag that was measured last, and when."""

    async def next_round(self) -> None:
        """Wait until a round begun or still to begin is over: whoever goes by the facts need look no oftener."""
        await self._round_over.wait()

    def mute_ms(self) -> int:
        """Return for how long a PostgreSQL that accepts connections has not answered one question yet, noded being awake.

        One that refuses our login answers; another copy of its data would refuse it as well.
        """
        if self._mute_since is None or self._refused:
            return 0
        return int((self._attention.now() - self._mute_since) * 1000)

    @property
    def complaint(self) -> str | None:
        """Why PostgreSQL has not answered one question since its start; None if it has."""
        return f"PostgreSQL answers nothing: {self._complaint}" if self._mute_since is not None else None

    def forget(self) -> None:
        """PostgreSQL is gone: nothing that was found out holds."""
        self.facts = NOTHING
        self._mute_since = None
        self._rounds = 0

    async def gather(self) -> None:
        """Do one round."""
        try:
            await self._gather()
        except OSError as error:
            # /proc cannot be read now: what was found out before stands, and is not made newer than it is.
            self._complaint = f"this machine does not let noded look: {error.strerror or error}"
        over, self._round_over = self._round_over, asyncio.Event()
        over.set()

    async def _gather(self) -> None:
        instance = self._instance
        pid = instance.postmaster.pid
        if pid is None:
            self.forget()
            return
        if not instance.note_readiness():
            # It may need to stream before it can answer anything.
            receivers = processes.receivers(pid)
            streaming = any(processes.is_streaming(receiver) for receiver in receivers)
            self.facts = replace(NOTHING, role=self.facts.role, receiver_running=bool(receivers), receiver_streaming=streaming)
            return
        try:
            facts = await self._ask(pid)
        except (SessionError, WalsenderError) as error:
            # The last facts stand; an old position is not a wrong one, and ages show in what depends on time.
            receivers = processes.receivers(pid)
            streaming = any(processes.is_streaming(receiver) for receiver in receivers)
            facts = replace(self.facts, receiver_running=bool(receivers), receiver_streaming=streaming)
            self._complaint = lack_of_space(instance) or str(error)
            self._refused = isinstance(error, SessionError) and error.sqlstate in ANOTHER_WAY
            if facts.role is Role.NONE and self._mute_since is None:
                self._mute_since = self._attention.now()
        else:
            self._mute_since = None
        if instance.postmaster.pid == pid:
            self.facts = facts

    async def _ask(self, postmaster: int) -> Facts:
        sessions, asked_at = self._instance.sessions, asyncio.get_running_loop().time()
        row = await sessions.observer.row(SAMPLE, timeout_s=ASK_TIMEOUT_S)
        if row["hidden"]:
            # Another way in may have what this one lacks.
            sessions.observer.drop()
            raise SessionError(LACKS_RIGHTS, lost=False)
        restart_for, slots = self.facts.restart_for, self.facts.slots
        loaded = int(row["loaded"]) if (row["loaded"] or "").isdecimal() else None
        due = self._rounds % RARELY == 0
        if due or loaded != self.facts.loaded_version:
            restart_for = tuple((await sessions.observer.row(_PENDING_RESTART, timeout_s=ASK_TIMEOUT_S))["names"])
        if due:
            kept = await sessions.observer.row(_SLOTS, timeout_s=ASK_TIMEOUT_S)
            slots = Slots(SlotCount(used=kept["count"], limit=kept["most"]), kept["retained"])
        connections = self.facts.connections
        if self._rounds % NOW_AND_THEN == 0:
            counted = await sessions.observer.row(_CONNECTIONS, timeout_s=ASK_TIMEOUT_S)
            connections = Connections(used=counted["used"], limit=counted["most"], waiting=counted["waiting"])
        self._rounds += 1
        facts = Facts(
            walsenders=self._measured(_decode_walsenders(row["walsenders"]), asked_at),
            synchronous_standby_names=row["names"],
            restart_for=restart_for,
            loaded_version=loaded,
            replay_paused=row["paused"],
            slots=slots,
            asked_at=asked_at,
            connections=connections,
        )
        if not row["standby"]:
            return replace(facts, role=Role.PRIMARY, timeline=Timeline(row["timeline"]), wal_end=Lsn(row["flushed"]))
        end = await sessions.walsender.identify(timeout_s=ASK_TIMEOUT_S)
        return replace(
            facts,
            role=Role.STANDBY,
            timeline=end.timeline,
            wal_end=end.lsn,
            replayed_lsn=Lsn(row["replayed"]) if row["replayed"] is not None else None,
            # The view hides a receiver that is still connecting (S2); one that streams need not be looked for.
            receiver_running=row["streaming"] or bool(processes.receivers(postmaster)),
            receiver_streaming=row["streaming"],
            written_lsn=Lsn(row["written"]) if row["written"] is not None else None,
        )

    def _measured(self, walsenders: tuple[Walsender, ...], now: float) -> tuple[Walsender, ...]:
        """Return *walsenders*, each with the lag that was measured last, if that is not long ago: NULL is no lag of 0."""
        known = self._flush_lags
        self._flush_lags = {
            one.name: (one.flush_lag_ms, now) if one.flush_lag_ms is not None else known[one.name]
            for one in walsenders
            if one.flush_lag_ms is not None or (one.name in known and now - known[one.name][1] < MEASURED_S)
        }
        return tuple(
            msgspec.structs.replace(one, flush_lag_ms=self._flush_lags[one.name][0]) if one.name in self._flush_lags else one
            for one in walsenders
        )


def _decode_walsenders(text: str | None) -> tuple[Walsender, ...]:
    try:
        return _walsenders_decoder.decode(text) if text else ()
    except msgspec.DecodeError as error:
        raise SessionError(f"PostgreSQL tells something else of its walsenders than expected: {error}", lost=False) from error
