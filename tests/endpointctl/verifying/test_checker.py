"""The checker: a clean history passes, and each way to break the cluster's word is seen and named."""

from __future__ import annotations

from endpointctl.verifying.checker import NAMED_MAX, check, longest_gap_ms
from endpointctl.verifying.history import Door, History, Read, Write
from pgwire.outcome import Outcome


def write(n: int, done_s: float, outcome: Outcome = Outcome.COMMITTED, *, client: int = 0) -> Write:
    return Write(client=client, n=n, sent_s=done_s - 0.01, done_s=done_s, outcome=outcome)


def read(value: int, at_s: float, door: Door = Door.WRITER, *, session: int = 1, greatest: int | None = None) -> Read:
    return Read(
        client=0,
        door=door,
        session=session,
        sent_s=at_s,
        done_s=at_s + 0.001,
        register=value,
        listed=value,
        greatest=value if greatest is None else greatest,
    )


def history(*, kept: list[int] | None = None, register: int | None = None) -> History:
    """Three acknowledged writes, one in doubt that was kept, and honest reads; *kept* is what the list holds in the end."""
    numbers = kept if kept is not None else [1, 2, 3, 4]
    return History(
        writes=[write(1, 1.0), write(2, 1.1), write(3, 3.1), write(4, 3.2, Outcome.IN_DOUBT)],
        reads=[read(1, 1.05), read(2, 2.0), read(0, 2.0, Door.READER, session=2), read(2, 2.1, Door.READER, session=2)],
        lists={0: numbers},
        registers={0: register if register is not None else max(numbers, default=0)},
    )


def kinds(found: History) -> list[str]:
    return [violation.partition(":")[0] for violation in check(found).violations]


def test_an_honest_history_passes_with_its_numbers() -> None:
    told = history()
    told.count_error("57P01")
    told.count_error("57P01")
    report = check(told)
    assert report.ok
    assert not report.violations
    assert (report.acknowledged, report.in_doubt, report.in_doubt_kept, report.refused, report.lost) == (3, 1, 1, 0, 0)
    assert (report.reads_checked, report.reads_through_reader) == (4, 2)
    assert report.rto_ms == 2000.0
    assert report.errors == {"57P01": 2}


def test_a_write_in_doubt_may_be_gone() -> None:
    report = check(history(kept=[1, 2, 3]))
    assert report.ok
    assert report.in_doubt_kept == 0


def test_a_lost_acknowledged_write_is_seen() -> None:
    report = check(history(kept=[1, 3, 4]))
    assert not report.ok
    assert report.lost == 1
    assert report.violations == ("lost: write 2 of client 0 was acknowledged and is gone",)


def test_a_write_that_nobody_sent_is_seen() -> None:
    assert kinds(history(kept=[1, 2, 3, 4, 9])) == ["fabricated"]


def test_a_refused_write_that_is_there_is_seen() -> None:
    told = history()
    told.writes[3] = write(4, 3.2, Outcome.FAILED)
    assert kinds(told) == ["fabricated"]


def test_a_doubled_write_is_seen() -> None:
    assert kinds(history(kept=[1, 2, 2, 3, 4])) == ["doubled"]


def test_list_and_register_that_disagree_are_seen() -> None:
    told = history()
    told.reads.append(read(2, 2.2, greatest=1, session=7))
    assert kinds(told) == ["torn"]
    assert kinds(history(register=3)) == ["torn"]


def test_a_writer_endpoint_that_is_late_is_seen_and_a_reader_endpoint_may_be() -> None:
    told = history()
    told.reads.append(read(1, 2.5, session=8))
    assert kinds(told) == ["stale"]
    late = history()
    late.reads.append(read(1, 2.5, Door.READER, session=8))
    assert check(late).ok


def test_a_read_from_the_future_is_seen() -> None:
    told = history()
    told.reads.append(read(3, 1.2, Door.READER, session=9))
    assert kinds(told) == ["fabricated"]


def test_what_the_writer_has_shown_must_stay() -> None:
    told = history(kept=[1, 2, 3])
    told.reads.append(read(4, 3.3, session=8))
    assert kinds(told) == ["gone"]
    through_reader = history(kept=[1, 2, 3])
    through_reader.reads.append(read(4, 3.3, Door.READER, session=8))
    assert check(through_reader).ok, "a replica may show what was in doubt and did not survive"


def test_a_session_that_goes_backwards_is_seen() -> None:
    told = history()
    told.reads.append(read(1, 2.5, Door.READER, session=2))
    assert kinds(told) == ["backwards"]


def test_many_violations_are_counted_and_few_named() -> None:
    told = History(writes=[write(n, float(n)) for n in range(1, 50)])
    report = check(told)
    assert report.lost == 49
    assert len(report.violations) == NAMED_MAX
    assert report.violations_left_out == 49 - NAMED_MAX


def test_without_two_acknowledgements_there_is_no_gap() -> None:
    assert longest_gap_ms(History(writes=[write(1, 1.0)])) is None
