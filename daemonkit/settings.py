"""Settings files: strict TOML into one frozen msgspec.Struct.

An operator reads the errors, so each names the file, the table and the key the way they stand in the file, and what would
have been accepted.  A misspelt key must never pass for a default: declare every Struct with forbid_unknown_fields=True.
Fields of type pathlib.Path are understood; a leading ~ is the home directory.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

T = TypeVar("T")

_AT = re.compile(r"^(?P<what>.*) - at `(?P<key>key in )?\$(?P<path>[^`]*)`$", re.DOTALL)
_STEP = re.compile(r"\.(?P<name>[^.\[\]]+)|\[(?P<index>\d+|\.\.\.)\]")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<name>.*)`", re.DOTALL)
_TYPES = re.compile(r"Expected `(?P<wanted>[^`]*)`, got `(?P<got>[^`]*)`")

_WORDS = {
    "int": "an integer",
    "float": "a number",
    "str": "a string",
    "bool": "true or false",
    "array": "an array",
    "object": "a table",
    "null": "nothing",
}


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
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path}: not valid TOML: {error}") from error
    try:
        return msgspec.convert(tables, kind, dec_hook=_read_path)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{path}: {_explain(str(error), kind)}") from error


def _read_path(kind: type, value: object) -> object:
    """Make the types msgspec does not know: paths."""
    if issubclass(kind, Path) and isinstance(value, str) and value:
        return Path(value).expanduser()
    raise ValueError(f"expected a path in quotes, got {value!r}")


def _explain(message: str, kind: type) -> str:
    """Return msgspec's *message* in the words of the settings file."""
    match = _AT.match(message)
    what, path = (match["what"], match["path"]) if match is not None else (message, "")
    steps = [step["name"] or step["index"] for step in _STEP.finditer(path)]
    here = _type_at(inspect.type_info(kind), steps)
    if (unknown := _UNKNOWN.match(what)) is not None:
        return f"{_place([*steps, unknown['name']])}: unknown key{_known_keys(here)}"
    if (missing := _MISSING.match(what)) is not None:
        wanted = _accepted(_type_at(here, [missing["name"]]))
        return f"{_place([*steps, missing['name']])}: missing{f'; expected {wanted}' if wanted else ''}"
    wanted = _accepted(here)
    got = _TYPES.match(what)
    if wanted and got is not None:
        return f"{_place(steps)}: expected {wanted}, got {_WORDS.get(got['got'], got['got'])}"
    if wanted:
        return f"{_place(steps)}: {what[:1].lower()}{what[1:]}; expected {wanted}"
    return f"{_place(steps)}: {what[:1].lower()}{what[1:]}"


def _place(steps: list[str]) -> str:
    """Return where *steps* lead, as it is written in TOML: ``[http].port`` or ``[[nodes]] 2, port``."""
    if not steps:
        return "the file"
    *tables, key = steps
    if key.isdigit() or key == "...":
        tables, key = steps, ""
    place = ""
    for step in tables:
        if step.isdigit():
            place = f"[{place}] {int(step) + 1}"  # people count from one
        elif step != "...":
            place = f"[{place[1:-1]}.{step}]" if place.endswith("]") else f"{place}.{step}" if place else f"[{step}]"
    return f"{place}.{key}" if place and key else place or key


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
