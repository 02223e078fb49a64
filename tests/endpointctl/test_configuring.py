"""`config` and `restart` on the command line: arguments, what is shown, what is left to restart."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from daemonkit.exits import ExitCode
from deployment.local.layout import Layout
from endpointctl.configuring import view_lines
from endpointctl.main import main
from endpointctl.options import Target
from endpointctl.restarting import Begun, Left, Record, left, obstacle
from pgtopology.configuration import ConfigView, NodeConfig
from pgtopology.node import NodeName, NodeState
from pgtopology.status import NodeStatus
from tests.endpointctl.test_render import make_node, make_status


def node(name: str, *waiting: str, loaded: bool = True, version: int | None = 2) -> NodeConfig:
    return NodeConfig(name=NodeName(name), version=version, loaded=loaded, in_force=loaded and not waiting, restart_for=waiting)


def view(*nodes: NodeConfig, version: int = 2) -> ConfigView:
    return ConfigView(
        version=version,
        parameters={"work_mem": "7MB", "max_connections": "200"},
        hba=("host all x all md5",),
        relaxed_commits=False,
        nodes=nodes,
    )


def test_what_is_in_force_everywhere_is_shown_so() -> None:
    assert view_lines(view(node("n1"), node("n2"))) == [
        "settings of PostgreSQL, version 2",
        "parameter        wanted  in force",
        "max_connections  200     yes",
        "work_mem         7MB     yes",
        "pg_hba: host all x all md5",
        "relaxed commits: off",
    ]


def test_what_waits_for_a_restart_is_shown_with_the_nodes_and_the_way() -> None:
    lines = view_lines(view(node("n1", "max_connections", "shared_buffers"), node("n2", "max_connections")))
    assert "max_connections  200        after a restart of n1, n2" in lines
    assert "work_mem         7MB        yes" in lines
    assert "shared_buffers   (default)  after a restart of n1" in lines
    assert "endpointctl restart" in lines[-1]


def test_a_node_that_is_behind_is_named() -> None:
    lines = view_lines(view(node("n1"), node("n2", loaded=False, version=1), node("n3", loaded=False, version=None), version=0))
    assert "as the cluster was made" in lines[0]
    assert "work_mem         7MB     no" in lines
    assert lines[-2:] == ['"n2" has not read this version yet', '"n3" does not answer']


@pytest.mark.parametrize(
    "arguments",
    [
        ["config", "set"],
        ["config", "set", "work_mem"],
        ["config", "set", "=1"],
        ["config", "set", "a=1", "a=2"],
        ["config", "set", "--relaxed-commits", "perhaps"],
        ["config", "set", "--file", "x.toml", "a=1"],
        ["config", "set", "--file", "/nonexistent.toml"],
        ["config", "check"],
        ["config", "check", "/nonexistent.toml"],
        ["config", "check", "x.toml", "a=1"],
    ],
)
def test_wrong_usage_is_two_and_one_line(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENDPOINTD_DATA_DIR", str(tmp_path / "none"))
    assert main(arguments) == ExitCode.USAGE
    assert capsys.readouterr().err.count("\n") == 1


def server(name: str, pid: int | None, state: NodeState = NodeState.STREAMING, *, waits: bool = False) -> NodeStatus:
    return msgspec.structs.replace(make_node(name, state), pid=pid, pending_restart=waits, voter=True)


def test_all_that_run_as_they_did_when_it_began_are_left() -> None:
    status = make_status(server("n1", 11, NodeState.RUNNING), server("n2", 22), server("n3", 33), server("n4", None))
    assert left(status, Begun({"n1": 11, "n2": 20, "n3": 33})) == Left(("n3",), "n1")
    assert left(status, Begun({"n1": 10, "n2": 20, "n3": 30})) == Left((), None)


def test_only_those_that_wait_for_it_are_left() -> None:
    status = make_status(server("n1", 11, NodeState.RUNNING), server("n2", 22, waits=True), server("n3", 33))
    assert left(status, Begun(None)) == Left(("n2",), None)


def test_a_writer_with_nobody_to_hand_over_to_is_an_obstacle() -> None:
    two = make_status(server("n1", 11, NodeState.RUNNING), server("n2", 22), durability="async")
    why = obstacle(two, Left(("n2",), "n1"))
    assert why is not None
    assert "nobody to hand over to" in why
    assert obstacle(two, Left(("n2",), None)) is None


def test_a_missing_voter_is_an_obstacle_unless_nothing_is_to_be_done() -> None:
    status = make_status(server("n1", 11, NodeState.RUNNING), server("n2", 22), server("n3", None, NodeState.STOPPED))
    assert "n3" in str(obstacle(status, Left(("n2",), "n1")))
    assert obstacle(status, Left((), None)) is None
    assert obstacle(make_status(writer=None), Left((), None)) is not None


def test_an_interrupted_restart_of_all_goes_on_where_it_was(tmp_path: Path) -> None:
    Layout(tmp_path).run.mkdir()
    record = Record(Target(api=None, data_dir=tmp_path, timeout_s=None), only_pending=False)
    before = make_status(server("n1", 11, NodeState.RUNNING), server("n2", 22), server("n3", 33))
    half = make_status(server("n1", 11, NodeState.RUNNING), server("n2", 23), server("n3", 33))
    done = make_status(server("n1", 12, NodeState.RUNNING), server("n2", 23), server("n3", 34))
    assert left(before, record.begin(before, keep=False)) == Left(("n2", "n3"), "n1")
    assert left(half, record.begin(half, keep=True)) == Left(("n2", "n3"), "n1"), "a rehearsal begins nothing"
    record.end()
    record.begin(before, keep=True)
    assert left(half, record.begin(half, keep=True)) == Left(("n3",), "n1")
    assert left(done, record.begin(done, keep=True)) == Left(("n2", "n3"), "n1"), "one that was done begins anew"
    record.end()
    record.end()


def test_what_waits_needs_no_memory(tmp_path: Path) -> None:
    record = Record(Target(api="http://x", data_dir=tmp_path, timeout_s=None), only_pending=False)
    assert record.begin(make_status(server("n1", 11)), keep=True) == Begun({"n1": 11})
    record.end()
    assert Record(Target(api=None, data_dir=tmp_path, timeout_s=None), only_pending=True).begin(
        make_status(), keep=True
    ) == Begun(None)
    assert list(tmp_path.iterdir()) == []
