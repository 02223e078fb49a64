"""Rows of values that keep every word at every width.

Where the columns fit side by side they are a table; where they do not, each row becomes a block: its first cells as a head,
the others below it, each with its title, wrapped between values.  Notes stand below their row, on lines of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

GAP = "  "
INDENT = 4


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its *title*, whether numbers in it are set to the right, and whether it heads a block."""

    title: str
    is_right: bool = False
    is_head: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One row: a cell for each column, and notes."""

    cells: Sequence[str | Text]
    notes: Sequence[str] = ()


class Listing:
    """Something rich can print."""

    def __init__(self, columns: Sequence[Column], rows: Iterable[Row]) -> None:
        self._columns = columns
        self._rows = [(tuple(map(_text, row.cells)), row.notes) for row in rows]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widths = [
            max(_cells(column.title), *(cells[index].cell_len for cells, _ in self._rows), 0)
            for index, column in enumerate(self._columns)
        ]
        if sum(widths) + len(GAP) * (len(widths) - 1) <= options.max_width:
            yield _line([Text(column.title, style="bold") for column in self._columns], self._columns, widths)
            for cells, notes in self._rows:
                yield _line(cells, self._columns, widths)
                yield from _indented(map(Text, notes), console, options.max_width)
            return
        for cells, notes in self._rows:
            pairs = list(zip(self._columns, cells, strict=True))
            yield from _flowing([cell for column, cell in pairs if column.is_head and cell], options.max_width)
            rest = [
                Text.assemble((f"{column.title} ", "dim"), cell) if column.title else cell
                for column, cell in pairs
                if not column.is_head and cell
            ]
            width = max(1, options.max_width - INDENT)
            yield from _indented(_flowing(rest, width), console, options.max_width)
            yield from _indented(map(Text, notes), console, options.max_width)


class Fitted:
    """A view on a screen: it shows no more than there is room for, and says how much is missing and, by *hint*, where it is."""

    def __init__(self, view: RenderableType, hint: str) -> None:
        self._view = view
        self._hint = hint

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self._view, options.update(height=None), pad=False)
        room = max(2, (options.height or console.size.height) - 1)
        hidden = len(lines) - room
        if hidden > 0:
            lines = lines[: room - 1]
        for line in lines:
            yield from line
            yield Text("")
        if hidden > 0:
            yield Text(f"... {hidden + 1} more lines; {self._hint}", style="bold", no_wrap=True, overflow="ellipsis")


def _text(cell: str | Text) -> Text:
    return Text(cell) if isinstance(cell, str) else cell


def _cells(text: str) -> int:
    return Text(text).cell_len


def _line(cells: Sequence[Text], columns: Sequence[Column], widths: Sequence[int]) -> Text:
    parts: list[str | Text] = []
    for column, cell, width in zip(columns, cells, widths, strict=True):
        space = " " * (width - cell.cell_len)
        parts += [*((space, cell) if column.is_right else (cell, space)), GAP]
    line = Text.assemble(*parts)
    line.rstrip()
    return line


def _flowing(words: Sequence[Text], width: int) -> list[Text]:
    """Return *words* side by side on as many lines as they need; one that is longer than *width* has lines of its own."""
    lines: list[Text] = []
    for word in words:
        if lines and lines[-1].cell_len + len(GAP) + word.cell_len <= width:
            lines[-1] = Text.assemble(lines[-1], GAP, word)
        else:
            lines.append(word)
    return lines


def _indented(texts: Iterable[Text], console: Console, width: int) -> Iterable[Text]:
    for text in texts:
        for line in text.wrap(console, max(1, width - INDENT)):
            line.rstrip()
            yield Text.assemble(" " * INDENT, line)


def or_dash(value: object) -> str:
    """Return *value* as text, a dash for None."""
    return "-" if value is None else str(value)
