"""The local cluster's own life: ^C, restarts, adoption, and everything that is refused before anything starts."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from deployment.local.directory import lock
from deployment.local.layout import Layout
from testkit.cluster import ROOT, Cluster
from testkit.injuries import Part, frozen
from testkit.ledger import Recorder

MakeCluster = Callable[..., Cluster]


class Foreground:
    """`endpointctl up` without --detach, its output in a file."""

    def __init__(self, cluster: Cluster, output: Path) -> None:
        self._cluster = cluster
        self._output = output
        with output.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "endpointctl", "up", "--base-port", "auto", *cluster.options],
                cwd=ROOT,
                env=cluster.environment(),
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self._output.read_text()

    def wait_for(self, text: str, *, timeout_s: float = 90.0) -> None:
        deadline = time.monotonic() + timeout_s
        while text not in self.output:
            assert self.process.poll() is None, f"up ended with {self.process.returncode}: {self.output}"
            assert time.monotonic() < deadline, f'no "{text}" in: {self.output}'
            time.sleep(0.05)

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def wait(self, timeout_s: float = 60.0) -> int:
        return self.process.wait(timeout_s)


@pytest.fixture
def run_up(tmp_path: Path) -> Iterator[Callable[[Cluster], Foreground]]:
    started: list[Foreground] = []

    def run(cluster: Cluster) -> Foreground:
        found = Foreground(cluster, tmp_path / f"up{len(started)}.txt")
        started.append(found)
        return found

    yield run
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


def processes_of(cluster: Cluster) -> list[str]:
    """Return the command line of every process that has to do with the cluster's directory."""
    found: list[str] = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            directory = str((process / "cwd").readlink())
        except OSError:
            continue
        if str(cluster.data_dir) in command or directory.startswith(str(cluster.data_dir)):
            found.append(f"{process.name} {command}")
    return found


@pytest.mark.timeout(240)
def test_up_in_the_foreground_tells_what_to_paste_and_an_interrupt_stops_everything(
    make_cluster: MakeCluster, run_up: Callable[[Cluster], Foreground]
) -> None:
    cluster = make_cluster()
    up = run_up(cluster)
    up.wait_for("The cluster is ready")
    up.wait_for("DNS:")
    lines = up.output.splitlines()
    assert any(line.startswith("n2: cloning") for line in lines)
    assert "quorum: 3 of 3" in lines
    pasted = [line.strip() for line in lines[lines.index("The cluster is ready. To paste:") + 1 :]]
    assert " psql " in pasted[0]
    assert pasted[0].endswith("writer")
    shown = subprocess.run(f"{pasted[2]} -Atc 'select 6 * 7'", shell=True, capture_output=True, text=True, check=True)  # noqa: S602
    assert shown.stdout.strip() == "42"
    with Recorder(cluster.dsn("writer")) as recorder:
        recorder.wait_for_more(100, timeout_s=30.0)
    up.interrupt()
    assert up.wait() == 0
    assert "stopped" in up.output
    assert processes_of(cluster) == []
    again = run_up(cluster)
    again.wait_for("The cluster is ready")
    verdict = recorder.check(cluster.dsn("writer"))
    assert verdict.is_clean, str(verdict)
    again.interrupt()
    assert again.wait() == 0
    assert processes_of(cluster) == []


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_frozen_supervisor_has_not_ended_and_an_interrupt_counts_when_it_wakes(
    make_cluster: MakeCluster, run_up: Callable[[Cluster], Foreground]
) -> None:
    cluster = make_cluster(nodes=1)
    up = run_up(cluster)
    up.wait_for("The cluster is ready")
    with frozen(cluster, Part.SUPERVISOR):
        # Longer than three questions without an answer took, which was once enough to be taken for ended.
        with pytest.raises(subprocess.TimeoutExpired):
            up.wait(18.0)
        up.interrupt()
        up.wait_for("the supervisor does not answer", timeout_s=30.0)
        assert cluster.status().writer == "n1"
    assert up.wait() == 0
    assert "stopped" in up.output
    assert processes_of(cluster) == []


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_second_interrupt_stops_the_cluster_without_a_frozen_supervisor(
    make_cluster: MakeCluster, run_up: Callable[[Cluster], Foreground]
) -> None:
    cluster = make_cluster(nodes=1)
    up = run_up(cluster)
    up.wait_for("The cluster is ready")
    cluster.kill("supervisor", signal.SIGSTOP)
    up.interrupt()
    up.wait_for("the supervisor does not answer", timeout_s=30.0)
    up.interrupt()
    assert up.wait(90.0) == 0, up.output
    assert processes_of(cluster) == []
    cluster.up()
    cluster.wait(lambda status: status.writer is not None, "with a writer")


@pytest.mark.timeout(240)
def test_an_interrupt_while_it_starts_and_a_second_one_leave_nothing_behind(
    make_cluster: MakeCluster, run_up: Callable[[Cluster], Foreground]
) -> None:
    cluster = make_cluster()
    up = run_up(cluster)
    up.wait_for("manager: answers")
    up.interrupt()
    up.wait_for("stopping")
    up.interrupt()
    up.wait()
    assert processes_of(cluster) == []
    cluster.up()
    cluster.wait_healthy()


@pytest.mark.timeout(240)
def test_a_closed_terminal_stops_the_cluster_as_an_interrupt_does(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(nodes=1)
    outer, inner = pty.openpty()
    up = subprocess.Popen(
        [
            "setsid",
            "--ctty",
            sys.executable,
            "-m",
            "endpointctl",
            "up",
            "--nodes",
            "1",
            "--base-port",
            "auto",
            *cluster.options,
        ],
        cwd=ROOT,
        env=cluster.environment() | {"TERM": "xterm"},
        stdin=inner,
        stdout=inner,
        stderr=inner,
    )
    os.close(inner)
    shown = b""
    deadline = time.monotonic() + 90.0
    while b"stops the cluster" not in shown:
        assert time.monotonic() < deadline, f"no live status: {shown!r}"
        readable, _, _ = select.select([outer], [], [], 1.0)
        if readable:
            shown = (shown + os.read(outer, 65536))[-65536:]
    os.close(outer)
    up.wait(60.0)
    assert processes_of(cluster) == []


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("nodes", "voters"), [(1, 1), (2, 1), pytest.param(5, 5, marks=pytest.mark.slow)])
def test_other_numbers_of_nodes(make_cluster: MakeCluster, nodes: int, voters: int) -> None:
    cluster = make_cluster(nodes=nodes)
    cluster.up()
    status = cluster.status()
    assert len(status.nodes) == nodes
    assert status.durability == ("quorum" if nodes >= 3 else "async")
    assert len(status.voters.names) == voters
    shown = cluster.ctl("status").stdout
    assert ("durability is async" in shown) == (nodes < 3)
    for door in ("writer", "reader"):
        with psycopg.connect(cluster.dsn(door)) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.timeout(240)
def test_a_killed_supervisor_leaves_the_cluster_alive_and_the_next_up_adopts_it(cluster: Cluster) -> None:
    programs = ("cluster_manager", "endpointd", "n1", "n2", "n3")
    before = {name: cluster.pid_of(name) for name in programs}
    dsn = cluster.dsn("writer")
    with Recorder(dsn) as recorder:
        cluster.kill("supervisor")
        recorder.wait_for_more(100, timeout_s=30.0)
        cluster.up()
        assert {name: cluster.pid_of(name) for name in programs} == before
        assert all(program.adopted for program in cluster.program("list"))
        recorder.wait_for_more(100, timeout_s=30.0)
    assert recorder.errors == []
    cluster.kill("endpointd")
    cluster.wait(lambda _: _pid_or_none(cluster, "endpointd") not in (None, before["endpointd"]), "the proxy restarted")
    cluster.wait_healthy()


@pytest.mark.timeout(240)
def test_down_works_without_a_supervisor(cluster: Cluster) -> None:
    dsn = cluster.dsn("writer")
    with Recorder(dsn) as recorder:
        recorder.wait_for_more(100, timeout_s=30.0)
    cluster.kill("supervisor")
    assert "supervisor is gone" in cluster.ctl("down").stdout
    assert processes_of(cluster) == []
    cluster.up()
    assert recorder.check(dsn).is_clean


def test_up_again_while_it_runs_is_harmless(cluster: Cluster, tmp_path: Path) -> None:
    before = cluster.pid_of("supervisor")
    (tmp_path / "prefs.toml").write_text("[proxy]\ndrain_timeout_s = 7\n")
    said = cluster.ctl("up", "--config", str(tmp_path / "prefs.toml"), "--detach").stdout
    assert re.search(r"prefs\.toml has other settings for .*\bendpointd, for which it counts from the next start on", said), (
        said
    )
    assert "next start" not in cluster.ctl("up", "--detach").stdout
    assert "runs already" in cluster.ctl("up", "--detach", "--wait").stdout
    assert "runs already" in cluster.ctl("up").stdout
    assert cluster.pid_of("supervisor") == before


def test_a_second_cluster_on_taken_ports_is_refused_before_anything_is_made(cluster: Cluster, tmp_path: Path) -> None:
    other = Cluster(tmp_path / "c")
    done = other.ctl("up", "--detach", "--base-port", str(cluster.port(0)), check=False)
    assert done.returncode == 1
    assert str(cluster.port(32)) in done.stderr
    assert str(cluster.pid_of("endpointd")) in done.stderr
    assert done.stderr.count("\n") == 1
    assert not other.data_dir.exists()


@pytest.mark.timeout(240)
def test_the_preferences_reach_postgresql(make_cluster: MakeCluster, tmp_path: Path) -> None:
    config = tmp_path / "local.toml"
    config.write_text('[cluster]\nnodes = 1\n[postgres]\nsettings = { work_mem = "9MB" }\n')
    cluster = make_cluster(nodes=1, options=("--config", str(config)))
    cluster.up()
    with psycopg.connect(cluster.dsn("writer")) as connection:
        assert connection.execute("SHOW work_mem").fetchone() == ("9MB",)


@pytest.mark.timeout(240)
def test_a_setting_of_ours_is_refused_with_the_reason(make_cluster: MakeCluster, tmp_path: Path) -> None:
    config = tmp_path / "local.toml"
    config.write_text('[postgres]\nsettings = { synchronous_standby_names = "" }\n')
    cluster = make_cluster(options=("--config", str(config)))
    done = cluster.ctl("up", "--detach", "--wait", "--base-port", "auto", *("--config", str(config)), check=False)
    assert done.returncode in (1, 2)
    assert "synchronous_standby_names" in done.stderr
    assert done.stderr.count("\n") == 1


def test_doctor_and_logs_tell_of_a_running_cluster(cluster: Cluster) -> None:
    said = cluster.ctl("doctor").stdout
    assert f"supervisor {cluster.pid_of('supervisor')}" in said
    assert "problem" not in said
    assert "noded serves" in cluster.ctl("logs", "n1", "-n", "1000").stdout
    assert cluster.ctl("logs", "nobody", check=False).returncode == 2


def _pid_or_none(cluster: Cluster, program: str) -> int | None:
    try:
        return cluster.pid_of(program)
    except (OSError, ValueError):
        return None


FORMER_SUPERVISOR = """
import argparse, os, sys
from pathlib import Path
parser = argparse.ArgumentParser()
parser.add_argument("--data-dir", type=Path)
parser.add_argument("--lock-fd")
arguments = parser.parse_args()
sys.path.remove(str(Path(__file__).parents[2]))
for name in [name for name in sys.modules if name.partition(".")[0] == "endpointctl"]:
    del sys.modules[name]
os.environ["ENDPOINTD_LOCK_FD"] = arguments.lock_fd
from supervisor.daemon import main
sys.exit(main(["--config", str(arguments.data_dir / "settings" / "supervisor.toml")]))
"""
"""A program with the module and the arguments that supervisors had while they were part of endpointctl."""


@pytest.mark.timeout(240)
def test_a_supervisor_of_a_former_version_is_found_and_obeyed(make_cluster: MakeCluster, tmp_path: Path) -> None:
    """Its command line is another than we would start it with: it is known by its record, and controlled by its socket."""
    cluster = make_cluster(nodes=1)
    cluster.up()
    before = cluster.pid_of("supervisor")
    cluster.kill("supervisor")
    _until(lambda: not Path(f"/proc/{before}").exists())
    module = tmp_path / "former" / "endpointctl" / "local" / "supervisor.py"
    module.parent.mkdir(parents=True)
    module.write_text(FORMER_SUPERVISOR)
    for package in (module.parent, module.parents[1]):
        (package / "__init__.py").touch()
    layout = Layout(cluster.data_dir)
    descriptor = lock(layout)
    assert descriptor is not None, "the lock goes with the supervisor that held it"
    former = subprocess.Popen(
        [
            *(sys.executable, "-P", "-m", "endpointctl.local.supervisor"),
            *("--data-dir", str(cluster.data_dir), "--lock-fd", str(descriptor)),
        ],
        env=cluster.environment() | {"PYTHONPATH": f"{tmp_path / 'former'}:{ROOT}"},
        cwd=cluster.data_dir,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(descriptor,),
        start_new_session=True,
    )
    os.close(descriptor)
    _until(lambda: layout.record("supervisor").exists() and cluster.pid_of("supervisor") == former.pid)

    assert f"supervisor {former.pid}" in cluster.ctl("doctor", check=False).stdout
    assert "runs already" in cluster.ctl("up", "--detach").stdout
    assert all(program.adopted for program in cluster.program("list"))
    cluster.down()
    assert former.wait(10.0) == 0
    assert not processes_of(cluster)


def _until(is_met: Callable[[], bool], *, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_met():
        assert time.monotonic() < deadline, "it does not come about"
        time.sleep(0.05)
