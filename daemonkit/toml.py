"""Settings as TOML text: what daemonkit.settings reads back to an equal value.

Every field is written, also one that has its default: whoever opens the file sees what there is to set.  Left out is what
has no value (None), because TOML has no word for it, and an array of tables that is empty, because as a key it would keep
operators from adding one.  Source: TOML 1.0.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import cast

import msgspec
from msgspec import inspect

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def to_toml(settings: msgspec.Struct) -> str:
    """Return the file that says *settings*: a Struct within is a table, a tuple of them an array of tables, a dict inline.

    Raises TypeError for a value that no settings file holds.
    """
    return "".join(_table(settings, ())).lstrip("\n")


def _table(struct: msgspec.Struct, path: tuple[str, ...], brackets: str = "[{}]") -> Iterator[str]:
    """Yield the lines of the table at *path*: its own keys first, as TOML wants it, then the tables within."""
    keys: dict[str, object] = {}
    tables: list[tuple[msgspec.Struct, str, str]] = []
    for field in _fields(type(struct)):
        value = getattr(struct, field.name)
        if isinstance(value, msgspec.Struct):
            tables.append((value, field.encode_name, "[{}]"))
        elif _is_array_of_tables(field.type) and (value or not field.required):
            tables += [(item, field.encode_name, "[[{}]]") for item in value]
        elif value is not None:
            keys[field.encode_name] = value
    if path and (keys or not tables):
        yield f"\n{brackets.format('.'.join(path))}\n"
    for name, value in keys.items():
        yield f"{_key(name)} = {_value(value)}\n"
    for table, name, form in tables:
        yield from _table(table, (*path, _key(name)), form)


def _fields(kind: type[msgspec.Struct]) -> tuple[inspect.Field, ...]:
    shape = inspect.type_info(kind)
    assert isinstance(shape, inspect.StructType)
    return shape.fields


def _is_array_of_tables(shape: inspect.Type) -> bool:
    return isinstance(shape, inspect.VarTupleType) and isinstance(shape.item_type, inspect.StructType)


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else _string(name)


def _value(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case Enum():
            return _value(value.value)
        case int() | float():
            return repr(value)
        case str() | Path():
            return _string(str(value))
        case tuple():
            return f"[{', '.join(_value(item) for item in cast('tuple[object, ...]', value))}]"
        case dict():
            pairs = sorted(cast("Mapping[str, object]", value).items())
            return f"{{ {', '.join(f'{_key(key)} = {_value(item)}' for key, item in pairs)} }}" if pairs else "{}"
        case _:
            raise TypeError(f"no settings file holds {type(value).__name__}")


def _string(text: str) -> str:
    """Return *text* as a basic string. A JSON string is one, but for DEL, which TOML wants escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
