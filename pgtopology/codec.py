"""JSON for every value that crosses a process boundary.

Unknown fields are ignored and a greater format_version is refused, so that programs of version N and N - 1 can work
together while an upgrade rolls.  Settings files are not read here: they are strict, and daemonkit reads them.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from pgtopology.document import FORMAT_VERSION

T = TypeVar("T")

_encoder = msgspec.json.Encoder(enc_hook=None)


class MessageError(ValueError):
    """A peer's message cannot be used; the text says which field and why."""


class NewerFormat(MessageError):  # noqa: N818 - the name says what is known
    """It was written by a newer version of ours."""


class _Versioned(msgspec.Struct, frozen=True):
    format_version: int = FORMAT_VERSION


_version_decoder = msgspec.json.Decoder(_Versioned)


def encode(value: msgspec.Struct) -> bytes:
    """Return *value* as one line of JSON without a line end."""
    return _encoder.encode(value)


def decode(data: bytes | str, kind: type[T]) -> T:
    """Return the *kind* that *data* holds.

    Raises MessageError if it is not JSON, does not have the shape, or was written by a newer format than ours.
    """
    try:
        version = _version_decoder.decode(data).format_version
        if version > FORMAT_VERSION:
            raise NewerFormat(f"format_version {version} is newer than {FORMAT_VERSION}, the newest known here")
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:  # nested too deeply is garbage like any other
        raise MessageError(f"not a {kind.__name__}: {error}") from error
