"""What the manager relies on in a store, whatever it is made of.

Each implementation adds an entry to STORES: how to open the store at a place, the same place being the same store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing
from pathlib import Path

import msgspec
import pytest

from cluster_manager.store.embedded import EmbeddedStore
from cluster_manager.store.store import LeaseLost, Store, StoreHeld, WriteResult
from pgtopology.desired_nodes import DesiredNode, DesiredNodes, Wish
from pgtopology.document import Topology
from pgtopology.epoch import Revision
from pgtopology.node import NodeName
from testkit.documents import document

DEADLINE_S = 10.0

Open = Callable[[Path], AbstractAsyncContextManager[Store]]


def open_embedded(place: Path) -> AbstractAsyncContextManager[Store]:
    return EmbeddedStore(place / "store.sqlite")


STORES: dict[str, Open] = {"embedded": open_embedded}


@pytest.fixture(params=sorted(STORES))
def open_store(request: pytest.FixtureRequest) -> Open:
    return STORES[request.param]


async def test_a_new_store_is_empty(open_store: Open, tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        assert await store.read() is None


async def test_what_was_written_is_read_and_survives_reopening(open_store: Open, tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await store.acquire("m1")
        assert await store.write(document(revision=1), expected=None) == WriteResult(written=True, stored=document(revision=1))
        assert await store.write(document(revision=2), expected=Revision(1))
        assert await store.read() == document(revision=2)
    async with open_store(tmp_path) as store:
        assert await store.read() == document(revision=2)


async def test_a_write_upon_another_revision_is_refused_with_what_is_there(open_store: Open, tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await store.acquire("m1")
        await store.write(document(revision=1), expected=None)
        await store.write(document(revision=2), expected=Revision(1))
        for expected in (None, Revision(1), Revision(3)):
            result = await store.write(document(revision=9, cluster="other"), expected=expected)
            assert not result
            assert result.stored == document(revision=2)
        assert await store.read() == document(revision=2)


async def test_a_write_upon_a_revision_of_an_empty_store_is_refused(open_store: Open, tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await store.acquire("m1")
        assert await store.write(document(revision=2), expected=Revision(1)) == WriteResult(written=False, stored=None)
        assert await store.read() is None


async def test_a_revision_that_does_not_grow_is_a_bug(open_store: Open, tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await store.acquire("m1")
        await store.write(document(revision=5), expected=None)
        for revision in (4, 5):
            with pytest.raises(ValueError, match="not greater"):
                await store.write(document(revision=revision), expected=Revision(5))
        # A manager that found a store behind its nodes goes beyond everything seen.
        assert await store.write(document(revision=50), expected=Revision(5))


async def test_one_of_many_concurrent_writes_upon_one_revision_is_made(open_store: Open, tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await store.acquire("m1")
        await store.write(document(revision=1), expected=None)
        async with asyncio.TaskGroup() as group:
            new = [document(revision=2, cluster=f"c{n}") for n in range(8)]
            writes = [group.create_task(store.write(each, expected=Revision(1))) for each in new]
        made = [each for each, write in zip(new, writes, strict=True) if write.result()]
        assert len(made) == 1
        assert await store.read() == made[0]
        assert all(write.result().stored == made[0] for write in writes)


async def test_a_write_needs_the_lease(open_store: Open, tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        assert not store.lease.held
        assert store.lease.remaining_ms == 0
        with pytest.raises(LeaseLost):
            await store.write(document(revision=1), expected=None)
        state = await store.acquire("m1")
        assert (state.held, state.holder) == (True, "m1")
        assert state.remaining_ms > 0
        assert (await store.keep()).held
        assert store.lease.held
        assert await store.write(document(revision=1), expected=None)
        await store.release()
        assert not store.lease.held
        assert not (await store.keep()).held
        with pytest.raises(LeaseLost):
            await store.write(document(revision=2), expected=Revision(1))
        assert await store.read() == document(revision=1)


async def test_two_managers_never_hold_the_lease_together(open_store: Open, tmp_path: Path) -> None:
    async with open_store(tmp_path) as first:
        assert (await first.acquire("m1")).held
        async with AsyncExitStack() as stack:
            try:
                second = await stack.enter_async_context(open_store(tmp_path))
            except StoreHeld:
                pass  # as good an answer, from a store for one manager
            else:
                assert not (await second.acquire("m2")).held
                with pytest.raises(LeaseLost):
                    await second.write(document(revision=1), expected=None)
        assert (await first.keep()).held
        assert await first.write(document(revision=1), expected=None)
    async with open_store(tmp_path) as second:
        assert (await second.acquire("m2")).held
        assert await second.read() == document(revision=1)


async def test_a_watcher_sees_the_newest_and_may_miss_what_was_between(open_store: Open, tmp_path: Path) -> None:
    async with open_store(tmp_path) as store, aclosing(store.watch(None)) as watch:
        await store.acquire("m1")
        await store.write(document(revision=1), expected=None)
        async with asyncio.timeout(DEADLINE_S):
            assert await anext(watch) == document(revision=1)
            for revision in (2, 3):
                await store.write(document(revision=revision), expected=Revision(revision - 1))
            seen = [await anext(watch)]
            while seen[-1].revision < 3:
                seen.append(await anext(watch))
        assert [each.revision for each in seen] in ([3], [2, 3])


async def test_a_watcher_that_waits_is_woken(open_store: Open, tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await store.acquire("m1")
        await store.write(document(revision=1), expected=None)

        async def first_after_1() -> Topology:
            async with aclosing(store.watch(Revision(1))) as watch:
                return await anext(watch)

        async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
            watching = group.create_task(first_after_1())
            await asyncio.sleep(0)
            assert not watching.done()
            await store.write(document(revision=2), expected=Revision(1))
        assert watching.result() == document(revision=2)


async def test_a_large_document_passes(open_store: Open, tmp_path: Path) -> None:
    big = msgspec.structs.replace(document(revision=1), cluster="x" * 100_000)
    async with open_store(tmp_path) as store:
        await store.acquire("m1")
        assert await store.write(big, expected=None)
        assert await store.read() == big


def desired(revision: int, *names: str) -> DesiredNodes:
    nodes = tuple(DesiredNode(name=NodeName(name), zone="az1", wish=Wish.LEAVING, purge=True) for name in names)
    return DesiredNodes(revision=revision, nodes=nodes)


async def test_desired_nodes_are_a_record_of_their_own_that_survives_reopening(open_store: Open, tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await store.acquire("m1")
        assert await store.read_desired() is None
        assert await store.write(document(revision=Revision(7)), expected=None)
        assert await store.write_desired(desired(1, "n1"), expected=None)
        assert await store.write_desired(desired(2, "n1", "n2"), expected=1)
        assert await store.read() == document(revision=Revision(7))
    async with open_store(tmp_path) as store:
        assert await store.read_desired() == desired(2, "n1", "n2")


async def test_desired_nodes_are_compared_and_swapped(open_store: Open, tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await store.acquire("m1")
        assert not await store.write_desired(desired(2), expected=1), "there is no record"
        assert await store.write_desired(desired(1, "n1"), expected=None)
        for expected in (None, 3):
            assert not await store.write_desired(desired(9), expected=expected)
        with pytest.raises(ValueError, match="not greater"):
            await store.write_desired(desired(1), expected=1)
        assert await store.read_desired() == desired(1, "n1")


async def test_desired_nodes_are_written_with_the_lease_only(open_store: Open, tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        with pytest.raises(LeaseLost):
            await store.write_desired(desired(1), expected=None)
        await store.acquire("m1")
        assert await store.write_desired(desired(1), expected=None)
        await store.release()
        with pytest.raises(LeaseLost):
            await store.write_desired(desired(2), expected=1)
        assert await store.read_desired() == desired(1)
