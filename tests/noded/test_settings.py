"""The operator's settings on real servers: taken over, tried beforehand, and what replication demands of them."""

from __future__ import annotations

import os

import msgspec
import pytest

from daemonkit.httpclient import HttpRefused
from noded.postgres.huge_pages import read_pool
from pgtopology.codec import decode, encode
from pgtopology.desired import DesiredSettings
from pgtopology.orders import Acknowledged, CheckSettings, ConfigureOrder, SettingsChecked, StartOrder
from tests.noded.members import Cluster, Member, running_members

BUNDLED = "ENDPOINTD_TEST_PG_BIN" not in os.environ
"""Whether PostgreSQL is the bundled one, which has no TLS."""

pytestmark = pytest.mark.integration


def desired(version: int, hba: tuple[str, ...] = (), **parameters: str) -> DesiredSettings:
    return DesiredSettings(version=version, parameters=parameters, hba=hba)


async def configure(cluster: Cluster, member: Member, wanted: DesiredSettings) -> None:
    await cluster.order(ConfigureOrder, member, Acknowledged, desired=wanted)


async def restart(cluster: Cluster, member: Member) -> None:
    async with member.client() as client:
        await client.post("/restart", encode(cluster.make(StartOrder, member)), timeout_s=30)


async def check(member: Member, wanted: DesiredSettings, before: DesiredSettings | None = None) -> SettingsChecked:
    question = CheckSettings(before=before or DesiredSettings(), wanted=wanted)
    async with member.client() as client:
        return decode(await client.post("/check-settings", encode(question), timeout_s=30), SettingsChecked)


async def shown(cluster: Cluster, member: Member, name: str) -> str:
    return (await cluster.sql(member, f"SHOW {name}"))[0][0]


async def test_settings_are_taken_over_kept_and_tried_beforehand() -> None:
    async with running_members(1) as cluster:
        only = cluster["n1"]
        first = desired(1, ("host all nobody all reject",), work_mem="7MB", max_connections="150")
        await configure(cluster, only, first)
        assert (await only.observe()).desired_version == 1, "a node without data knows what its data will start with"
        await cluster.found()
        begun = await only.until(lambda o: o.loaded_version == 1)
        assert begun.restart_for == ()
        assert await shown(cluster, only, "work_mem") == "7MB"
        assert await shown(cluster, only, "max_connections") == "150"
        assert await shown(cluster, only, "max_slot_wal_keep_size") == "4GB"

        second = desired(2, ("host all nobody all reject", "host all other all reject"), work_mem="9MB", max_connections="160")
        assert (await check(only, second, first)).restart_for == ("max_connections",)
        await configure(cluster, only, second)
        pending = await only.until(lambda o: o.loaded_version == 2)
        assert (pending.pending_restart, pending.restart_for) == (True, ("max_connections",))
        assert pending.postmaster.pid == begun.postmaster.pid
        assert await shown(cluster, only, "work_mem") == "9MB"
        rules = await cluster.sql(only, "SELECT 'other' = ANY(user_name) FROM pg_hba_file_rules WHERE auth_method = 'reject'")
        assert [True] in [list(row) for row in rules]

        with pytest.raises(HttpRefused, match='"fsync" cannot be set'):
            await configure(cluster, only, desired(3, fsync="off"))
        assert (await only.observe()).desired_version == 2

        await _is_refused(only, second)

        await only.stop()
        await only.start()
        cluster.epoch = 2
        await cluster.promise(only)
        again = await only.until(lambda o: o.loaded_version == 2 and o.role == "standby")
        assert again.restart_for == ()
        assert await shown(cluster, only, "max_connections") == "160"


def _has_no_huge_pages() -> bool:
    pool = read_pool(0)
    return pool is None or pool.available == 0


async def _is_refused(member: Member, now: DesiredSettings) -> None:
    """Check what PostgreSQL refuses: one line each, with name, value and what is accepted."""

    def with_(**parameters: str) -> DesiredSettings:
        return msgspec.structs.replace(now, version=3, parameters=now.parameters | parameters)

    for wanted, parts in (
        (with_(work_mem="banana"), ('"work_mem" cannot be "banana"', "64 to 2147483647", "kB")),
        (with_(work_mem="1kB"), ('"work_mem" cannot be "1kB"', "64 to 2147483647")),
        (with_(random_page_cost="-1"), ('"random_page_cost" cannot be "-1"', "0 to ")),
        (with_(track_functions="some"), ('"track_functions" cannot be "some"', "none, pl, all")),
        (with_(jit="perhaps"), ('"jit" cannot be "perhaps"', "on and off")),
        (with_(timezone="Mars/Base"), ('cannot be "Mars/Base"',)),
        (with_(no_such_parameter="1"), ('no parameter "no_such_parameter"',)),
        (with_(block_size="8192"), ('"block_size" cannot be changed',)),
        (with_(shared_preload_libraries="no_such_library"), ("no_such_library",)),
        (with_(session_preload_libraries="plpgsql, no_such_library"), ("no_such_library",)),
        (with_(local_preload_libraries="no_such_library"), ("plugins/no_such_library",)),
        (with_(archive_library="no_such_library"), ("no_such_library",)),
        (with_(ssl="on", ssl_cert_file="/no/such.crt"), ("SSL is not supported",) if BUNDLED else ("/no/such.crt",)),
        (with_(allow_in_place_tablespaces="off"), ("inside the data directory",)),
        (with_(shared_buffers="900GB"), ("shared memory", "lower shared_buffers")),
        (with_(huge_pages="on", shared_memory_type="sysv"), ("would not start", "huge pages not supported")),
        *(((with_(huge_pages="on"), ('"huge_pages" cannot be "on"', "huge pages")),) if _has_no_huge_pages() else ()),
        (with_(max_connections="120"), ("cannot be lowered to 120 while the writer has 150",)),
        (with_(full_page_writes="off"), ("acknowledged that can be lost",)),
        (
            msgspec.structs.replace(now, version=3, hba=("host all all all nonsense",)),
            ("nonsense", "invalid authentication method"),
        ),
        (msgspec.structs.replace(now, version=3, hba=("host all all all trust",)), ("proves who they are",)),
    ):
        refused = (await check(member, wanted, now)).refused
        assert refused is not None, wanted
        assert "\n" not in refused
        for part in parts:
            assert part in refused
    for wanted in (
        with_(**{"my.setting": "x"}),
        with_(max_connections="155"),
        with_(wal_level="logical"),
        with_(log_line_prefix="it's %m "),
        with_(shared_preload_libraries="plpgsql", session_preload_libraries='plpgsql, "plpgsql"'),
    ):
        assert (await check(member, wanted, now)).refused is None, wanted


async def test_greater_settings_of_a_new_writer_do_not_stop_the_others() -> None:
    async with running_members(3) as cluster:
        n1, n2, n3 = cluster.members
        await cluster.found()
        for member in (n2, n3):
            await cluster.clone(member, n1)
        cluster.voters = await cluster.voters_of([n1, n2, n3], 2)
        await cluster.settings(n1, cluster.voters)

        await configure(cluster, n2, desired(1, max_connections="170", wal_level="logical"))
        await restart(cluster, n2)
        await cluster.streaming(n2)
        assert await shown(cluster, n2, "max_connections") == "170"
        before = (await n3.observe()).postmaster.pid

        # The writer is lost before the others were restarted, or were even told.
        cluster.epoch = 2
        for member in cluster.members:
            await cluster.promise(member)
        await cluster.follow(n3, n2)
        await cluster.promote(n2, 3)
        await cluster.follow(n1, n2)
        await n3.until(lambda o: o.postmaster.pid not in (None, before) and o.receiver and o.receiver.streaming, 60)
        await cluster.streaming(n1)
        await cluster.sql(n2, "CREATE TABLE after_all (x int)")
        for member in (n1, n3):
            end = await cluster.wal_end(n2)
            await member.until(lambda o, end=end: o.replayed_lsn is not None and o.replayed_lsn >= end, 60)
            assert await shown(cluster, member, "max_connections") == "170"
            assert await cluster.sql(member, "SELECT * FROM after_all") == []

        # Down again is not possible, not even by an order that comes past the check: the WAL demands it.
        await configure(cluster, n3, desired(2, max_connections="60"))
        await restart(cluster, n3)
        await cluster.streaming(n3)
        assert await shown(cluster, n3, "max_connections") == "170"

        # wal_level may go down unless a logical slot needs it.
        lower, upper = desired(2, max_connections="170"), desired(1, max_connections="170", wal_level="logical")
        assert (await check(n2, lower, upper)).refused is None
        await cluster.sql(n2, "SELECT pg_create_logical_replication_slot('feed', 'pgoutput')")
        refused = (await check(n2, lower, upper)).refused
        assert refused is not None
        assert '"feed"' in refused
