"""Was the cluster's word kept? Pure arithmetic over a history; every rule is one function that names what broke it.

The rules: no acknowledged write is lost; nothing is there that nobody sent, or that was refused, or twice; a write is whole
(list and register agree in every snapshot); the writer's endpoint shows at least what was acknowledged before it was asked, and
nothing that is gone afterwards; within one session nothing shrinks.  A reader's endpoint may be late, never wrong.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise

import msgspec

from endpointctl.verifying.history import Door, History, Read
from pgwire.outcome import Outcome

NAMED_MAX = 20
"""Violations that are spelled out; the rest are counted."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What came out. The shape of `verify --json`."""

    format_version: int = 1
    ok: bool
    acknowledged: int
    in_doubt: int
    in_doubt_kept: int
    """Of these, how many the cluster kept after all."""
    refused: int
    lost: int
    """Acknowledged and gone (RPO): must be 0."""
    reads_checked: int
    reads_through_reader: int
    rto_ms: float | None
    """The longest time without an acknowledgement; None with fewer than two."""
    errors: dict[str, int]
    violations: tuple[str, ...]
    violations_left_out: int = 0


def check(history: History) -> Report:
    """Return the report on *history*."""
    lost = _lost(history)
    violations = [
        *(f"lost: write {n} of client {client} was acknowledged and is gone" for client, n in lost),
        *_fabricated(history),
        *_torn(history),
        *_stale_on_the_writer(history),
        *_read_and_gone(history),
        *_backwards(history),
    ]
    outcomes = Counter(write.outcome for write in history.writes)
    doubtful = [write for write in history.writes if write.outcome is Outcome.IN_DOUBT]
    kept = {(client, n) for client, numbers in history.lists.items() for n in numbers}
    return Report(
        ok=not violations,
        acknowledged=outcomes[Outcome.COMMITTED],
        in_doubt=len(doubtful),
        in_doubt_kept=sum((write.client, write.n) in kept for write in doubtful),
        refused=outcomes[Outcome.FAILED],
        lost=len(lost),
        reads_checked=len(history.reads),
        reads_through_reader=sum(read.door is Door.READER for read in history.reads),
        rto_ms=longest_gap_ms(history),
        errors=dict(sorted(history.errors.items())),
        violations=tuple(violations[:NAMED_MAX]),
        violations_left_out=max(0, len(violations) - NAMED_MAX),
    )


def longest_gap_ms(history: History) -> float | None:
    """Return the longest time between two acknowledgements, whoever's they were."""
    times = sorted(write.done_s for write in history.writes if write.outcome is Outcome.COMMITTED)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    return round(max(gaps) * 1000, 1) if gaps else None


def _lost(history: History) -> list[tuple[int, int]]:
    present = {client: set(numbers) for client, numbers in history.lists.items()}
    return [
        (write.client, write.n)
        for write in history.writes
        if write.outcome is Outcome.COMMITTED and write.n not in present.get(write.client, set())
    ]


def _fabricated(history: History) -> list[str]:
    """Nothing is there that nobody sent, that was refused, or twice."""
    outcomes = {(write.client, write.n): write.outcome for write in history.writes}
    found: list[str] = []
    for client, numbers in history.lists.items():
        for n, times in Counter(numbers).items():
            outcome = outcomes.get((client, n))
            if outcome is None:
                found.append(f"fabricated: write {n} of client {client} is there and was never sent")
            elif outcome is Outcome.FAILED:
                found.append(f"fabricated: write {n} of client {client} is there and was refused")
            if times > 1:
                found.append(f"doubled: write {n} of client {client} is there {times} times")
    return found


def _torn(history: History) -> list[str]:
    """List and register were written together, so every snapshot shows them agree."""
    found = [
        f"torn: the {read.door} endpoint showed client {read.client}'s register at {read.register} "
        f"and its list ending with {read.greatest}"
        for read in history.reads
        if read.register != read.greatest
    ]
    for client, register in history.registers.items():
        greatest = max(history.lists.get(client, []), default=0)
        if register != greatest:
            found.append(f"torn: client {client}'s register is {register} in the end, and its list ends with {greatest}")
    return found


def _stale_on_the_writer(history: History) -> list[str]:
    """Through the writer's endpoint everybody sees what was acknowledged before they asked, and nothing not sent yet."""
    acknowledged: dict[int, list[tuple[float, int]]] = defaultdict(list)
    sent: dict[tuple[int, int], float] = {}
    for write in history.writes:
        sent[write.client, write.n] = write.sent_s
        if write.outcome is Outcome.COMMITTED:
            acknowledged[write.client].append((write.done_s, write.n))
    found: list[str] = []
    for read in history.reads:
        begun_s = sent.get((read.client, read.register))
        if read.register and (begun_s is None or begun_s > read.done_s):
            found.append(f"fabricated: the {read.door} endpoint showed write {read.register} of client {read.client} too early")
        if read.door is not Door.WRITER:
            continue
        known = max((n for done_s, n in acknowledged[read.client] if done_s < read.sent_s), default=0)
        if read.register < known:
            found.append(
                f"stale: the writer endpoint showed client {read.client}'s register at {read.register} "
                f"after {known} had been acknowledged"
            )
    return found


def _read_and_gone(history: History) -> list[str]:
    """What the writer's endpoint has shown is there in the end: it shows nothing that only it has."""
    return [
        f"gone: the writer endpoint showed write {read.register} of client {read.client}, and it is gone"
        for read in history.reads
        if read.door is Door.WRITER and read.register > history.registers.get(read.client, 0)
    ]


def _backwards(history: History) -> list[str]:
    """One session stays with one server, which never forgets."""
    last: dict[tuple[int, int], Read] = {}
    found: list[str] = []
    for read in sorted(history.reads, key=lambda one: one.sent_s):
        before = last.get((read.session, read.client))
        if before is not None and (read.register, read.listed) < (before.register, before.listed):
            found.append(
                f"backwards: one {read.door} session saw client {read.client}'s register at {before.register}, "
                f"then at {read.register}"
            )
        last[read.session, read.client] = read
    return found
