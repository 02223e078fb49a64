"""Everything endpointctl prints goes through here, so that no text of others reaches a terminal as it came.

People get lines, or views for a console that takes no markup out of their words; programs get JSON, exact and without a raw
control character.  Must stay cheap to import: `--help` runs through it.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable
from typing import IO, TYPE_CHECKING

import typer

from daemonkit.escape import visible, visible_json

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

FORMAT_VERSION = 1
"""Of the JSON documents that are made here, not by the manager."""
_answers = 0
PIPE_CELLS = 100_000
"""A pipe has no width of its own; lines must not be folded for it."""


def line(text: str, *, err: bool = False) -> None:
    """Print one line for people; a line end inside it is shown, not followed."""
    typer.echo(visible(text, keep="\t"), err=err)


def lines(texts: Iterable[str]) -> None:
    """Print lines for people."""
    for text in texts:
        line(text)


def width() -> int | None:
    """Return how many cells a line of the terminal has; None where standard output is none."""
    return shutil.get_terminal_size().columns if sys.stdout is not None and sys.stdout.isatty() else None


def printer(console: Console) -> Callable[[str], None]:
    """Return a function that prints one line for people on *console*."""

    def say(text: str) -> None:
        console.print(visible(text), soft_wrap=True)

    return say


def json_document(body: bytes | str) -> None:
    """Print the one JSON document that is a command's answer."""
    global _answers
    json_line(body)
    _answers += 1


def json_line(body: bytes | str) -> None:
    """Print one document of a stream of them, one a line."""
    text = body.decode() if isinstance(body, bytes) else body
    typer.echo(visible_json(text.rstrip()))


def answers() -> int:
    """Return how many documents this process has printed that are a command's whole answer."""
    return _answers


def view(renderable: RenderableType) -> None:
    """Print a view, folded for a terminal and whole for a pipe."""
    console().print(renderable)


def console(file: IO[str] | None = None) -> Console:
    """Return a console on *file* (standard output) to which text is text: no markup, no emoji codes, no highlighting."""
    from rich.console import Console

    plain = Console(file=file, markup=False, emoji=False, highlight=False)
    if not plain.is_terminal:
        plain.width = PIPE_CELLS
    return plain
