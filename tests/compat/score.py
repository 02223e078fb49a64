"""The transparency score: of all tests, those whose outcome is the same directly and through the endpoint. Pure."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase

import msgspec

from tests.compat.outcomes import Outcomes
from tests.compat.server import Way

ABSENT = "not run"
"""In place of an outcome, of a test that only the other side ran."""


class Verdict(StrEnum):
    """Of a test that did not come out the same."""

    VARIES = "varies"
    """Run again, it showed directly whatever it shows through: its outcome says nothing."""
    EXPECTED = "expected"
    """Named and justified."""
    DIFFERENT = "different"


class Expectation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A difference that is known."""

    suite: str
    test: str
    """A name, or a pattern with * and ?; [ stands for itself."""
    ways: tuple[Way, ...] = tuple(Way)
    reason: str


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    difference: tuple[Expectation, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A test that came out differently."""

    test: str
    direct: tuple[str, ...]
    """Every outcome seen, repeats included."""
    through: tuple[str, ...]
    why: str
    """What it said where it failed."""
    verdict: Verdict
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What came of one suite in one way."""

    suite: str
    way: Way
    tests: int
    same: int
    untestable: int
    """Of the same: skipped on both sides."""
    differences: tuple[Difference, ...]
    problems: tuple[str, ...] = ()
    """Why it is no score: a side did not end, or has no tests."""

    @property
    def has_passed(self) -> bool:
        """Whether nothing came out differently for no named reason, where that has to be justified."""
        is_told = self.way.is_told_only
        return not self.problems and (is_told or all(each.verdict is not Verdict.DIFFERENT for each in self.differences))


def expectations(text: str) -> tuple[Expectation, ...]:
    """Return what the file of known differences says. Raises msgspec.ValidationError, tomllib.TOMLDecodeError."""
    return msgspec.convert(tomllib.loads(text), _File).difference


def different(direct: Outcomes, through: Outcomes) -> tuple[str, ...]:
    """Return the names of the tests that did not come out the same."""
    names = dict.fromkeys((*direct.seen, *through.seen))
    return tuple(name for name in names if _outcome(direct, name) != _outcome(through, name))


def unexplained(apart: Iterable[str], suite: str, way: Way, known: Iterable[Expectation]) -> tuple[str, ...]:
    """Return which of *apart* nothing in *known* names."""
    known = _for(suite, way, known)
    return tuple(name for name in apart if _named(name, known) is None)


def _for(suite: str, way: Way, known: Iterable[Expectation]) -> tuple[Expectation, ...]:
    return tuple(each for each in known if each.suite == suite and way in each.ways)


def score(
    suite: str,
    way: Way,
    direct: Outcomes,
    through: Outcomes,
    *,
    again: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]],
    known: Iterable[Expectation],
) -> Score:
    """Compare the two sides; *again* has what repeats of the different ones showed, directly and through."""
    known = _for(suite, way, known)
    names = dict.fromkeys((*direct.seen, *through.seen))
    apart = different(direct, through)
    found: list[Difference] = []
    for name in apart:
        more = again.get(name, ((), ()))
        sides = tuple(
            tuple(dict.fromkeys((_outcome(one, name), *repeats))) for one, repeats in ((direct, more[0]), (through, more[1]))
        )
        verdict, reason = _verdict(name, sides[0], sides[1], known)
        said = [one.seen[name].why for one in (through, direct) if name in one.seen and one.seen[name].why]
        found.append(
            Difference(
                test=name, direct=sides[0], through=sides[1], why=said[0] if said else "", verdict=verdict, reason=reason
            )
        )
    same = names.keys() - set(apart)
    return Score(
        suite=suite,
        way=way,
        tests=len(names),
        same=len(same),
        untestable=sum(direct.seen[name].is_untestable for name in same),
        differences=tuple(found),
        problems=tuple(_problems(direct, through)),
    )


def _problems(direct: Outcomes, through: Outcomes) -> Iterable[str]:
    for side, outcomes in (("direct", direct), ("through", through)):
        if not outcomes.seen:
            yield f"{side}: no test ran"
        elif not outcomes.has_ended:
            yield f"{side}: it did not come to its end"


def _verdict(name: str, direct: tuple[str, ...], through: tuple[str, ...], known: Iterable[Expectation]) -> tuple[Verdict, str]:
    if set(through) <= set(direct):
        return Verdict.VARIES, "seen directly too"
    named = _named(name, known)
    return (Verdict.EXPECTED, named.reason) if named is not None else (Verdict.DIFFERENT, "")


def _named(name: str, known: Iterable[Expectation]) -> Expectation | None:
    return next((each for each in known if fnmatchcase(name, each.test.replace("[", "[[]"))), None)


def _outcome(outcomes: Outcomes, name: str) -> str:
    seen = outcomes.seen.get(name)
    return seen.outcome if seen is not None else ABSENT
