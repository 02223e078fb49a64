"""Text of others made safe to look at.

Names, messages and log lines come from SQL, from requests and from other machines; whoever chose them also chose what a
terminal does with them: control characters draw lines that nobody printed, bidirectional overrides turn words around.  So
whatever is shown to people goes through `visible` once, and what is written as JSON through `visible_json`, which changes how
the text is spelled and not what it says.  The rule is Python's: a character is shown as it is if it is printable, the space
among white space, and else as the escape by which Python writes it.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from typing import Any, TypeVar, cast

V = TypeVar("V")

_JSON_LAYOUT = "\n\r\t"
"""White space between the tokens of JSON; inside its strings these three are escaped anyway."""
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_MAYBE_UNPRINTABLE = re.compile(r"[^ -~]")


def visible(text: str, *, keep: str = "") -> str:
    """Return *text* with every character that is not printable as its escape, except those in *keep*."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in keep else _escape(one) for one in text)


def visible_json(text: str) -> str:
    """Return the JSON document *text* spelled without characters that are not printable; its value is the same."""

    def spell(found: re.Match[str]) -> str:
        one = found.group()
        return one if one.isprintable() or one in _JSON_LAYOUT else _json_escape(one)

    return text if text.isprintable() else _MAYBE_UNPRINTABLE.sub(spell, text)


def visible_value(value: V) -> V:
    """Return *value* with every string in it made visible: in structs, mappings, sequences, as deep as it goes."""
    return cast("V", _made_visible(value))


def _made_visible(value: Any) -> Any:
    match value:
        case enum.Enum():
            return value
        case str():
            return visible(value)
        case Mapping():
            return {_made_visible(key): _made_visible(one) for key, one in cast("Mapping[Any, Any]", value).items()}
        case tuple():
            return tuple(map(_made_visible, cast("tuple[Any, ...]", value)))
        case list():
            return list(map(_made_visible, cast("list[Any]", value)))
        case _ if hasattr(value, "__struct_fields__"):
            # Imported here, because everything that prints imports this module, --help too.
            from msgspec.structs import replace

            return replace(value, **{name: _made_visible(getattr(value, name)) for name in value.__struct_fields__})
        case _:
            return value


def _escape(one: str) -> str:
    code = ord(one)
    return _SHORT.get(one) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")


def _json_escape(one: str) -> str:
    code = ord(one)
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"
