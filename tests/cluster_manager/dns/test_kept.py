"""What names are answered from before the store has said anything."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cluster_manager.dns.kept import kept_document
from tests.cluster_manager.dns.documents import document
from tests.cluster_manager.dns.test_process import made, until_answered


async def test_a_server_begins_with_the_last_document_and_then_follows_the_store(tmp_path: Path) -> None:
    path = tmp_path / "topology.json"
    first = kept_document(path)
    writing = asyncio.create_task(first.run())
    first.keep(document(writer="n1", epoch=6))
    first.keep(document(writer="n3", epoch=9))
    async with asyncio.timeout(10):
        while kept_document(path).load() != document(writer="n3", epoch=9):
            await asyncio.sleep(0.01)
    writing.cancel()
    last = kept_document(path).load()
    assert last is not None
    async with made() as server:
        server.begin_with(last)
        await until_answered(server, "127.0.0.3")
        # A store that was set back, or that is another cluster's, still has the last word.
        server.update(document(writer="n1", epoch=7))
        await until_answered(server, "127.0.0.1")
        server.begin_with(last)
        server.update(document(writer="n2", epoch=7, revision=41))
        await until_answered(server, "127.0.0.2")


@pytest.mark.parametrize("text", ["", "{", '{"format_version": 99}'])
def test_a_copy_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "topology.json"
    assert kept_document(path).load() is None
    path.write_text(text)
    assert kept_document(path).load() is None


async def test_a_copy_that_cannot_be_written_is_no_end(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "topology.json"
    kept = kept_document(path)
    writing = asyncio.create_task(kept.run())
    kept.keep(document(writer="n1"))
    await asyncio.sleep(0.05)
    assert not writing.done()
    path.parent.mkdir()
    async with asyncio.timeout(10):
        while not path.exists():
            kept.keep(document(writer="n1"))
            await asyncio.sleep(0.01)
    writing.cancel()
