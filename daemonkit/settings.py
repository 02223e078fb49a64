"""Settings files: strict TOML into one frozen msgspec.Struct.

An operator reads the errors, so each names the file, the table and the key the way they stand in the file, and what would
have been accepted.  A misspelt key must never pass for a default: declare every Struct with forbid_unknown_fields=True.
Fields of type pathlib.Path are understood; a leading ~ is the home directory.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec
from msgspec import inspect

T = TypeVar("T")

_AT = re.compile(r"^(?P<what>.*) - at `(?P<key>key in )?\$(?P<path>[^`]*)`$", re.DOTALL)
_STEP = re.compile(r"\.(?P<name>[^.\[\]]+)|\[(?P<index>\d+|\.\.\.)\]")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<name>.*)`", re.DOTALL)
_GOT = re.compile(r", got `(?P<got>[^`]*)`$")

_UNKNOWN_VALUE = object()
SHOWN_MAX = 60
"""How much of a wrong value an error message quotes."""


class SettingsError(Exception):
    """The settings cannot be used; the text is one line that names file, table, key and what is accepted."""


def load_settings(path: Path, kind: type[T]) -> T:
    """Return the *kind* that the TOML file *path* holds. Raises SettingsError."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{path}: the settings cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: the settings are not UTF-8 text") from error
    try:
        tables = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise SettingsError(f"{path}: not valid TOML: {error}") from error
    try:
        return msgspec.convert(tables, kind, dec_hook=read_path)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{path}: {_explain(str(error), kind, tables)}") from error


def read_path(kind: type, value: object) -> object:
    """Make the types msgspec does not know: paths."""
    if issubclass(kind, Path) and isinstance(value, str) and value:
        return Path(value).expanduser()
    raise ValueError("expected a path in quotes")


def _explain(message: str, kind: type, tables: Mapping[str, object]) -> str:
    """Return msgspec's *message* in the words of the settings file."""
    match = _AT.match(message)
    what, path = (match["what"], match["path"]) if match is not None else (message, "")
    steps = [step["name"] or step["index"] for step in _STEP.finditer(path)]
    here = _type_at(inspect.type_info(kind), steps)
    if (unknown := _UNKNOWN.match(what)) is not None:
        name = unknown["name"]
        steps, _ = _find(tables, steps, lambda value: isinstance(value, dict) and name in value)
        return f"{_place([*steps, name])}: unknown key{_known_keys(here)}"
    if (missing := _MISSING.match(what)) is not None:
        name = missing["name"]
        steps, _ = _find(tables, steps, lambda value: isinstance(value, dict) and name not in value)
        there = _type_at(here, [name])
        place = _place([*steps, name]) if not _is_table(there) else _table([*steps, name])
        return f"{place}: missing; expected {_accepted(there)}"
    got = _GOT.search(what)
    steps, value = _find(tables, steps, lambda value: got is not None and _kind(value) == got["got"])
    wanted = _accepted(here)
    if not wanted:
        return f"{_place(steps)}: {what[:1].lower()}{what[1:]}"
    return f"{_place(steps)}: expected {wanted}, got {_shown(value)}"


def _find(here: object, steps: list[str], is_wrong: Callable[[object], bool]) -> tuple[list[str], object]:
    """Return *steps* with each ``...``, msgspec's word for "under some key", replaced by the key, and the value there."""
    for count, step in enumerate(steps):
        if step == "...":
            if not isinstance(here, dict):
                return steps, _UNKNOWN_VALUE
            for key, value in cast("dict[str, object]", here).items():
                rest, found = _find(value, steps[count + 1 :], is_wrong)
                if "..." not in rest and found is not _UNKNOWN_VALUE and is_wrong(found):
                    return [*steps[:count], key, *rest], found
            return steps, _UNKNOWN_VALUE
        if isinstance(here, dict) and step in here:
            here = cast("dict[str, object]", here)[step]
        elif isinstance(here, list) and step.isdigit() and int(step) < len(cast("list[object]", here)):
            here = cast("list[object]", here)[int(step)]
        else:
            return steps, _UNKNOWN_VALUE
    return steps, here


def _kind(value: object) -> str:
    """Return msgspec's word for the type of *value*."""
    match value:
        case bool():
            return "bool"
        case int():
            return "int"
        case float():
            return "float"
        case str():
            return "str"
        case list():
            return "array"
        case dict():
            return "object"
        case _:
            return "date"


def _shown(value: object) -> str:
    """Return *value* as the reader of an error message wants to see it."""
    match value:
        case str():
            return f'"{value}"' if len(value) <= SHOWN_MAX else f'"{value[:SHOWN_MAX]}…"'
        case bool():
            return str(value).lower()
        case int() | float():
            return str(value)
        case list():
            return "an array"
        case dict():
            return "a table"
        case _:
            return "something else"


def _place(steps: list[str]) -> str:
    """Return where *steps* lead, as it is written in TOML: ``[http].port``, or ``[[nodes]] 2, port``."""
    if not steps:
        return "the file"
    *tables, key = steps
    if not tables:
        return key
    if key == "...":
        return _table(tables)
    if key.isdigit():
        return f"{_place(tables)}, item {int(key) + 1}"
    return f"{_table(tables)}, {key}" if tables[-1].isdigit() else f"{_table(tables)}.{key}"


def _table(steps: list[str]) -> str:
    """Return the table that *steps* lead to; one of an array of tables by its number, counted from one."""
    number = next((index for index, step in enumerate(steps) if step.isdigit()), None)
    if number is None:
        return f"[{'.'.join(step for step in steps if step != '...')}]"
    place = f"[[{'.'.join(steps[:number])}]] {int(steps[number]) + 1}"
    return f"{place}, {'.'.join(steps[number + 1 :])}" if steps[number + 1 :] else place


def _is_table(here: inspect.Type | None) -> bool:
    return isinstance(here, inspect.StructType | inspect.DictType)


def _type_at(here: inspect.Type | None, steps: list[str]) -> inspect.Type | None:
    """Return the type that *steps* lead to from *here*, or None where the shape does not say."""
    for step in steps:
        match here:
            case inspect.UnionType():
                return next((found for option in here.types if (found := _type_at(option, [step])) is not None), None)
            case inspect.StructType():
                here = next((field.type for field in here.fields if field.encode_name == step), None)
            case inspect.ListType() | inspect.VarTupleType():
                here = here.item_type
            case inspect.DictType():
                here = here.value_type
            case _:
                return None
    return here


def _known_keys(here: inspect.Type | None) -> str:
    if isinstance(here, inspect.UnionType):
        here = next((option for option in here.types if isinstance(option, inspect.StructType)), None)
    if not isinstance(here, inspect.StructType):
        return ""
    return f"; known keys are {', '.join(sorted(field.encode_name for field in here.fields))}"


def _accepted(here: inspect.Type | None) -> str:
    """Return what *here* accepts in words, or nothing if there is nothing to say."""
    match here:
        case inspect.IntType():
            return _with_bounds("an integer", here)
        case inspect.FloatType():
            return _with_bounds("a number", here)
        case inspect.StrType():
            if here.pattern is not None:
                return f"a string that matches {here.pattern}"
            if here.min_length or here.max_length is not None:
                most = f" to {here.max_length}" if here.max_length is not None else " or more"
                return f"a string of {here.min_length or 0}{most} characters"
            return "a string"
        case inspect.BoolType():
            return "true or false"
        case inspect.EnumType():
            return _one_of([str(member.value) for member in here.cls])
        case inspect.LiteralType():
            return _one_of([str(value) for value in here.values])
        case inspect.CustomType():
            return "a path in quotes" if issubclass(here.cls, Path) else ""
        case inspect.ListType() | inspect.VarTupleType():
            return "an array"
        case inspect.StructType() | inspect.DictType():
            return "a table"
        case inspect.UnionType():
            words = [_accepted(option) for option in here.types if not isinstance(option, inspect.NoneType)]
            return " or ".join(word for word in words if word)
        case _:
            return ""


def _one_of(words: list[str]) -> str:
    return "one of " + ", ".join(f'"{word}"' for word in words)


def _with_bounds(noun: str, here: inspect.IntType | inspect.FloatType) -> str:
    """Return *noun* with the range that *here* accepts."""
    least: Any = here.ge if here.ge is not None else here.gt
    most: Any = here.le if here.le is not None else here.lt
    above = "above " if here.ge is None else ""
    below = "below " if here.le is None else ""
    if least is not None and most is not None:
        return f"{noun} from {above}{least} to {below}{most}"
    if least is not None:
        return f"{noun} of {least} or more" if not above else f"{noun} above {least}"
    if most is not None:
        return f"{noun} of {most} or less" if not below else f"{noun} below {most}"
    return noun
