"""Whether a session that is lost may have committed: by transcripts of what its client sent, and when the server was ready."""

from __future__ import annotations

import struct

import pytest

from endpointd.relay.block import NAMES_MAX, may_end
from endpointd.relay.facts import Doing
from endpointd.relay.relaxed import Relaxed
from endpointd.relay.safepoint import SafePoint
from pgwire.framing import COLLECTED_BYTES_MAX
from pgwire.messages import SYNC, Frontend, message, query, ready_for_query

Step = bytes | str
"""What the client sends, or the status with which the server is ready."""


def parse(text: str, name: str = "") -> bytes:
    return message(Frontend.PARSE, f"{name}\0{text}\0".encode() + struct.pack(">H", 0))


def bind(name: str = "", portal: str = "") -> bytes:
    return message(Frontend.BIND, f"{portal}\0{name}\0".encode() + struct.pack(">HHH", 0, 0, 0))


def execute(portal: str = "") -> bytes:
    return message(Frontend.EXECUTE, f"{portal}\0".encode() + struct.pack(">I", 0))


def run(text: str) -> bytes:
    return parse(text) + bind() + execute()


BEGUN: tuple[Step, ...] = ("I", query("begin"), "T")
INSERT, COMMIT = query("insert into t values (1)"), query("commit")

HARMLESS: dict[str, tuple[Step, ...]] = {
    "a statement in a block": (*BEGUN, INSERT),
    "in a failed block": ("I", query("begin"), "T", query("no"), "E", query("select 1")),
    "several of them": (*BEGUN, INSERT, INSERT, "T"),
    "a pipeline of them": (*BEGUN, run("select 1") + SYNC + run("select 2") + SYNC, "T"),
    "by the extended protocol": (*BEGUN, run("insert into t values ($1)") + SYNC),
    "and not synced yet": (*BEGUN, run("insert into t values ($1)")),
    "copy": (*BEGUN, query("copy t from stdin"), message(Frontend.COPY_DATA, b"commit\n")),
    "a function call": (*BEGUN, message(Frontend.FUNCTION_CALL, b"1234")),
    "words that only look like it": (*BEGUN, query("select pg_terminate_backend(1), committed, vendor, rollbacks from t")),
    "half a COMMIT": (*BEGUN, COMMIT[:-1]),
    "in the next block": (*BEGUN, COMMIT, "I", query("begin"), "T", INSERT),
    "another statement, where COMMIT was prepared": (
        *BEGUN, parse("commit", "S_1") + SYNC, "T", parse("select 1", "S_2") + bind("S_2") + execute() + SYNC,
    ),
    "another unnamed one, where COMMIT was one": (
        *BEGUN, run("commit") + SYNC, "I", query("begin"), "T", run("select 1") + SYNC,
    ),
}  # fmt: skip

ENDINGS: dict[str, tuple[Step, ...]] = {
    "outside a block": ("I", INSERT),
    "before the first answer": (INSERT,),
    "BEGIN is not answered yet": ("I", query("begin"), INSERT, "T"),
    "COMMIT": (*BEGUN, COMMIT),
    "in any case": (*BEGUN, query("CoMmIt")),
    "END": (*BEGUN, query("end")),
    "behind a comment": (*BEGUN, query("/**/commit/**/")),
    "PREPARE TRANSACTION": (*BEGUN, query("prepare transaction 'x'")),
    "what follows ROLLBACK": (*BEGUN, query("rollback; insert into t values (1)")),
    "what follows ABORT": (*BEGUN, query("insert into t values (1);abort;insert into t values (1)")),
    "behind others": (*BEGUN, INSERT, COMMIT, "T"),
    "before others": (*BEGUN, COMMIT, INSERT),
    "too long to be seen whole": (*BEGUN, query("select '" + "x" * COLLECTED_BYTES_MAX + "'; commit")),
    "by the extended protocol": (*BEGUN, run("commit") + SYNC),
    "and not synced yet": (*BEGUN, run("commit")),
    "not synced while another is answered": (*BEGUN, INSERT, run("commit"), "T"),
    "the same, with data behind it": (*BEGUN, INSERT, run("commit") + message(Frontend.COPY_DATA, b""), "T"),
    "prepared before": ("I", parse("commit", "S_1") + SYNC, *BEGUN, bind("S_1") + execute() + SYNC),
    "prepared before and executed while another is answered": (
        "I", parse("commit", "S_1") + SYNC, *BEGUN, INSERT, bind("S_1") + execute(), "T",
    ),
    "prepared without a name before": ("I", parse("commit") + SYNC, *BEGUN, bind() + execute() + SYNC),
    "the new unnamed one may have been skipped": (
        "I", parse("commit") + SYNC, *BEGUN, parse("select 1") + SYNC, "E", bind() + execute() + SYNC,
    ),
    "bound before": (
        "I", parse("commit", "S_1") + SYNC, *BEGUN, bind("S_1") + SYNC, "T", execute() + SYNC,
    ),
    "bound before to a portal with a name": (
        "I", parse("commit", "S_1") + SYNC, *BEGUN, bind("S_1", "P") + SYNC, "T", execute("P") + SYNC,
    ),
    "bound in the chunk that prepared it": (
        *BEGUN, parse("commit", "S_1") + bind("S_1", "P") + SYNC, "T", execute("P") + SYNC,
    ),
}  # fmt: skip


def play(steps: tuple[Step, ...], *, trickle: bool, watched: bool = True) -> SafePoint:
    point = SafePoint(Relaxed.NONE if watched else None)
    for step in steps:
        if isinstance(step, str):
            point.server_sent(ready_for_query(step))
        else:
            for part in [step[i : i + 1] for i in range(len(step))] if trickle else [step]:
                point.client_sent(part)
    return point


@pytest.mark.parametrize("name", HARMLESS)
@pytest.mark.parametrize("trickle", [False, True])
def test_inside_a_block_nothing_is_committed(name: str, trickle: bool) -> None:
    point = play(HARMLESS[name], trickle=trickle)
    assert point.doing is Doing.BUSY
    assert not point.may_have_committed


@pytest.mark.parametrize("name", ENDINGS)
@pytest.mark.parametrize("trickle", [False, True])
def test_whatever_may_end_the_block_may_have_committed(name: str, trickle: bool) -> None:
    point = play(ENDINGS[name], trickle=trickle)
    assert point.doing is Doing.BUSY
    assert point.may_have_committed


@pytest.mark.parametrize("name", [*HARMLESS, *ENDINGS])
def test_whoever_is_not_looked_through_may_always_have(name: str) -> None:
    assert play({**HARMLESS, **ENDINGS}[name], trickle=False, watched=False).may_have_committed


def test_a_client_with_too_many_endings_is_believed_to_do_anything() -> None:
    many = b"".join(parse("commit", f"S_{number}") for number in range(NAMES_MAX + 1))
    point = play((*BEGUN, many + SYNC, "T", run("select 1") + SYNC), trickle=False)
    assert point.may_have_committed


@pytest.mark.parametrize("text", [b"commit", b"COMMIT;", b"\tend\n", b"x;prepare transaction 'a'", b"--\nabort", b"'a'commit"])
def test_words_that_end_a_block_are_found(text: bytes) -> None:
    assert may_end(text)
