"""What nodeds do when something is in the way: frozen processes, foreign hands, stale orders, interrupted copies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shutil
import signal
import socket

import asyncpg
import pytest

from daemonkit import proctable
from daemonkit.httpclient import HttpRefused
from noded.acts.remaking import MUTE_MS
from noded.postgres import processes
from pgtopology.codec import decode
from pgtopology.epoch import Epoch, Revision
from pgtopology.node import Incarnation, Role
from pgtopology.observation import Observation, PostmasterState
from pgtopology.orders import (
    Acknowledged,
    CloneOrder,
    FollowOrder,
    InitOrder,
    PromiseAnswer,
    PromiseOrder,
    PromoteOrder,
    RewindOrder,
    StartOrder,
    StopOrder,
)
from pgtopology.timeline import Timeline
from testkit.processes import send_all, stop, top_down
from tests.noded.members import Cluster, Member, running_members

pytestmark = pytest.mark.integration


async def child(member: Member, word: str) -> int:
    """Return the pid of the PostgreSQL process of *member* that calls itself *word*."""
    pid = (await member.observe()).postmaster.pid
    assert pid is not None
    return next(found for found in proctable.children(pid) if word in (proctable.title(found) or ""))


async def pair(cluster: Cluster) -> tuple[Member, Member]:
    """Make a writer and a standby, both voters, w = 2."""
    first, second = cluster.members
    await cluster.found()
    await cluster.clone(second, first)
    cluster.voters = await cluster.voters_of([first, second], 2)
    await cluster.settings(first, cluster.voters)
    return first, second


async def refused(answer: asyncio.Future[object] | object) -> HttpRefused:
    """Return the refusal that *answer* ends with."""
    with pytest.raises(HttpRefused) as caught:
        await answer  # type: ignore[misc]
    assert caught.value.status == 409
    return caught.value


async def test_a_frozen_receiver_does_not_survive_a_promise() -> None:
    async with running_members(2) as cluster:
        first, second = await pair(cluster)
        receiver = await child(second, "walreceiver")
        postmaster = (await second.observe()).postmaster.pid
        os.kill(receiver, signal.SIGSTOP)
        cluster.epoch = 2
        answer = await cluster.promise(second)
        assert answer.position is not None
        assert not proctable.is_alive(receiver)
        assert (await second.observe()).postmaster.pid != postmaster
        # The old writer's commits hang from now on.
        with pytest.raises(TimeoutError):
            await cluster.sql(first, "CREATE TABLE lost ()", timeout_s=1)


async def test_a_frozen_startup_process_is_fenced_but_tells_no_position() -> None:
    async with running_members(2) as cluster:
        first, second = await pair(cluster)
        startup = await child(second, "startup")
        os.kill(startup, signal.SIGSTOP)
        cluster.epoch = 2
        answer = await cluster.promise(second, deadline_ms=600)
        assert answer.position is None
        assert answer.unknown_because
        pid = (await second.observe()).postmaster.pid
        assert pid is not None
        assert not processes.receivers(pid)
        with pytest.raises(TimeoutError):
            await cluster.sql(first, "CREATE TABLE lost ()", timeout_s=1)
        os.kill(startup, signal.SIGCONT)
        assert (await cluster.promise(second)).position is not None


async def test_a_frozen_primary_is_stopped_by_a_promise() -> None:
    async with running_members(1) as cluster:
        await cluster.found()
        (only,) = cluster.members
        pid = (await only.observe()).postmaster.pid
        assert pid is not None
        stop(top_down(pid))
        await only.until(lambda o: o.postmaster.deaf_ms > 0)
        cluster.epoch = 2
        answer = await cluster.promise(only)
        assert answer.was_primary
        assert answer.position is not None
        assert not proctable.is_alive(pid)


async def test_a_promotion_by_hand_is_undone() -> None:
    async with running_members(2) as cluster:
        _, second = await pair(cluster)
        await cluster.sql(second, "SELECT pg_promote(wait => false)")
        after = await second.until(lambda o: o.role is Role.STANDBY and not o.whole)
        assert after.foreign
        assert after.receiver is not None
        assert after.receiver.upstream is None
        await only_a_copy_helps(cluster, second)


async def only_a_copy_helps(cluster: Cluster, foreign: Member) -> None:
    """Let the first node take, by order, the number that *foreign* took by hand: the two are never mixed up (E3)."""
    first = cluster.members[0]
    by_hand = (await foreign.until(lambda o: o.timeline is not None and o.role is Role.STANDBY)).timeline
    cluster.epoch += 1
    cluster.voters = await cluster.voters_of([first], 1)
    answer = await cluster.promise(foreign)
    assert not answer.whole
    await cluster.promise(first)
    claimed = await cluster.promote(first, 3)
    assert claimed.timeline == by_hand
    assert not claimed.foreign
    assert (await refused(cluster.follow(foreign, first))).code == "failed"
    seen = await foreign.observe()
    rewind = cluster.order(RewindOrder, foreign, Acknowledged, source=first.upstream, destroys=seen.incarnation)
    assert (await refused(rewind)).code == "failed"
    assert not (await cluster.clone(foreign, first)).foreign


@pytest.mark.parametrize("killed", [False, True], ids=["it goes on", "it dies too"])
async def test_a_promotion_by_hand_while_noded_is_dead_is_noticed(*, killed: bool) -> None:
    async with running_members(2) as cluster:
        _, second = await pair(cluster)
        pid = (await second.observe()).postmaster.pid
        assert pid is not None
        await second.stop(signal.SIGKILL)
        await cluster.sql(second, "SELECT pg_promote()")
        if killed:
            send_all(list(top_down(pid)), signal.SIGKILL)
        await second.start()
        after = await second.until(lambda o: o.role is Role.STANDBY)
        assert after.foreign
        assert not after.whole
        await second.stop(signal.SIGKILL)
        await second.start()
        assert (await second.observe()).foreign
        await only_a_copy_helps(cluster, second)


async def test_a_strange_hand_in_the_configuration_is_undone() -> None:
    async with running_members(2) as cluster:
        first, second = await pair(cluster)
        path = first.directory / "pgdata" / "postgresql.auto.conf"
        before = path.read_bytes()
        path.write_text("synchronous_standby_names = ''\n")
        async with asyncio.timeout(10):
            while path.read_bytes() != before:
                await second.observe()
        row = await cluster.sql(first, "SELECT current_setting('synchronous_standby_names') AS names")
        assert row[0]["names"].startswith("ANY 1")


async def test_a_heartbeat_that_only_the_writer_holds_is_not_acknowledged() -> None:
    """Somebody empties the list of a writer that is alone: commits return at once, and prove nothing (S14)."""
    async with running_members(2) as cluster:
        first, second = await pair(cluster)
        await cluster.order(StopOrder, second, Acknowledged)
        await first.until(lambda o: o.heartbeat and o.heartbeat.pending_ms > 500)
        path = first.directory / "pgdata" / "postgresql.auto.conf"
        async with asyncio.timeout(20):
            while True:
                path.write_text("synchronous_standby_names = ''\n")
                await cluster.sql(first, "SELECT pg_reload_conf()")
                with contextlib.suppress(TimeoutError):
                    # Returns without anybody, unless noded has restored the list already.
                    await cluster.sql(first, "SELECT pg_logical_emit_message(true, 'test', '')", timeout_s=0.5)
                    break
        alone = await first.until(lambda o: o.heartbeat and o.heartbeat.error)
        assert alone.heartbeat is not None
        assert alone.heartbeat.error == "it returned, but of the other voters only 0 have flushed it"
        assert alone.heartbeat.pending_ms > 500
        assert (alone.heartbeat.acknowledged_age_ms or 0) > 500
        await cluster.order(StartOrder, second, Acknowledged)
        again = await first.until(
            lambda o: o.heartbeat and (o.heartbeat.acknowledged_age_ms or 9999) < 300 and o.heartbeat.error is None
        )
        assert again.heartbeat is not None
        assert (again.heartbeat.begun_age_ms or 0) >= (again.heartbeat.acknowledged_age_ms or 0)


async def test_a_list_nobody_can_satisfy_is_refused_and_stays_in_force() -> None:
    async with running_members(2) as cluster:
        first, second = await pair(cluster)
        await cluster.order(StopOrder, second, Acknowledged)
        assert cluster.voters is not None
        refusal = await refused(cluster.settings(first, cluster.voters, deadline_ms=800))
        assert refusal.code == "failed"
        assert "quorum" in refusal.message
        pending = await first.until(lambda o: o.heartbeat and o.heartbeat.pending_ms > 500)
        assert pending.role is Role.PRIMARY
        await cluster.order(StartOrder, second, Acknowledged)
        await first.until(lambda o: o.heartbeat and (o.heartbeat.acknowledged_age_ms or 9999) < 300)


async def test_orders_of_the_past_and_of_others_are_refused() -> None:
    async with running_members(1) as cluster:
        await cluster.found()
        (only,) = cluster.members
        seen = (await only.observe()).seen

        async def code(order: InitOrder | PromiseOrder | FollowOrder | PromoteOrder | CloneOrder | RewindOrder) -> str:
            return (await refused(cluster.send(order, only, Acknowledged))).code

        make = cluster.make
        assert await code(make(PromiseOrder, only, revision=Revision(seen.revision - 1))) == "stale_order"
        assert await code(make(PromiseOrder, only)) == "running_primary"
        assert await code(make(PromiseOrder, only, cluster="other")) == "wrong_cluster"
        assert await code(make(PromiseOrder, only, system_identifier="1")) == "wrong_cluster"
        assert await code(make(PromiseOrder, only, node="n9")) == "wrong_node"
        assert await code(make(InitOrder, only, system_identifier=None)) == "has_data"
        assert await code(make(FollowOrder, only, upstream=only.upstream)) == "running_primary"
        before = (await only.observe()).incarnation
        assert await code(make(CloneOrder, only, source=only.upstream, destroys=before)) == "running_primary"
        assert await code(make(RewindOrder, only, source=only.upstream, destroys=before)) == "running_primary"
        assert await code(make(PromoteOrder, only, timeline=Timeline(3), epoch=Epoch(2))) == "not_promised"
        cluster.epoch = 3
        await cluster.promise(only)
        wrong = make(CloneOrder, only, source=only.upstream, destroys=Incarnation("ffff"))
        assert await code(wrong) == "wrong_incarnation"
        assert await code(make(PromiseOrder, only, epoch=Epoch(2))) == "stale_order"


async def test_a_promise_repeated_after_a_restart_of_noded_still_holds() -> None:
    async with running_members(2) as cluster:
        _, second = await pair(cluster)
        cluster.epoch = 2
        await cluster.promise(second)
        for number in (signal.SIGKILL, signal.SIGTERM):
            await second.stop(number)
            await second.start()
            after = await second.until(lambda o: o.role is Role.STANDBY and o.postmaster.state == PostmasterState.RUNNING)
            assert after.promised == 2
            assert after.receiver is not None
            assert not after.receiver.running
        again = await cluster.send(cluster.make(PromiseOrder, second), second, PromiseAnswer)
        assert again.position is not None


async def test_an_interrupted_copy_leaves_no_data_behind() -> None:
    async with running_members(2) as cluster:
        first, second = cluster.members
        await cluster.found()
        # The copy waits for a source that answers nothing.
        pid = (await first.observe()).postmaster.pid
        assert pid is not None
        thaw = stop(top_down(pid))
        await cluster.order(CloneOrder, second, Acknowledged, source=first.upstream, destroys=None)
        await second.until(lambda o: o.activity == "cloning")
        await second.stop(signal.SIGKILL)
        await second.start()
        after = await second.observe()
        assert after.system_identifier is None
        assert after.problem == "an earlier clone was interrupted"
        assert not (second.directory / "pgdata").exists()
        thaw()
        await cluster.clone(second, first)


async def test_an_orderly_end_leaves_a_clean_data_directory_and_no_process() -> None:
    async with running_members(1) as cluster:
        await cluster.found()
        (only,) = cluster.members
        assert await only.stop() == 0
        assert not processes.members(only.directory / "pgdata")
        assert (only.directory / "pgdata" / "backup_label").exists() is False
        await only.start()
        after = await only.until(lambda o: o.role is Role.STANDBY)
        assert after.promoted_epoch == 1


async def test_passwords_are_wanted_everywhere_and_the_control_role_stays_inside() -> None:
    async with running_members(1) as cluster:
        await cluster.found()
        (only,) = cluster.members
        for user, password in (("endpointd", cluster.passwords["control"]), ("postgres", "wrong"), ("postgres", None)):
            with pytest.raises(asyncpg.PostgresError):
                await asyncpg.connect(
                    host="127.0.0.1",
                    port=only.pg_port,
                    user=user,
                    password=password,
                    database="postgres",
                    ssl=False,
                    passfile="/nonexistent",
                )
        hba = (only.directory / "conf" / "pg_hba.conf").read_text()
        assert "trust" not in hba
        for path in (only.directory, only.directory / "state" / "state.json", only.sockets):
            assert path.stat().st_mode & 0o077 == 0


async def test_a_promotion_that_waits_for_replay_gives_way_to_a_newer_promise() -> None:
    async with running_members(2) as cluster:
        _, second = await pair(cluster)
        cluster.epoch = 2
        await cluster.promise(second)
        startup = await child(second, "startup")
        os.kill(startup, signal.SIGSTOP)
        order = cluster.make(PromoteOrder, second, timeline=Timeline(3), deadline_ms=400)
        begun = await cluster.send(order, second, Acknowledged)
        assert not begun.done
        assert (await second.observe()).activity == "promoting"
        cluster.epoch = 3
        answer = await cluster.promise(second)
        assert answer.position is not None
        assert answer.position.timeline == 2
        assert not answer.was_primary
        assert not proctable.is_alive(startup)
        cluster.voters = await cluster.voters_of([second], 1)
        # What was planted for timeline 3 is no obstacle to timeline 4.
        assert (await cluster.promote(second, 4)).timeline == 4


async def test_a_crashed_primary_is_rewound_as_it_lies() -> None:
    async with running_members(2) as cluster:
        first, second = await pair(cluster)
        await cluster.sql(first, "CREATE TABLE t (i int)")
        pid = (await first.observe()).postmaster.pid
        assert pid is not None
        # The standby goes first, so that the primary has a tail that nobody else has.
        cluster.epoch = 2
        await cluster.promise(second)
        with pytest.raises(TimeoutError):
            await cluster.sql(first, "INSERT INTO t VALUES (1)", timeout_s=1)
        os.kill(pid, signal.SIGKILL)
        await first.until(lambda o: o.postmaster.state == PostmasterState.STOPPED)
        cluster.voters = await cluster.voters_of([second], 1)
        await cluster.promote(second, 3)
        before = (await first.observe()).incarnation
        await cluster.order(RewindOrder, first, Acknowledged, source=second.upstream, destroys=before)
        await first.until(lambda o: o.whole and o.timeline == 3)
        assert await cluster.sql(first, "SELECT i FROM t") == []
        kept = list((first.directory / "kept").glob("*/*"))
        assert kept
        assert all(path.name.startswith("00000002") for path in kept)


async def test_a_rewind_that_fails_leaves_data_that_is_only_good_for_a_copy() -> None:
    async with running_members(2) as cluster:
        first, second = await pair(cluster)
        before = (await second.observe()).incarnation
        await cluster.order(StopOrder, second, Acknowledged)
        (second.directory / "pgdata" / "global" / "pg_control").write_bytes(b"\0" * 8192)
        await cluster.order(RewindOrder, second, Acknowledged, source=first.upstream, destroys=before)
        after = await second.until(lambda o: o.problem and o.activity == "idle")
        assert not after.whole
        assert after.incarnation == before
        assert (await refused(cluster.order(StartOrder, second, Acknowledged))).code == "failed"
        cluster.epoch = 2
        answer = await cluster.promise(second)
        assert answer.position is None
        assert "unfinished rewind" in answer.unknown_because
        await cluster.promise(first)
        cluster.voters = await cluster.voters_of([first], 1)
        await cluster.promote(first, 3)
        assert (await cluster.clone(second, first)).problem is None


async def test_replay_that_somebody_paused_goes_on_when_an_epoch_is_promised() -> None:
    async with running_members(2) as cluster:
        first, second = await pair(cluster)
        await cluster.sql(second, "SELECT pg_wal_replay_pause()")
        await cluster.sql(first, "CREATE TABLE t ()")
        cluster.epoch = 2
        answer = await cluster.promise(second)
        assert answer.position is not None
        assert answer.position.replayed_lsn == answer.position.lsn


async def test_a_server_that_cannot_start_says_why() -> None:
    async with running_members(1) as cluster:
        await cluster.found()
        (only,) = cluster.members
        await cluster.order(StopOrder, only, Acknowledged)
        with socket.socket() as holder:
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.bind(("127.0.0.1", only.pg_port))
            holder.listen()
            await cluster.order(StartOrder, only, Acknowledged)
            failed = await only.until(lambda o: o.problem)
            assert "could not create any TCP/IP sockets" in (failed.problem or "")
            assert failed.postmaster.unexpected_exit
        await cluster.order(StartOrder, only, Acknowledged)
        assert (await only.until(lambda o: o.role is Role.STANDBY)).problem is None


async def test_data_and_state_that_do_not_belong_together_are_not_touched() -> None:
    async with running_members(1) as cluster:
        await cluster.found()
        (only,) = cluster.members
        await only.stop()
        state = only.directory / "state" / "state.json"
        kept = state.read_bytes()
        state.unlink()
        await only.start()
        lost = await only.observe()
        assert "knows nothing of" in (lost.problem or "")
        assert lost.postmaster.state is PostmasterState.STOPPED
        cluster.epoch = 2
        assert (await cluster.promise(only)).position is None
        assert (await refused(cluster.order(StartOrder, only, Acknowledged))).code == "failed"
        await only.stop()
        state.write_bytes(kept.replace(str(cluster.system_identifier).encode(), b"1"))
        await only.start()
        assert "speaks of system 1" in ((await only.observe()).problem or "")
        await only.stop()
        state.write_bytes(kept)
        shutil.rmtree(only.directory / "pgdata")
        await only.start()
        gone = await only.observe()
        assert "is gone" in (gone.problem or "")
        assert (gone.incarnation, gone.whole) == (None, False)


async def test_what_lacks_wal_to_start_gets_it_from_whom_it_follows() -> None:
    async with running_members(2) as cluster:
        first, second = await pair(cluster)
        kept = (await cluster.sql(first, "SELECT pg_walfile_name(pg_current_wal_insert_lsn()) AS name"))[0]["name"]
        for _ in range(3):
            await cluster.sql(first, "SELECT pg_logical_emit_message(true, 'filler', 'x')")
            await cluster.sql(first, "SELECT pg_switch_wal()")
        end = (await first.observe()).wal_end
        assert end is not None
        await second.until(lambda o: o.replayed_lsn is not None and o.replayed_lsn > end)
        await cluster.order(StopOrder, second, Acknowledged)
        # As after a rewind whose source died: what is in the data files goes further than the WAL.
        for path in (second.directory / "pgdata" / "pg_wal").iterdir():
            if len(path.name) == len(kept) and path.name > kept:
                path.unlink()
        cluster.epoch = 2
        answer = await cluster.promise(second, deadline_ms=1500)
        assert answer.position is None
        starting = await second.observe()
        assert starting.postmaster.state is PostmasterState.STARTING
        assert starting.receiver is not None
        assert starting.receiver.upstream is None
        await cluster.follow(second, first)
        after = await second.until(lambda o: o.role is Role.STANDBY and o.receiver and o.receiver.streaming)
        assert after.receiver is not None
        assert (after.receiver.upstream, after.receiver.upstream_epoch) == (first.name, 2)
        assert processes.is_streaming(await child(second, "walreceiver"))


@pytest.mark.parametrize("ended", [False, True], ids=["a standby by its files", "one whose recovery has ended"])
async def test_a_mute_server_is_replaced_unless_its_recovery_has_ended(*, ended: bool) -> None:
    async with running_members(2) as cluster:
        first, second = await pair(cluster)
        await cluster.order(StopOrder, second, Acknowledged)
        pgdata = second.directory / "pgdata"
        (pgdata / "global" / "pg_filenode.map").write_bytes(b"\xff" * 512)
        await cluster.order(StartOrder, second, Acknowledged)
        mute = await second.until(lambda o: o.mute_ms > 0)
        assert "answers nothing" in (mute.problem or "")
        clone = {"source": first.upstream, "destroys": mute.incarnation}
        assert (await refused(cluster.order(CloneOrder, second, Acknowledged, **clone))).code == "running_primary"
        if ended:
            # All that a promotion leaves behind for whoever cannot ask; this server would not survive a real one.
            (pgdata / "standby.signal").unlink()
        await second.until(lambda o: o.mute_ms > MUTE_MS, timeout_s=40)
        if ended:
            assert (await refused(cluster.order(CloneOrder, second, Acknowledged, **clone))).code == "running_primary"
            assert (await second.observe()).postmaster.pid == mute.postmaster.pid
        else:
            assert (await cluster.clone(second, first)).problem is None


@pytest.mark.slow
async def test_a_mute_former_writer_is_replaced_too() -> None:
    async with running_members(2) as cluster:
        first, second = await pair(cluster)
        await cluster.order(StopOrder, first, Acknowledged)
        # As a lock on what a login reads, which the crash recovery of a former writer takes again and nothing releases.
        (first.directory / "pgdata" / "global" / "pg_filenode.map").write_bytes(b"\xff" * 512)
        cluster.epoch = 2
        cluster.voters = await cluster.voters_of([second], 1)
        await cluster.promise(second)
        await cluster.promise(first)
        await cluster.promote(second, 4)
        await first.until(lambda o: o.mute_ms > MUTE_MS, timeout_s=60)
        assert (await cluster.clone(first, second)).problem is None


async def test_a_tablespace_outside_the_data_directory_is_told() -> None:
    async with running_members(1) as cluster:
        (only,) = cluster.members
        await cluster.found()
        link = only.directory / "pgdata" / "pg_tblspc" / "99999"
        link.symlink_to("/tmp")
        seen = await only.until(lambda o: o.outside)
        assert seen.outside == ("tablespace 99999 at /tmp",)
        link.unlink()
        await only.until(lambda o: not o.outside)


async def test_a_noded_without_descriptors_goes_on_and_calls_nobody_deaf() -> None:
    """Whoever took them all: what it cannot open, it looks for again later, and what it lacks is not PostgreSQL's fault."""
    async with running_members(1) as cluster:
        await cluster.found()
        (only,) = cluster.members
        assert only.process is not None
        pid = only.process.pid
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        async with only.client() as client:
            stream = client.lines("/events", idle_timeout_s=10)
            first = decode(await anext(stream), Observation)
            # A login that is being tried has one for a moment only, and leaves it for others.
            always = set(range(limits[0]))
            for _ in range(40):
                always &= {int(name) for name in os.listdir(f"/proc/{pid}/fd")}  # noqa: PTH208
                await asyncio.sleep(0.05)
            lowest_free = next(number for number in range(limits[0]) if number not in always)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
            try:
                async for line in stream:
                    seen = decode(line, Observation)
                    assert seen.postmaster.deaf_ms == 0
                    if seen.sequence > first.sequence + 25:
                        break
            finally:
                resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        assert only.process.returncode is None
        after = await only.until(lambda o: o.role is Role.PRIMARY and o.heartbeat is not None)
        assert after.sequence > first.sequence  # the same noded
        assert "housekeeping was cut short" in only.log.read_text()
