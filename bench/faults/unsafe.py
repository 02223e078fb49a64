"""The control run: with one broken promise acknowledged rows must be lost, and the checkers must say so.

The schedule.  One replica lies when it promises (`liar`).  The noded of the writer is frozen while its PostgreSQL goes on, so
that nobody can stop it.  An operator orders a failover to the other replica, which is promoted with the liar's word as its safe
set.  The liar still receives from the old writer, so clients connected to that directly go on being acknowledged.  Thawed, the
old writer becomes a standby of the new one and those rows are gone.  Were the promise kept, not one of them would have been
acknowledged: `--honest` shows it.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from deployment.local.layout import Layout
from pgtopology.epoch import Epoch
from testkit.cluster import ROOT, Cluster
from testkit.ledger import Recorder
from testkit.processes import frozen

AT_RISK_S = 10.0
ROWS_AT_RISK = 200
WAIT_S = 60.0


def lie(console: Console, *, pg_bin: str | None = None, honest: bool = False) -> bool:
    """Play the schedule and return whether what must come did: rows lost and noticed, or with *honest* none."""
    options = ("--pg-bin", pg_bin) if pg_bin is not None else ()
    with tempfile.TemporaryDirectory(prefix="endpointd-unsafe-") as folder:
        cluster = Cluster(Path(folder) / "c", options=options)
        with contextlib.ExitStack() as stack:
            stack.callback(cluster.remove)
            cluster.up()
            before = cluster.wait_healthy()
            heir, other = (node.name for node in before.nodes if node.name != before.writer)
            if not honest:
                cluster.stop_node(other)
                stack.callback(_end, _start_liar(cluster, other))
            return _play(cluster, heir, console, honest=honest)


def _start_liar(cluster: Cluster, name: str) -> subprocess.Popen[bytes]:
    layout = Layout(cluster.data_dir)
    with layout.log(f"{name}-liar").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "bench.faults.liar", "--config", str(layout.settings_file(name))],
            env=cluster.environment() | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _end(liar: subprocess.Popen[bytes]) -> None:
    liar.terminate()
    liar.wait(WAIT_S)


def _wait_for_candidate(cluster: Cluster, epoch: Epoch) -> None:
    """Wait until somebody was elected for a later epoch."""

    def is_elected() -> bool:
        return any(event["kind"] == "failover.elected" and event["epoch"] > epoch for event in cluster.events())

    cluster.wait(lambda _status: is_elected(), "elected", timeout_s=WAIT_S)


def _play(cluster: Cluster, heir: str, console: Console, *, honest: bool) -> bool:
    before = cluster.wait_healthy(timeout_s=WAIT_S)
    assert before.writer is not None
    with Recorder(cluster.dsn(before.writer)) as recorder:
        recorder.wait_for_more(50, timeout_s=30.0)
        with frozen([cluster.pid_of(before.writer)]):
            cluster.ctl("failover", "--to", heir, "--no-wait")
            _wait_for_candidate(cluster, before.epoch)
            acknowledged = recorder.acknowledgements
            deadline = time.monotonic() + AT_RISK_S
            while recorder.acknowledgements < acknowledged + ROWS_AT_RISK and time.monotonic() < deadline:
                time.sleep(0.05)
            gained = recorder.acknowledgements - acknowledged
        after = cluster.wait_for_epoch_after(before.epoch, timeout_s=WAIT_S)
        recorder.stop()
    verdict = recorder.check(cluster.dsn("writer"))
    console.print(
        f"{'honest' if honest else 'unsafe'}: {before.writer} acknowledged {gained} rows after the election of {after.writer}\n"
        f"  {verdict}",
        markup=False,
    )
    if honest:
        console.print("  nothing is lost, as it must be" if verdict.is_clean else "  ROWS WERE LOST")
        return verdict.is_clean
    console.print("  THE CHECKERS NOTICED NOTHING" if verdict.is_clean else "  the checkers noticed, as they must")
    return not verdict.is_clean
