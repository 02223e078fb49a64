"""The events, each played by all drivers at once on one cluster: one failover shows what every driver makes of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import psycopg

from testkit.cluster import Cluster
from testkit.injuries import Part, kill
from tests.compat.events.player import Player, Step

BUSY_DEADLINE_S = 60.0

SETUP = """
drop table if exists quick, slow;
create table quick (n int);
create table slow (n int);
create or replace function sleep_at_commit() returns trigger language plpgsql as 'begin perform pg_sleep(60); return null; end';
create constraint trigger t after insert on slow deferrable initially deferred for each row execute function sleep_at_commit();
"""

Start = Callable[[str], list[Player]]
"""Starts all drivers that play an event."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event."""

    name: str
    about: str
    act: Callable[[Cluster, list[Player]], None]
    special: bool = False
    """Only some drivers can play it."""


def play(event: Event, cluster: Cluster, start: Start) -> dict[str, tuple[Step, ...]]:
    """Play *event* and return what each driver's application saw."""
    cluster.wait_healthy()
    with psycopg.connect(cluster.dsn("writer"), autocommit=True) as session:
        session.execute(SETUP)
    with ExitStack() as stack:
        players = start(event.name)
        for player in players:
            stack.callback(player.end)
        for player in players:
            player.wait("ready")
        event.act(cluster, players)
        for player in players:
            player.wait(None)
        return {player.driver: tuple(player.steps) for player in players}


def _fail_over(cluster: Cluster) -> None:
    writer = cluster.writer()
    epoch = cluster.status().epoch
    kill(cluster, Part.POSTGRES, writer)
    cluster.wait_for_epoch_after(epoch)


def _kill_then_go(cluster: Cluster, players: list[Player]) -> None:
    _fail_over(cluster)
    _go(players)


def _kill_while_busy(cluster: Cluster, players: list[Player]) -> None:
    """Kill when the server sleeps for each of the players."""
    with psycopg.connect(cluster.dsn(cluster.writer().name), autocommit=True) as session:
        deadline = time.monotonic() + BUSY_DEADLINE_S
        while time.monotonic() < deadline:
            row = session.execute("select count(*) from pg_stat_activity where wait_event = 'PgSleep'").fetchone()
            if row is not None and row[0] >= len(players):
                break
            time.sleep(0.05)
    _fail_over(cluster)


def _switch_over_then_go(cluster: Cluster, players: list[Player]) -> None:
    cluster.ctl("switchover")
    _go(players)


def _switch_over_meanwhile(cluster: Cluster, players: list[Player]) -> None:
    """Go on in transactions while a switchover waits for their ends."""
    epoch = cluster.status().epoch
    cluster.ctl("switchover", "--no-wait", "--drain-timeout", "30")
    _go(players)
    for player in players:
        player.wait("committed")
    cluster.wait_for_epoch_after(epoch)
    _go(players)


def _no_writer(cluster: Cluster, players: list[Player]) -> None:
    """Let them log in while nobody may choose a writer."""
    writer = cluster.writer().name
    cluster.program("stop", "cluster_manager")
    cluster.stop_node(writer)
    _go(players)
    for player in players:
        player.process.wait(BUSY_DEADLINE_S)
    cluster.program("start", "cluster_manager")
    cluster.start_node(writer)


def _login_in_a_failover(cluster: Cluster, players: list[Player]) -> None:
    kill(cluster, Part.POSTGRES, cluster.writer())
    _go(players)


def _nothing(_cluster: Cluster, _players: Sequence[Player]) -> None:
    pass


def _go(players: list[Player]) -> None:
    for player in players:
        player.tell()


EVENTS = (
    Event("idle", "the writer is killed while the session is idle", _kill_then_go),
    Event("transaction", "the writer is killed while a transaction is open and nothing runs in it", _kill_then_go),
    Event("running", "the writer is killed while a statement runs inside a transaction", _kill_while_busy),
    Event("alone", "the writer is killed while a statement runs that commits by itself", _kill_while_busy),
    Event("commit", "the writer is killed while COMMIT is under way", _kill_while_busy),
    Event("switchover", "a planned switchover while the session is idle", _switch_over_then_go),
    Event("switchover in a transaction", "a planned switchover while a transaction is open", _switch_over_meanwhile),
    Event("login", "a new connection while the writer is dead and nobody chooses another", _no_writer),
    Event("login in a failover", "a new connection in the moment of a failover", _login_in_a_failover),
    Event("pipeline", "the writer is killed while a pipeline runs", _kill_while_busy, special=True),
    Event("executemany", "the writer is killed while executemany() runs", _kill_while_busy, special=True),
    Event(
        "two statements sent", "the writer is killed while a statement runs and another waits", _kill_while_busy, special=True
    ),
    Event("connect_timeout in a URI", "a URI of libpq with connect_timeout", _nothing, special=True),
)
