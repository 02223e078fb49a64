"""Operators' orders in the journal: who, what, and whether it was accepted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from cluster_manager.api.acts import Acts
from cluster_manager.record.journal import Journal
from daemonkit.httperrors import ApiError, json_response
from daemonkit.httpserver import HttpServer
from pgtopology.act import act_headers
from pgtopology.epoch import Epoch
from pgtopology.event import Event

TOKEN = "t"


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "journal.jsonl") as found:
        yield found


async def orders(journal: Journal, *requests: tuple[str, dict[str, str]], body: bytes = b"") -> list[Event]:
    """Give the orders to a server of the test's and return the events that came of them."""

    async def accept(_: web.Request) -> web.Response:
        return json_response(b"{}", 202)

    async def refuse(_: web.Request) -> web.Response:
        raise ApiError(409, "refused", "it is the writer")

    acts = Acts(journal, lambda: Epoch(7))
    routes = [
        web.post("/pause", acts.recorded("operator.pause", accept)),
        web.post("/nodes/{name}/stop", acts.recorded("operator.node", refuse)),
        web.post("/switchover", acts.recorded("operator.switchover", accept)),
        web.post("/config", acts.recorded("operator.config", refuse)),
    ]
    async with (
        HttpServer(host="127.0.0.1", port=0, token=TOKEN, routes=routes) as server,
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as session,
    ):
        for path, headers in requests:
            async with session.post(f"http://127.0.0.1:{server.port}{path}", headers=headers, data=body) as response:
                await response.read()
    return journal.since(0)


async def test_an_accepted_order_says_who_and_by_which_command(journal: Journal) -> None:
    [event] = await orders(journal, ("/pause", act_headers("jörg@db1", "endpointctl pause")))
    assert (event.kind, event.epoch, event.message) == ("operator.pause", 7, "jörg@db1: endpointctl pause")
    assert event.fields == {
        "operator": "jörg@db1",
        "command": "endpointctl pause",
        "address": "127.0.0.1",
        "accepted": True,
    }


async def test_a_refused_order_says_why_and_of_which_node(journal: Journal) -> None:
    [event] = await orders(journal, ("/nodes/n2/stop", act_headers("a@b", "endpointctl node stop n2")))
    assert event.node == "n2"
    assert event.message == "a@b: endpointctl node stop n2 (refused: it is the writer)"
    assert (event.fields["accepted"], event.fields["reason"]) == (False, "it is the writer")


async def test_who_says_no_name_is_known_by_the_address(journal: Journal) -> None:
    [event] = await orders(journal, ("/pause", {}))
    assert event.message == "somebody at 127.0.0.1: POST /pause"


async def test_a_rehearsal_is_no_act(journal: Journal) -> None:
    who = act_headers("a@b", "endpointctl switchover --dry-run")
    assert await orders(journal, ("/switchover", who), body=b'{"to":"n2","dry_run":true}') == []
    assert await orders(journal, ("/config", who), body=b'{"check_only":true}') == []
    assert len(await orders(journal, ("/switchover", who), body=b'{"dry_run":false}')) == 1


async def test_an_order_that_is_refused_again_and_again_is_one_event(journal: Journal) -> None:
    who = act_headers("a@b", "endpointctl restart")
    again = [("/nodes/n2/stop", who)] * 3
    events = await orders(journal, *again, ("/pause", who), *again)
    assert [event.kind for event in events] == ["operator.node", "operator.pause", "operator.node"]
