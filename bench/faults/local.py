"""The faults that need only the pids of a local cluster. Those of nodes stand here: killed, frozen, starved, flapping."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator

from bench.faults.fault import Arena, Expectation, Fault, Missed
from bench.faults.managers import PHASES, freeze_manager, kill_manager_at, no_manager
from bench.faults.sessions import archive_hangs, cancel_storm, long_query, promoted_by_hand
from testkit.clients.crew import Crew
from testkit.injuries import INJURIES, Part, inflict, pids_of
from testkit.ledger import Inserts
from testkit.processes import command, send_all, top_down

STALL_S = 4.0


@contextlib.contextmanager
def kill_postgres(arena: Arena) -> Iterator[None]:
    """SIGKILL to every process of the writer's PostgreSQL."""
    arena.strikes()
    arena.kill(Part.POSTGRES)
    yield


@contextlib.contextmanager
def kill_node(arena: Arena) -> Iterator[None]:
    """SIGKILL to the writer's noded and everything below it."""
    arena.strikes()
    arena.kill(Part.NODE)
    yield


@contextlib.contextmanager
def freeze_node(arena: Arena) -> Iterator[None]:
    """SIGSTOP to the whole writer's node under direct clients too; thawed when there is another writer."""
    direct = Inserts(arena.cluster.dsn(arena.writer.name), clients=1, table="strays")
    with Crew((direct,)) as strays:
        strays.wait_for_more(5, timeout_s=30.0)
        arena.strikes()
        with arena.frozen(Part.NODE):
            yield
        # What the old writer acknowledges from now on is a lost row.
        arena.cluster.wait_healthy(timeout_s=60.0)
    arena.checks += strays.check_all(arena.cluster.dsn("writer"))


@contextlib.contextmanager
def freeze_postgres(arena: Arena) -> Iterator[None]:
    """SIGSTOP to every process of the writer's PostgreSQL: its noded lives and says so."""
    arena.strikes()
    with arena.frozen(Part.POSTGRES):
        yield


@contextlib.contextmanager
def kill_writer_and_voter(arena: Arena) -> Iterator[None]:
    """SIGKILL to the writer's and one replica's node, and nobody starts them again for a while."""
    with arena.frozen(Part.SUPERVISOR):
        arena.strikes()
        arena.kill(Part.NODE)
        arena.kill(Part.NODE, arena.replicas[0])
        arena.stays_stuck(STALL_S)
        status = arena.cluster.status()
        if status.state != "stuck" and status.at_risk is None:
            raise Missed(f"status says {status.state} ({status.diagnosis}) and no risk")
        arena.notes.append(f"status: {status.diagnosis}")
    yield


@contextlib.contextmanager
def kill_backend(arena: Arena) -> Iterator[None]:
    """SIGKILL to one session of the writer: PostgreSQL would restart in place and show commits nobody has."""
    arena.strikes()
    arena.kill(Part.SESSION)
    yield


@contextlib.contextmanager
def freeze_startup(arena: Arena) -> Iterator[None]:
    """One replica's startup process is frozen, so that its receiver cannot be told to stop; then the writer dies."""
    with arena.frozen(Part.STARTUP, arena.replicas[0]):
        arena.strikes()
        arena.kill(Part.POSTGRES)
        yield


@contextlib.contextmanager
def flap(arena: Arena) -> Iterator[None]:
    """Whoever is the writer is killed as soon as it is one, five times."""
    arena.strikes()
    epoch = arena.before.epoch - 1
    for _ in range(5):
        status = arena.cluster.wait_for_epoch_after(epoch, timeout_s=90.0)
        epoch = status.epoch
        arena.crew.wait_for_more(20, timeout_s=60.0)
        assert status.writer is not None
        node = arena.cluster.node(status.writer, status)
        arena.kill(Part.POSTGRES, node)
    arena.cluster.wait_for_epoch_after(epoch, timeout_s=90.0)
    yield


@contextlib.contextmanager
def voter_returns(arena: Arena) -> Iterator[None]:
    """A voter goes and comes back while writes run, and the writer dies in that moment."""
    with arena.frozen(Part.NODE, arena.replicas[0]):
        arena.strikes()
        arena.goes_on(2.5)
    arena.kill(Part.POSTGRES)
    yield


@contextlib.contextmanager
def switchover(arena: Arena) -> Iterator[None]:
    """The planned handover, under load."""
    arena.strikes()
    arena.cluster.ctl("switchover")
    yield


@contextlib.contextmanager
def unreplicated_wal(arena: Arena) -> Iterator[None]:
    """The writer dies with WAL that nobody else has, and the first pg_rewind of its data is killed half-way."""
    # Its walsenders are stopped for good: what is committed from now on waits, and stays on this node alone.
    inflict(INJURIES["freeze-walsenders"], arena.cluster, arena.writer)
    arena.strikes()
    time.sleep(0.3)
    arena.kill(Part.POSTGRES)
    killed = threading.Event()
    watcher = threading.Thread(target=_kill_first_rewind, args=(arena, killed), daemon=True)
    watcher.start()
    yield
    arena.cluster.wait_healthy(timeout_s=90.0)
    watcher.join(1.0)
    arena.notes.append("pg_rewind killed" if killed.is_set() else "no pg_rewind was seen")


def _kill_first_rewind(arena: Arena, killed: threading.Event) -> None:
    noded = arena.cluster.pid_of(arena.writer.name)
    deadline = time.monotonic() + 30.0
    while time.monotonic() < deadline:
        for pid in top_down(noded):
            if "pg_rewind" in command(pid):
                send_all(list(top_down(pid)), signal.SIGKILL)
                killed.set()
                return
        time.sleep(0.005)


@contextlib.contextmanager
def starve(arena: Arena) -> Iterator[None]:
    """The manager and the writer's whole node get 10 ms of every 100 ms for a while, as under a strict CPU quota."""
    stop = threading.Event()
    pids = [*pids_of(arena.cluster, Part.MANAGER), *pids_of(arena.cluster, Part.NODE, arena.writer)]
    thread = threading.Thread(target=_duty_cycle, args=(pids, stop), daemon=True)
    arena.strikes()
    thread.start()
    try:
        time.sleep(10.0)
    finally:
        stop.set()
        thread.join(5.0)
        send_all(pids, signal.SIGCONT)
    yield


def _duty_cycle(pids: list[int], stop: threading.Event) -> None:
    while not stop.is_set():
        send_all(pids, signal.SIGSTOP)
        time.sleep(0.09)
        send_all(pids, signal.SIGCONT)
        time.sleep(0.01)


@contextlib.contextmanager
def kill_proxy(arena: Arena) -> Iterator[None]:
    """SIGKILL to the only proxy; its clients reconnect when it is back."""
    arena.strikes()
    arena.kill(Part.PROXY)
    yield


FAULTS = (
    Fault(
        name="kill-postgres",
        scenario=1,
        does="kill -9 of all of the writer's PostgreSQL",
        strike=kill_postgres,
        expect=Expectation(outage_s=2.0),
    ),
    Fault(
        name="kill-node",
        scenario=1,
        does="kill -9 of the writer's noded and PostgreSQL",
        strike=kill_node,
        expect=Expectation(),
    ),
    Fault(
        name="freeze-node",
        scenario=2,
        does="freeze the writer's node, thaw it after the promotion",
        strike=freeze_node,
        expect=Expectation(),
    ),
    Fault(
        name="freeze-postgres",
        scenario=2,
        does="freeze the writer's PostgreSQL, its noded lives",
        strike=freeze_postgres,
        expect=Expectation(outage_s=4.0),
    ),
    Fault(
        name="no-manager",
        scenario=6,
        does="no manager for 60 s, a replica restarts meanwhile",
        strike=no_manager,
        expect=Expectation(moves=False, epochs=(0, 0), outage_s=2.0),
    ),
    Fault(
        name="kill-two",
        scenario=7,
        does="kill -9 of the writer and a voter, nobody restarts them",
        strike=kill_writer_and_voter,
        expect=Expectation(moves=None, epochs=(0, 1), outage_s=None, recovered_s=20.0),
    ),
    Fault(
        name="cancel-storm",
        scenario=8,
        does="cancel commits that wait for a frozen quorum",
        strike=cancel_storm,
        expect=Expectation(moves=None, epochs=(0, 1), outage_s=None, recovered_s=15.0),
    ),
    Fault(
        name="kill-backend", scenario=9, does="kill -9 of one session of the writer", strike=kill_backend, expect=Expectation()
    ),
    Fault(
        name="frozen-startup",
        scenario=12,
        does="a replica's startup process frozen, then the writer dies",
        strike=freeze_startup,
        expect=Expectation(outage_s=5.0),
    ),
    Fault(
        name="archive-hangs",
        scenario=13,
        does="archive_command hangs, then the writer dies",
        strike=archive_hangs,
        expect=Expectation(),
    ),
    Fault(
        name="long-query",
        scenario=14,
        does="reports and a conflicting vacuum on the replicas, then the writer dies",
        strike=long_query,
        expect=Expectation(),
    ),
    *(
        Fault(
            name=f"manager-dies-{phase}",
            scenario=15,
            does=f"the manager is killed when it has written {phase}",
            strike=kill_manager_at(phase),
            expect=Expectation(epochs=(1, 2), outage_s=8.0),
        )
        for phase in PHASES
    ),
    Fault(
        name="manager-frozen",
        scenario=16,
        does="the manager is frozen for 2 s in the middle of a failover",
        strike=freeze_manager,
        expect=Expectation(epochs=(1, 2), outage_s=8.0),
    ),
    Fault(
        name="flapping",
        scenario=17,
        does="five writers killed one after the other",
        strike=flap,
        expect=Expectation(moves=True, epochs=(5, 10), outage_s=30.0),
    ),
    Fault(
        name="voter-returns",
        scenario=19,
        does="a voter lost and regained, then the writer dies at once",
        strike=voter_returns,
        expect=Expectation(),
    ),
    Fault(
        name="switchover",
        scenario=20,
        does="planned handover",
        strike=switchover,
        expect=Expectation(),
    ),
    Fault(
        name="unreplicated-wal",
        scenario=21,
        does="the writer dies with WAL of its own; pg_rewind is killed",
        strike=unreplicated_wal,
        expect=Expectation(outage_s=4.0, healthy_s=90.0),
    ),
    Fault(
        name="promoted-by-hand",
        scenario=22,
        does="pg_promote() on a replica by hand",
        strike=promoted_by_hand,
        expect=Expectation(moves=False, epochs=(0, 0), outage_s=2.0),
    ),
    Fault(
        name="kill-proxy",
        scenario=23,
        does="kill -9 of the only proxy",
        strike=kill_proxy,
        expect=Expectation(moves=False, epochs=(0, 0), outage_s=15.0),
    ),
    Fault(
        name="starved",
        scenario=24,
        does="manager and writer get a tenth of their time for 10 s",
        strike=starve,
        expect=Expectation(moves=None, epochs=(0, 3), outage_s=15.0),
    ),
)
