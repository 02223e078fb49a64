"""The native pooler against a model: what any client of few servers reads is what it would have read of a server of its own."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

_native = pytest.importorskip("endpointd.relay._native", reason="there is no native engine")

QUESTION, WANTS_SERVER, CLIENT_ENDED, GONE, SERVER_ENDED = 1 << 9, 1 << 14, 1 << 3, 1 << 8, 1 << 5


FORGET = (b"deallocate", b"DISCARD", b"UNLISTEN")
"""How statements begin that a portal runs once, and that is all."""


def message(kind: bytes, payload: bytes = b"") -> bytes:
    return kind + (len(payload) + 4).to_bytes(4, "big") + payload


class Backend:
    """A session of a server that knows transactions and prepared statements, and nothing else. Bytes in, bytes out."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._statements: dict[bytes, bytes] = {}
        self._portal: bytes | None = None
        self._skips = False
        self.status = b"I"

    def answer(self, data: bytes) -> bytes:
        self._data += data
        out = b""
        while len(self._data) >= 5:
            size = 1 + int.from_bytes(self._data[1:5], "big")
            if len(self._data) < size:
                break
            kind, payload = bytes(self._data[:1]), bytes(self._data[5:size])
            del self._data[:size]
            if not self._skips or kind in (b"S", b"X"):
                out += self._one(kind, payload)
        return out

    def _one(self, kind: bytes, payload: bytes) -> bytes:
        match kind:
            case b"Q":
                self._statements.pop(b"", None)
                out = self._run(payload[:-1], is_simple=True)
                self._portal = None if self.status == b"I" else self._portal
                return out + self._ready()
            case b"S":
                self._skips = False
                self._portal = None if self.status == b"I" else self._portal
                return self._ready()
            case b"P":
                return self._parse(*payload.split(b"\0")[:2])
            case b"B":
                return self._bind(payload.split(b"\0")[1])
            case b"D":
                name = payload[1:-1]
                if payload[:1] == b"S" and name not in self._statements:
                    return self._fail(b"26000")
                if payload[:1] == b"S" and self._refuses(self._statements[name]):
                    return self._fail(b"25P02")
                return message(b"t", b"\0\0") + message(b"n")
            case b"E":
                if self._portal is None:
                    return self._fail(b"34000")
                text = self._portal
                if text.split()[0] in FORGET:
                    self._portal = b"done"
                return self._fail(b"55000") if text == b"done" else self._run(text, is_simple=False)
            case b"C":
                self._statements.pop(payload[1:-1], None)
                return message(b"3")
            case _:
                return b""

    def _parse(self, name: bytes, text: bytes) -> bytes:
        if name == b"":
            self._statements.pop(b"", None)
        if text.startswith(b"bad"):
            return self._fail(b"42601")
        if self._refuses(text):
            return self._fail(b"25P02")
        if name in self._statements:
            return self._fail(b"42P05")
        self._statements[name] = text
        return message(b"1")

    def _bind(self, name: bytes) -> bytes:
        if name not in self._statements:
            return self._fail(b"26000")
        if self._refuses(self._statements[name]):
            return self._fail(b"25P02")
        self._portal = self._statements[name]
        return message(b"2")

    def _refuses(self, text: bytes) -> bool:
        return self.status == b"E" and text != b"commit"

    def _run(self, text: bytes, *, is_simple: bool) -> bytes:
        if self._refuses(text):
            return self._fail(b"25P02", skips=not is_simple)
        if text.split()[0] in FORGET:
            return self._forget(text.split(), skips=not is_simple)
        if text == b"begin":
            self.status = b"T" if self.status == b"I" else self.status
        elif text == b"commit":
            self.status = b"I"
        elif text == b"fail":
            return self._fail(b"22012", skips=not is_simple)
        elif text == b"alter":
            return message(b"C", b"ALTER TABLE\0")
        return message(b"D", b"\0\1" + len(text).to_bytes(4, "big") + text) + message(b"C", b"OK\0")

    def _forget(self, words: Sequence[bytes], *, skips: bool) -> bytes:
        unnamed = {name: text for name, text in self._statements.items() if name == b""}
        match words:
            case [b"deallocate", b"all"]:
                self._statements = unnamed
                return message(b"C", b"DEALLOCATE ALL\0")
            case [b"deallocate", name]:
                if name not in self._statements:
                    return self._fail(b"26000", skips=skips)
                del self._statements[name]
                return message(b"C", b"DEALLOCATE\0")
            case [b"DISCARD", _]:
                if self.status != b"I":
                    return self._fail(b"25001", skips=skips)
                self._statements = unnamed
                return message(b"C", b"DISCARD ALL\0")
            case _:
                return message(b"C", b"UNLISTEN\0")

    def _fail(self, sqlstate: bytes, *, skips: bool = True) -> bytes:
        self._skips = skips
        self.status = b"E" if self.status in (b"T", b"E") else self.status
        return message(b"E", b"SERROR\0VERROR\0C" + sqlstate + b"\0\0")

    def _ready(self) -> bytes:
        return message(b"Z", self.status)


def batch(parts: Sequence[bytes]) -> bytes:
    return b"".join(parts) + message(b"S")


NAMES = st.sampled_from([b"", b"a", b"b", b"a long name of a statement"])
FORGETTING = [b"deallocate a", b"deallocate b", b"deallocate all", b"DISCARD ALL"]
TEXTS = st.sampled_from(
    [b"select 1", b"select 2", b"bad", b"fail", b"begin", b"commit", b"update t set a = 1", b"alter", b"x" * 3000, *FORGETTING]
)
KNOWN = st.sampled_from([b"a", b"b", b"a long name of a statement"])
PARSE = st.tuples(KNOWN, TEXTS).map(lambda it: message(b"P", it[0] + b"\0" + it[1] + b"\0\0\0"))
BIND = NAMES.map(lambda name: message(b"B", b"\0" + name + b"\0\0\0\0\0\0\0"))
DESCRIBE = NAMES.map(lambda name: message(b"D", b"S" + name + b"\0"))
CLOSE = KNOWN.map(lambda name: message(b"C", b"S" + name + b"\0"))
EXECUTE = st.just(message(b"E", b"\0\0\0\0\0"))
RUN = NAMES.map(lambda name: message(b"B", b"\0" + name + b"\0\0\0\0\0\0\0") + message(b"E", b"\0\0\0\0\0"))
QUERY = st.sampled_from([b"select 3", b"begin", b"commit", b"fail", *FORGETTING]).map(lambda text: message(b"Q", text + b"\0"))
UNNAMED = TEXTS.map(lambda text: [message(b"P", b"\0" + text + b"\0\0\0")])
"""In front of a batch: what becomes of the last unnamed statement when another one is skipped is not followed."""
PARTS = st.lists(st.one_of(PARSE, PARSE, BIND, RUN, RUN, DESCRIBE, CLOSE, EXECUTE), min_size=1, max_size=6)
BATCH = st.tuples(st.one_of(st.just([]), UNNAMED), PARTS).map(lambda it: batch([*it[0], *it[1]]))
TURN = st.one_of(QUERY, BATCH, BATCH)
LAST = message(b"Q", b"commit\0")
CONVERSATION = st.lists(TURN, min_size=1, max_size=12).map(lambda turns: [*turns, LAST])


@dataclass
class Pooled:
    """A pool, its servers in threads, and what its owner does."""

    core: object = field(default_factory=_native.Pooler)
    size: int = 2
    statements_max: int = 2
    servers: list[threading.Thread] = field(default_factory=list)
    ends: list[socket.socket] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pool = self.core.add_pool(self.size, 0, self.statements_max, 0, 0, 0)  # type: ignore[attr-defined]
        self.told: list[tuple[int, int]] = []

    def come(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        self.core.add_client(self.pool, theirs.detach(), None, _native.NOT_WATCHED, b"")  # type: ignore[attr-defined]
        self.ends.append(ours)
        return ours

    def look_after(self) -> None:
        while (news := self.core.next()) is not None:  # type: ignore[attr-defined]
            handle, what, number, text = news
            if what == WANTS_SERVER:
                for _ in range(number):
                    self._dial()
            elif what == QUESTION:
                self.core.judged(handle, text, 0)  # type: ignore[attr-defined]
            else:
                self.told.append((handle, what))

    def _dial(self) -> None:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        thread = threading.Thread(target=_serve, args=(ours,), daemon=True)
        thread.start()
        self.servers.append(thread)
        self.core.add_server(self.pool, theirs.detach(), None, False)  # type: ignore[attr-defined]

    def close(self) -> None:
        for end in self.ends:
            end.close()
        deadline = time.monotonic() + 20
        self.core.close_pool(self.pool)  # type: ignore[attr-defined]
        for handle, what in self._until_all_have_ended(deadline):
            if what == CLIENT_ENDED:
                self.core.drop(handle, b"")  # type: ignore[attr-defined]
        for thread in self.servers:
            thread.join(20)
            assert not thread.is_alive()

    def _until_all_have_ended(self, deadline: float) -> Iterator[tuple[int, int]]:
        ended = 0
        while ended < len(self.ends):
            assert time.monotonic() < deadline
            self.look_after()
            while self.told:
                handle, what = self.told.pop()
                ended += what == CLIENT_ENDED
                yield handle, what
            time.sleep(0.001)


def _serve(end: socket.socket) -> None:
    backend = Backend()
    with end, contextlib.suppress(OSError):
        while data := end.recv(1 << 16):
            end.sendall(backend.answer(data))


def said(conversation: Sequence[bytes]) -> bytes:
    """Return what a server of its own answers."""
    backend = Backend()
    return b"".join(backend.answer(turn) for turn in conversation)


def chunks(data: bytes, sizes: Sequence[int]) -> Iterator[bytes]:
    pos = 0
    for number in range(len(data)):
        if pos >= len(data):
            return
        size = sizes[number % len(sizes)]
        yield data[pos : pos + size]
        pos += size


@settings(max_examples=100, deadline=None, suppress_health_check=(HealthCheck.too_slow,))
@given(
    conversations=st.lists(CONVERSATION, min_size=1, max_size=5),
    sizes=st.lists(st.sampled_from([1, 3, 7, 64, 5000]), min_size=1, max_size=4),
    size=st.integers(1, 3),
    statements_max=st.integers(1, 3),
    pipelined=st.booleans(),
)
def test_every_client_reads_what_it_would_read_of_a_server_of_its_own(
    conversations: list[list[bytes]], sizes: list[int], size: int, statements_max: int, pipelined: bool
) -> None:
    pooled = Pooled(size=size, statements_max=statements_max)
    try:
        clients = [pooled.come() for _ in conversations]
        wanted = [said(each) for each in conversations]
        unsent = [list(chunks(b"".join(each), sizes)) if pipelined else list(each) for each in conversations]
        heard = [b"" for _ in conversations]
        sent = [0 for _ in conversations]
        deadline = time.monotonic() + 30
        while heard != wanted:
            assert time.monotonic() < deadline, (heard, wanted)
            pooled.look_after()
            for number, client in enumerate(clients):
                is_answered = pipelined or len(heard[number]) == len(said(conversations[number][: sent[number]]))
                if unsent[number] and is_answered:
                    client.sendall(unsent[number].pop(0))
                    sent[number] += 1
            readable, _, _ = select.select(clients, [], [], 0.0005)
            for client in readable:
                heard[clients.index(client)] += client.recv(1 << 16)
            for number in range(len(clients)):
                assert wanted[number].startswith(heard[number]), (heard[number], wanted[number])
    finally:
        pooled.close()
