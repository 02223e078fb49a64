"""The native pooler where clients and servers do not keep to turns: said in one write, half said, cancelled, gone.

The server is the test: what it is told and what it answers stands here, byte for byte.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Iterator

import pytest

from pgwire.messages import SYNC, Backend, Frontend, error_response, message, query, ready_for_query

_native = pytest.importorskip("endpointd.relay._native", reason="there is no native engine")

QUESTION, WANTS_SERVER, NOT_UNDERSTOOD, LIMIT, GONE, SERVER_GONE = 1 << 9, 1 << 14, 1 << 4, 1 << 12, 1 << 8, 1 << 13
PINS = 2
"""A verdict: for whatever reason."""


def parse(name: bytes, text: bytes) -> bytes:
    return message(Frontend.PARSE, name + b"\0" + text + b"\0\0\0")


def bind(name: bytes) -> bytes:
    return message(Frontend.BIND, b"\0" + name + b"\0" + bytes(6))


EXECUTE, FLUSH, TERMINATE = message(Frontend.EXECUTE, bytes(5)), message(Frontend.FLUSH), message(Frontend.TERMINATE)
DONE = {kind: message(answer) for kind, answer in zip(b"PBC", b"123", strict=True)}


def tag(words: bytes) -> bytes:
    return message(Backend.COMMAND_COMPLETE, words + b"\0")


def kinds(data: bytes) -> bytes:
    """Return the kinds of the messages in *data*."""
    found = b""
    while data:
        found += data[:1]
        data = data[1 + int.from_bytes(data[1:5], "big") :]
    return found


class Stage:
    """A pooler with one pool, whose servers are the test's."""

    def __init__(self, size: int = 1) -> None:
        self.core = _native.Pooler()
        self.pool = self.core.add_pool(size, 0, 100, 0, 0, 0)
        self.servers: list[socket.socket] = []
        self.news: list[tuple[int, int]] = []

    def come(self) -> tuple[socket.socket, int]:
        here, there = socket.socketpair()
        there.setblocking(False)
        return here, self.core.add_client(self.pool, there.detach(), None, _native.NOT_WATCHED, b"")

    def heed(self) -> None:
        """Do what the pooler asks of its owner."""
        while (told := self.core.next()) is not None:
            handle, what, number, text = told
            self.news.append((handle, what))
            if what == WANTS_SERVER:
                for _ in range(number):
                    here, there = socket.socketpair()
                    there.setblocking(False)
                    self.core.add_server(self.pool, there.detach(), None, False)
                    self.servers.append(here)
            elif what == QUESTION:
                self.core.judged(handle, text, PINS if text.lower().startswith(b"set") else 0)

    def until(self, is_so: object) -> None:
        assert callable(is_so)
        deadline = time.monotonic() + 20
        while not is_so():
            assert time.monotonic() < deadline, self.news
            self.heed()
            time.sleep(0.002)

    def has(self, what: int) -> bool:
        return any(told == what for _, told in self.news)

    def read(self, end: socket.socket, count: int) -> bytes:
        """Return the next *count* messages that come to *end*."""
        data = b""

        def is_whole() -> bool:
            nonlocal data
            if len(kinds(data)) < count and select.select([end], [], [], 0)[0]:
                data += end.recv(1 << 16)
            return len(kinds(data)) >= count

        self.until(is_whole)
        return data

    def is_silent(self, end: socket.socket) -> bool:
        """Return whether nothing comes to *end* though the pooler has had its turns."""
        for _ in range(20):
            self.heed()
            time.sleep(0.005)
        return not select.select([end], [], [], 0)[0]

    def ask(self, client: socket.socket, said: bytes, heard: int, answer: bytes, count: int) -> bytes:
        """Have *client* say what is *heard* messages for the server, which answers; return these, and read *count* answers."""
        client.sendall(said)
        self.until(lambda: self.servers)
        told = self.read(self.servers[-1], heard)
        self.servers[-1].sendall(answer)
        assert len(kinds(self.read(client, count))) == count
        return told

    def facts(self) -> dict[str, int]:
        names = ("clients", "waiting", "pinned", "servers", "idle")
        return dict(zip(names, self.core.pool_facts(self.pool), strict=False))


@pytest.fixture
def stage() -> Iterator[Stage]:
    made = Stage()
    yield made
    for each in made.servers:
        each.close()


def is_forgotten(stage: Stage) -> bool:
    try:
        stage.facts()
    except KeyError:
        return True
    return False


def test_a_closed_pool_is_there_until_the_last_end_is_closed(stage: Stage) -> None:
    client, handle = stage.come()
    stage.ask(client, query("select 1"), 1, tag(b"SELECT 1") + ready_for_query("I"), 2)
    stage.core.close_pool(stage.pool)
    stage.core.drop(handle, error_response("FATAL", "57P01", ""))
    assert kinds(stage.read(client, 1)) == b"E"
    assert not is_forgotten(stage), "its client has not closed its end"
    client.close()
    stage.until(lambda: stage.has(GONE) and stage.has(SERVER_GONE))
    stage.servers[0].close()
    stage.until(lambda: is_forgotten(stage))


@pytest.mark.parametrize("behind", [query("set a = 1"), parse(b"s", b"set a = 1") + SYNC], ids=["Query", "Parse"])
def test_a_setting_behind_discard_all_in_one_write_pins(stage: Stage, behind: bytes) -> None:
    client, handle = stage.come()
    stage.ask(client, query("set a = 1"), 1, tag(b"SET") + ready_for_query("I"), 2)
    assert stage.facts()["pinned"] == 1
    answers = (
        tag(b"DISCARD ALL")
        + ready_for_query("I")
        + (tag(b"SET") if behind[:1] == b"Q" else DONE[ord("P")])
        + ready_for_query("I")
    )
    stage.ask(client, query("discard all") + behind, 2 if behind[:1] == b"Q" else 3, answers, 4)
    assert stage.facts()["pinned"] == 1
    assert stage.core.standing(handle)[1] == PINS


def test_a_setting_that_is_prepared_without_a_name_pins_though_discard_all_comes_first(stage: Stage) -> None:
    client, _ = stage.come()
    stage.ask(client, parse(b"d", b"discard all") + SYNC, 2, DONE[ord("P")] + ready_for_query("I"), 2)
    stage.ask(client, parse(b"", b"set a = 1") + SYNC, 2, DONE[ord("P")] + ready_for_query("I"), 2)
    client.sendall(bind(b"d") + EXECUTE + SYNC)
    told = stage.read(stage.servers[0], 4)
    answers = b"".join(
        tag(b"DISCARD ALL") if kind == ord("E") else DONE.get(kind, b"") for kind in kinds(told)
    ) + ready_for_query("I")
    stage.servers[0].sendall(answers)
    stage.read(client, 3)
    assert stage.facts()["pinned"] == 1


def test_discard_all_by_itself_ends_the_pin(stage: Stage) -> None:
    client, _ = stage.come()
    stage.ask(
        client,
        parse(b"", b"set a = 1") + bind(b"") + EXECUTE + SYNC,
        4,
        DONE[ord("P")] + DONE[ord("B")] + tag(b"SET") + ready_for_query("I"),
        4,
    )
    stage.ask(client, query("discard all"), 1, tag(b"DISCARD ALL") + ready_for_query("I"), 2)
    stage.until(lambda: stage.facts()["pinned"] == 0)


def test_a_sync_that_copy_swallows_shifts_no_answer(stage: Stage) -> None:
    client, _ = stage.come()
    other, _ = stage.come()
    stage.ask(client, query("begin"), 1, tag(b"BEGIN") + ready_for_query("T"), 2)
    copy = parse(b"", b"copy t from stdin") + bind(b"") + EXECUTE + SYNC
    stage.ask(client, copy, 4, DONE[ord("P")] + DONE[ord("B")] + message(Backend.COPY_IN_RESPONSE, b"\0\0\0"), 3)
    data = message(Frontend.COPY_DATA, b"1\n") + message(Frontend.COPY_DONE) + SYNC
    # What follows in the same write counts too.
    answers = tag(b"COPY 1") + ready_for_query("T") + error_response("ERROR", "42P01", "") + ready_for_query("E")
    stage.ask(client, data + parse(b"st", b"select * from later") + SYNC, 5, answers, 4)
    stage.ask(client, query("rollback"), 1, tag(b"ROLLBACK") + ready_for_query("I"), 2)
    told = stage.ask(
        other, parse(b"mine", b"select * from later") + SYNC, 2, error_response("ERROR", "42P01", "") + ready_for_query("I"), 2
    )
    assert kinds(told) == b"PS", "nobody has prepared it"


@pytest.mark.parametrize(
    ("said", "heard", "answer", "count"),
    [
        (parse(b"", b"bad") + query("select 1") + SYNC, 3, error_response("ERROR", "42601", "") + ready_for_query("I"), 2),
        (
            parse(b"", b"copy t from stdin")
            + bind(b"")
            + EXECUTE
            + SYNC
            + message(Frontend.COPY_DATA, b"1\n")
            + message(Frontend.COPY_DONE)
            + SYNC,
            7,
            DONE[ord("P")]
            + DONE[ord("B")]
            + message(Backend.COPY_IN_RESPONSE, b"\0\0\0")
            + tag(b"COPY 1")
            + ready_for_query("I"),
            5,
        ),
    ],
    ids=["a Query behind an error", "COPY in one write"],
)
def test_who_leaves_while_an_answer_seems_to_be_due_keeps_no_server(
    stage: Stage, said: bytes, heard: int, answer: bytes, count: int
) -> None:
    client, _ = stage.come()
    stage.ask(client, said, heard, answer, count)
    client.close()
    assert stage.read(stage.servers[0], 1) == TERMINATE


def test_a_server_that_has_closed_its_end_behind_an_answer_is_given_to_nobody(stage: Stage) -> None:
    for number in range(20):
        client, handle = stage.come()
        client.sendall(query("select 1"))
        stage.until(lambda wanted=number + 1: len(stage.servers) == wanted)
        stage.read(stage.servers[-1], 1)
        stage.servers[-1].sendall(tag(b"SELECT 1") + ready_for_query("I"))
        stage.servers[-1].close()
        assert kinds(stage.read(client, 2)) == b"CZ"
        stage.until(lambda: stage.facts()["servers"] == 0)
        stage.core.drop(handle, b"")
        client.close()


def test_what_a_server_says_behind_the_last_answer_is_not_for_its_client(stage: Stage) -> None:
    client, _ = stage.come()
    client.sendall(query("select 1"))
    stage.until(lambda: stage.servers)
    stage.read(stage.servers[0], 1)
    stage.servers[0].sendall(tag(b"SELECT 1") + ready_for_query("I") + error_response("FATAL", "57P01", ""))
    assert kinds(stage.read(client, 2)) == b"CZ"
    assert stage.is_silent(client)
    stage.until(lambda: stage.facts()["servers"] == 0)
    client.sendall(query("select 2"))
    stage.until(lambda: len(stage.servers) == 2)
    assert stage.read(stage.servers[1], 1) == query("select 2")


@pytest.mark.parametrize("kind", [b"\0", b"p", b"\xff"])
def test_what_is_no_message_of_a_client_comes_to_no_server(stage: Stage, kind: bytes) -> None:
    client, _ = stage.come()
    stage.ask(client, query("select 1"), 1, tag(b"SELECT 1") + ready_for_query("I"), 2)
    client.sendall(message(kind[0]))
    stage.until(lambda: stage.has(NOT_UNDERSTOOD))
    assert stage.is_silent(stage.servers[0])


def test_a_cancelled_wait_is_told_to_who_said_flush_and_ended_by_its_sync(stage: Stage) -> None:
    first, _ = stage.come()
    stage.ask(first, query("begin"), 1, tag(b"BEGIN") + ready_for_query("T"), 2)
    second, handle = stage.come()
    second.sendall(parse(b"x", b"select 1") + FLUSH)
    stage.until(lambda: stage.facts()["waiting"] == 1)
    assert stage.core.cancel_begins(handle) == 0
    assert kinds(stage.read(second, 1)) == b"E"
    assert stage.is_silent(second)
    second.sendall(bind(b"x") + FLUSH + SYNC)
    assert stage.read(second, 1) == ready_for_query("I")
    stage.ask(first, query("commit"), 1, tag(b"COMMIT") + ready_for_query("I"), 2)
    stage.ask(second, query("select 1"), 1, tag(b"SELECT 1") + ready_for_query("I"), 2)


@pytest.mark.parametrize(
    ("before", "heard"),
    [(query("alter table t add c int"), 4), (parse(b"", b"x") + bind(b"") + EXECUTE, 6)],
    ids=["Query", "Execute"],
)
def test_a_statement_behind_something_in_one_write_is_prepared_anew(stage: Stage, before: bytes, heard: int) -> None:
    client, _ = stage.come()
    other, _ = stage.come()
    stage.ask(client, parse(b"a", b"select * from t") + SYNC, 2, DONE[ord("P")] + ready_for_query("I"), 2)
    other.sendall(before + parse(b"b", b"select * from t") + SYNC)
    told = kinds(stage.read(stage.servers[0], heard))
    assert told[-3:] == b"CPS", "closed, and prepared by whoever executes what stands before"


def test_the_name_of_another_clients_statement_is_nobodys(stage: Stage) -> None:
    client, _ = stage.come()
    other, _ = stage.come()
    told = stage.ask(client, parse(b"a", b"select 1") + SYNC, 2, DONE[ord("P")] + ready_for_query("I"), 2)
    name = told[5 : told.index(b"\0", 5)]
    told = stage.ask(other, bind(name) + EXECUTE + SYNC, 3, error_response("ERROR", "26000", "") + ready_for_query("I"), 2)
    assert name not in told


@pytest.mark.parametrize("kind", [b"d", b"H"])
def test_nothing_is_kept_of_a_huge_message_that_no_server_needs(stage: Stage, kind: bytes) -> None:
    client, handle = stage.come()
    client.sendall(kind + (1 << 30).to_bytes(4, "big"))
    for _ in range(40):
        client.sendall(bytes(1 << 18))
    stage.until(lambda: stage.core.facts(handle)[2] == 0)


def test_statements_of_one_client_have_a_limit_in_bytes(stage: Stage) -> None:
    client, _ = stage.come()
    text = b"select '" + b"x" * 900_000 + b"'"
    client.setblocking(False)

    def is_stopped() -> bool:
        for each in (client, *stage.servers):
            while select.select([each], [], [], 0)[0] and each.recv(1 << 20):
                pass
        if not stage.has(LIMIT) and pending:
            with contextlib.suppress(BlockingIOError):
                del pending[: client.send(bytes(pending[: 1 << 20]))]
            for each in stage.servers:
                each.setblocking(False)
        return stage.has(LIMIT)

    pending = bytearray(b"".join(parse(b"%d" % number, text) for number in range(90)))
    stage.until(is_stopped)
