"""The words of `endpointctl psql`, sorted: what is ours, where to go, and what is psql's. Pure.

Ours are ours on both sides of the endpoint's name; after `--` everything is psql's.  The endpoint's name is the first word
that is neither an option nor an option's value, so which of psql's options take one must be known (psql --help, PostgreSQL 18).
Where to connect is said by the endpoint: database and role may be chosen, host and port not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from daemonkit.exits import WrongUsage

OURS = {"--api": True, "--data-dir": True, "--timeout": True, "--version": False, "--help": False}
"""Our options, and whether they take a value."""

_SHORT_WITH_VALUE = frozenset("cdfFhLopPRTUv")
_WITH_VALUE = """
command dbname field-separator file host log-file output port pset record-separator set table-attr username variable
"""
_WITHOUT_VALUE = """
csv echo-all echo-errors echo-hidden echo-queries expanded field-separator-zero help html list no-align no-password no-psqlrc
no-readline password quiet record-separator-zero single-line single-step single-transaction tuples-only version
"""
_LONG_WITH_VALUE = frozenset(_WITH_VALUE.split())
_LONG = _LONG_WITH_VALUE | frozenset(_WITHOUT_VALUE.split())
_SHORT_OF = {"dbname": "d", "username": "U", "host": "h", "port": "p", "password": "W", "no-password": "w"}


@dataclass(frozen=True, slots=True)
class _Option:
    name: str
    """A letter, or a long name without its hyphens."""
    value: str | None
    words: tuple[str, ...]
    """As it is given to psql."""
    is_ours: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PsqlWish:
    """What the operator wants of psql."""

    user: str | None
    database: str | None
    words: tuple[str, ...]
    """For psql, beside where to connect and as whom."""
    says_password: bool
    """Whether it is said that psql asks for a password, or that it never does."""


def sorted_words(words: Sequence[str]) -> list[str]:
    """Return our options, then the endpoint's name, then `--` and everything that is psql's; without a name ours alone."""
    ours: list[str] = []
    door: list[str] = []
    theirs: list[str] = []
    for one in _read(words, theirs_only=False):
        if isinstance(one, _Option):
            (ours if one.is_ours else theirs).extend(one.words)
        elif door:
            theirs.append(one)
        else:
            door.append(one)
    return [*ours, *door, "--", *theirs] if door else ours


def read_wish(words: Sequence[str]) -> PsqlWish:
    """Return what psql's *words* say. Raises WrongUsage for what the endpoint says instead."""
    chosen: dict[str, str] = {}
    kept: list[str] = []
    loose: list[str] = []
    says_password = False
    for one in _read(words, theirs_only=True):
        if not isinstance(one, _Option):
            loose.append(one)
            continue
        letter = _SHORT_OF.get(one.name, one.name)
        if letter in ("h", "p"):
            raise WrongUsage(
                f"{one.words[0]} is not passed on to psql: the endpoint says where it connects",
                hint="name another endpoint or node, or call psql itself",
            )
        if letter in ("d", "U"):
            chosen[letter] = _name(one)
            continue
        says_password = says_password or letter in ("w", "W")
        kept += one.words
    # As psql takes them: DBNAME, then USERNAME, of those that no option gave.
    free = [letter for letter in ("d", "U") if letter not in chosen]
    if len(loose) > len(free):
        raise WrongUsage(f'psql has no use for "{loose[len(free)]}"', hint="after the endpoint it takes a database and a role")
    chosen |= {letter: _name(_Option(letter, word, (word,))) for letter, word in zip(free, loose, strict=False)}
    return PsqlWish(user=chosen.get("U"), database=chosen.get("d"), words=tuple(kept), says_password=says_password)


def _name(option: _Option) -> str:
    what = "a role's name" if option.name in ("U", "username") else "a database's name"
    if not option.value:
        raise WrongUsage(f"{option.words[0]} needs {what}" if option.words[0] else f"{what} cannot be empty")
    if what == "a database's name" and ("=" in option.value or "://" in option.value):
        raise WrongUsage(
            f'"{option.value}" is no database\'s name: the endpoint says where psql connects', hint="give the name alone"
        )
    return option.value


def _read(words: Sequence[str], *, theirs_only: bool) -> Iterator[_Option | str]:
    """Yield options with their values, and what is neither."""
    left = list(words)
    while left:
        word = left.pop(0)
        if word == "--":
            if theirs_only:
                yield from left
                return
            theirs_only = True
        elif word.startswith("--"):
            yield _long(word, left, theirs_only=theirs_only)
        elif word.startswith("-") and word != "-":
            yield from _short(word, left)
        else:
            yield word


def _long(word: str, left: list[str], *, theirs_only: bool) -> _Option:
    name, equals, value = word.partition("=")
    is_ours = not theirs_only and name in OURS
    full = name[2:] if is_ours else _full_name(name[2:])
    takes_value = OURS[name] if is_ours else full in _LONG_WITH_VALUE
    words = [word]
    given = value if equals else None
    if takes_value and not equals and left:
        given = left.pop(0)
        words.append(given)
    return _Option(full, given, tuple(words), is_ours)


def _full_name(name: str) -> str:
    """Return the long option that *name* begins, as getopt takes it; itself if it begins none or several."""
    found = [known for known in _LONG if known.startswith(name)]
    return name if name in _LONG or len(found) != 1 else found[0]


def _short(word: str, left: list[str]) -> Iterator[_Option]:
    letters = word[1:]
    while letters:
        letter, letters = letters[0], letters[1:]
        if letter not in _SHORT_WITH_VALUE:
            yield _Option(letter, None, (f"-{letter}",))
            continue
        value = letters or (left.pop(0) if left else None)
        yield _Option(letter, value, (f"-{letter}",) if value is None else (f"-{letter}", value))
        return
