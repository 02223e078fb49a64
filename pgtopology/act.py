"""Who gives an order and by which command, as requests to the manager say it beside the order itself.

Two header fields, which older managers ignore.  Texts are percent-encoded UTF-8, because a header holds ASCII; they are cut
before they are sent, and again when they are taken, since anybody with the token may send anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote, unquote

OPERATOR_HEADER = "Endpointd-Operator"
COMMAND_HEADER = "Endpointd-Command"

OPERATOR_CHARS_MAX = 100
COMMAND_CHARS_MAX = 400


def act_headers(operator: str, command: str) -> dict[str, str]:
    """Return the header fields that say that *operator* gave *command*."""
    return {
        OPERATOR_HEADER: quote(_cut(operator, OPERATOR_CHARS_MAX), errors="replace"),
        COMMAND_HEADER: quote(_cut(command, COMMAND_CHARS_MAX), errors="replace"),
    }


def read_act(headers: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Return operator and command; None for what was not said."""
    operator = _cut(unquote(headers.get(OPERATOR_HEADER, "")), OPERATOR_CHARS_MAX)
    command = _cut(unquote(headers.get(COMMAND_HEADER, "")), COMMAND_CHARS_MAX)
    return operator or None, command or None


def _cut(text: str, chars_max: int) -> str:
    return text if len(text) <= chars_max else f"{text[: chars_max - 1]}…"
