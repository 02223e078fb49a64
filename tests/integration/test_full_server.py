"""Strangers have every connection of every server, the reserved ones too: role changes go on by the sessions noded holds."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping

import psycopg
import pytest

from testkit.cluster import Cluster

FULL = "too many clients"
"""What PostgreSQL says when not even a superuser is let in."""
CHECKPOINTED_LONG_AGO = "SELECT clock_timestamp() - checkpoint_time > interval '14 s' FROM pg_control_checkpoint()"
END_CHECKPOINT = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'endpointd checkpoint' AND state = 'active'
"""


class Crowd:
    """Superusers' sessions on one server: as many as it takes, and whenever one becomes free again."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._over = threading.Event()
        self._held: list[psycopg.Connection] = []
        self.full = threading.Event()
        """Whether the server has turned one away."""
        self.thread = threading.Thread(target=self._run)

    def leave(self) -> None:
        """Give every connection back."""
        self._over.set()
        self.thread.join()

    def _run(self) -> None:
        with contextlib.ExitStack() as stack:
            while not self._over.wait(0.0 if not self.full.is_set() else 0.01):
                try:
                    self._held.append(stack.enter_context(contextlib.closing(psycopg.connect(self._dsn, autocommit=True))))
                except psycopg.OperationalError as error:
                    if FULL in str(error):
                        self.full.set()

    def end_checkpointing(self) -> None:
        """Terminate noded's session for checkpoints, by one of the crowd's sessions that still lives."""
        for connection in reversed(self._held):
            with contextlib.suppress(psycopg.OperationalError):
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'endpointd checkpoint'"
                )
                return


@contextlib.contextmanager
def crowded(cluster: Cluster) -> Iterator[Mapping[str, Crowd]]:
    """Take every connection of every node for a `with` block."""
    crowds = {str(node.name): Crowd(cluster.dsn(node.name)) for node in cluster.status().nodes}
    for crowd in crowds.values():
        crowd.thread.start()
    try:
        for name, crowd in crowds.items():
            assert crowd.full.wait(60.0), f"{name} is not full"
        yield crowds
    finally:
        for crowd in crowds.values():
            crowd.leave()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_crowd_on_every_server_keeps_no_writer_from_handing_over(make_cluster: Callable[[], Cluster]) -> None:
    cluster = make_cluster()
    cluster.up()
    before = cluster.wait_healthy()
    with crowded(cluster) as crowds:
        # Before noded can have found out that logins fail.
        cluster.ctl("switchover")
        first = cluster.status()
        assert first.epoch == before.epoch + 1
        assert first.writer != before.writer

        told = cluster.wait(lambda status: FULL in (status.at_risk or ""), "said to be full")
        assert told.epoch == first.epoch
        cluster.ctl("switchover", "--dry-run")
        cluster.ctl("switchover")
        second = cluster.status()
        assert second.epoch == first.epoch + 1

        assert second.writer is not None
        cluster.kill_postgres(second.writer)
        third = cluster.wait_for_epoch_after(second.epoch)

        # A session that noded holds is lost, and the crowd has its place: nothing is begun, now or when the crowd has left.
        assert third.writer is not None
        steady = cluster.wait(lambda status: all(node.role != "none" for node in status.nodes), "all there again")
        crowd = crowds[third.writer]

        def is_refused() -> bool:
            crowd.end_checkpointing()
            return cluster.ctl("switchover", "--dry-run", check=False).returncode == 1

        cluster.until(is_refused, "refused")
        refused = cluster.ctl("switchover", check=False)
        assert refused.returncode == 1
        assert FULL in refused.stderr
    after = cluster.wait_healthy()
    assert (after.epoch, after.writer) == (steady.epoch, steady.writer)


@pytest.mark.timeout(120)
def test_an_order_whose_checkpoint_fails_ends_and_is_not_carried_out_later(cluster: Cluster) -> None:
    before = cluster.wait_healthy()
    assert before.writer is not None
    with psycopg.connect(cluster.dsn(before.writer), autocommit=True) as connection:
        # A checkpoint that has just been written would do for the handover.
        cluster.until(lambda: connection.execute(CHECKPOINTED_LONG_AGO).fetchone() == (True,), "an old checkpoint")
        found = connection.execute("SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'").fetchone()
        assert found is not None
        ended: list[subprocess.CompletedProcess[str]] = []
        order = threading.Thread(target=lambda: ended.append(cluster.ctl("switchover", check=False)))
        os.kill(found[0], signal.SIGSTOP)
        try:
            order.start()
            cluster.wait(lambda status: status.diagnosis == "SWITCHOVER_REQUESTED", "waiting for its checkpoint")

            def is_over() -> bool:
                connection.execute(END_CHECKPOINT)
                return not order.is_alive()

            cluster.until(is_over, "an order that has ended")
        finally:
            os.kill(found[0], signal.SIGCONT)
            order.join()
    assert ended[0].returncode == 1
    assert "does not write the checkpoint that comes first" in ended[0].stderr
    after = cluster.wait_healthy()
    assert (after.epoch, after.writer) == (before.epoch, before.writer)
    assert after.order_given_up is not None
    assert any(event["kind"] == "operator.given_up" for event in cluster.events())
    cluster.ctl("switchover")
    assert cluster.wait_healthy().order_given_up is None
