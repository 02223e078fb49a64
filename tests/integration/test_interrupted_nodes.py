"""Orders that a node comes or goes are finished by whoever manages next, whenever the manager was killed.

The manager asks its supervisor through a socket of the test's own, which can keep an order or its answer to itself: so the
manager is killed between two steps and not somewhere near them.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path

import msgspec
import pytest

from deployment.local.layout import Layout
from deployment.local.postmaster import postmaster_of
from pgtopology.status import NodeChangeStatus, Status
from pgtopology.supervision import Order
from testkit.cluster import ROOT, Cluster

MakeCluster = Callable[..., Cluster]
HELD_S = 30.0


class Moment(StrEnum):
    """When an order is interrupted."""

    BEFORE = "it has not reached the supervisor"
    AFTER = "the supervisor has answered, and the manager does not know"


class Line:
    """Between the manager and the supervisor: passes everything on, but for what is to be held."""

    def __init__(self, layout: Layout) -> None:
        self.path = layout.control_socket.with_name("line")
        self._supervisor = layout.control_socket
        self._hold: tuple[str, Moment] | None = None
        self._released = threading.Event()
        self.held = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def hold(self, do: str, moment: Moment) -> None:
        """Let the next order of this kind come no further than *moment*."""
        self.held.clear()
        self._released.clear()
        self._hold = do, moment

    def release(self) -> None:
        """Pass on again whatever comes; what was held is lost."""
        self._hold = None
        self._released.set()

    def close(self) -> None:
        """Accept no more."""
        self.release()
        self._listener.close()
        self.path.unlink()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self._listener.accept()[0],), daemon=True).start()

    def _serve(self, manager: socket.socket) -> None:
        with manager, manager.makefile("rwb") as asked:
            line = asked.readline()
            order, hold = msgspec.json.decode(line, type=Order), self._hold
            is_held = hold is not None and order.do == hold[0] and not order.rehearse
            if not is_held or hold == (order.do, Moment.AFTER):
                with socket.socket(socket.AF_UNIX) as supervisor:
                    supervisor.connect(str(self._supervisor))
                    supervisor.sendall(line)
                    answer = supervisor.makefile("rb").readline()
                if not is_held:
                    with contextlib.suppress(OSError):
                        asked.write(answer)
                        asked.flush()
                    return
            self.held.set()
            self._released.wait()


@pytest.fixture
def stand(make_cluster: MakeCluster) -> Iterator[tuple[Cluster, Line]]:
    """A cluster of one node, whose manager asks the supervisor through a `Line`."""
    cluster = make_cluster(nodes=1)
    cluster.up()
    layout = Layout(cluster.data_dir)
    line = Line(layout)
    try:
        yield cluster, line
    finally:
        line.close()


@pytest.mark.timeout(400)
def test_a_manager_that_was_killed_between_two_steps_finishes_what_was_ordered(stand: tuple[Cluster, Line]) -> None:
    cluster, line = stand
    for moment in Moment:
        _interrupt(cluster, line, "add", moment, "node", "add", "n2", "--zone", "cellar")
        added = cluster.wait(
            lambda status: _is_in(status, "n2") and not status.node_changes, f"n2 added: {moment}", timeout_s=90
        )
        assert cluster.node("n2", added).zone == "cellar"

        _interrupt(cluster, line, "remove", moment, "node", "remove", "n2", "--purge", "--yes")
        cluster.wait(lambda status: not status.node_changes and len(status.nodes) == 1, f"n2 removed: {moment}", timeout_s=90)
        layout = Layout(cluster.data_dir)
        cluster.until(lambda layout=layout: '"n2"' not in layout.plan.read_text(), f"n2 forgotten: {moment}")
        assert postmaster_of(layout.pgdata("n2")) is None
        assert not list(layout.nodes.glob("n2*")), "its data was to go"

    def told(kind: str) -> int:
        return sum(event.get("node") == "n2" and event["kind"] == kind for event in cluster.events())

    # What the supervisor has done the manager tells a moment later, and once more if it was killed before it knew that it had.
    cluster.until(lambda: min(told("node.made"), told("node.gone")) >= 2, "both are told")
    assert told("node.change_resumed") >= 3  # a node that was named in the settings meanwhile is simply there


@pytest.mark.timeout(300)
def test_what_cannot_be_made_is_told_and_can_be_taken_back(stand: tuple[Cluster, Line]) -> None:
    cluster, line = stand
    port = cluster.port(11)
    _put_between(cluster, line)
    line.hold("add", Moment.BEFORE)
    ordered = _begin(cluster, "node", "add", "n2")
    assert line.held.wait(HELD_S)
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", port))
        holder.listen()
        _kill_manager(cluster)
        line.release()
        assert ordered.wait(HELD_S) == 1

        def is_told(status: Status) -> bool:
            change = _change(status, "n2")
            return change is not None and change.failures >= 2

        change = _change(cluster.wait(is_told, "two failures", timeout_s=90), "n2")
        assert change is not None
        assert (change.wish, change.step) == ("wanted", "provision")
        assert f"port {port} for PostgreSQL of n2 is held" in str(change.waits_for)
        assert change.next_try is not None
        assert json.loads(cluster.ctl("status", "--json", check=False).stdout)["node_changes"][0]["next_try"]

        def is_shown(_status: Status) -> bool:
            """While it is tried once more there is nothing that it waits for."""
            shown = " ".join(cluster.ctl("status", check=False).stdout.split())
            return "n2 is being added: provision, TCP port" in shown and "`endpointctl node remove n2` takes it back" in shown

        cluster.wait(is_shown, "the reason in words", timeout_s=60)

        elsewhere = cluster.ctl("node", "add", "n2", "--zone", "elsewhere", check=False)
        assert (elsewhere.returncode, "is being added already, in zone" in elsewhere.stderr) == (1, True), elsewhere.stderr
        cluster.ctl("node", "remove", "n2", "--wait")
        assert not cluster.status().node_changes
    assert '"n2"' not in Layout(cluster.data_dir).plan.read_text()
    assert {"node.change_failed", "node.gone"} <= {str(event["kind"]) for event in cluster.events()}
    # One that is on its way is taken back, whether it is made already or not.
    _put_between(cluster, line)
    line.hold("add", Moment.AFTER)
    ordered = _begin(cluster, "node", "add", "n2")
    assert line.held.wait(HELD_S)
    taken_back = _begin(cluster, "node", "remove", "n2", "--wait")
    line.release()
    assert ordered.wait(HELD_S) in (0, 1)
    assert taken_back.wait(120) == 0
    cluster.wait(lambda status: not status.node_changes and len(status.nodes) == 1, "n2 taken back", timeout_s=90)
    assert '"n2"' not in Layout(cluster.data_dir).plan.read_text()

    # Nothing of it stands in the way of the next order, and one that is given twice is one.
    first, second = (_begin(cluster, "node", "add", "n2", "--wait") for _ in range(2))
    assert (first.wait(120), second.wait(120)) == (0, 0)
    assert not cluster.wait(lambda status: _is_in(status, "n2"), "n2 added", timeout_s=90).node_changes


def _interrupt(cluster: Cluster, line: Line, do: str, moment: Moment, *command: str) -> None:
    """Give an order, and kill the manager when it is at *moment*."""
    _put_between(cluster, line)
    line.hold(do, moment)
    ordered = _begin(cluster, *command)
    assert line.held.wait(HELD_S), f"{do} was not ordered: {moment}"
    _kill_manager(cluster)
    line.release()
    assert ordered.wait(HELD_S) == 1, "the manager that was asked is dead"


def _put_between(cluster: Cluster, line: Line) -> None:
    """Have the manager ask through the line; each change of the nodes writes its settings anew."""
    layout = Layout(cluster.data_dir)
    settings = layout.settings_file("cluster_manager")
    settings.write_text(settings.read_text().replace(str(layout.control_socket), str(line.path)))
    _kill_manager(cluster)


def _begin(cluster: Cluster, *arguments: str) -> subprocess.Popen[bytes]:
    log = Path(f"{cluster.data_dir}-commands.log").open("ab")  # noqa: SIM115 - the command's, which outlives this
    return subprocess.Popen(
        [sys.executable, "-m", "endpointctl", *arguments], cwd=ROOT, env=cluster.environment(), stdout=log, stderr=log
    )


def _kill_manager(cluster: Cluster) -> None:
    cluster.wait_gone(cluster.kill("cluster_manager", signal.SIGKILL))
    cluster.wait(lambda status: status.writer is not None, "a manager", timeout_s=90)


def _change(status: Status, name: str) -> NodeChangeStatus | None:
    return next((change for change in status.node_changes if change.name == name), None)


def _is_added(status: Status) -> bool:
    return _is_in(status, "n2") and not status.node_changes


def _is_in(status: Status, name: str) -> bool:
    return any(node.name == name and node.state == "streaming" for node in status.nodes)
