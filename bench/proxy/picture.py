"""A picture of the ratios to the direct way: a group of bars for each column, the quartiles as a line in each bar. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.proxy.verdict import Row
from bench.svg import document, line, rect, words

COLOURS = ("#1f77b4", "#17a2b8", "#2ca02c", "#ff7f0e", "#d6a15e", "#9467bd", "#8c564b")
LEFT, TOP, BAR, GAP, HEIGHT, BELOW = 50.0, 46.0, 11.0, 16.0, 220.0, 110.0
RATIO_MAX = 1.25
"""Taller bars are cut off, and say how tall they are."""


def picture(results: Mapping[str, Sequence[Row]]) -> str:
    """Return the SVG of *results*, rows by column."""
    ways = list(dict.fromkeys(row.way for found in results.values() for row in found if row.to_direct is not None))
    colours = {way: COLOURS[number % len(COLOURS)] for number, way in enumerate(ways)}
    elements = [words(LEFT, 18, "Transactions a second, by those of a direct connection in the same round", size=13, bold=True)]
    x = LEFT
    for way in ways:
        elements += [rect(x, 27, 10, 10, fill=colours[way]), words(x + 14, 36, way)]
        x += 30 + 7 * len(way)
    end, x = x, LEFT + GAP
    for column, found in results.items():
        begin = x
        for row in found:
            if row.to_direct is not None:
                elements += _bar(x, row, colours[row.way])
                x += BAR
        place = f"translate({(begin + x) / 2 + 4:.1f} {TOP + HEIGHT + 8:.1f})"
        elements.append(f'<g transform="{place} rotate(-45)">{words(0, 0, column, anchor="end")}</g>')
        x += GAP
    width = max(x, end, 560.0) + LEFT
    for mark in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = _y(mark)
        elements.insert(0, line(LEFT, y, width - LEFT / 2, y, stroke="#333333" if mark in (0.0, 1.0) else "#dddddd"))
        elements.append(words(LEFT - 6, y + 4, f"{mark:.2f}", anchor="end"))
    return document(width, TOP + HEIGHT + BELOW, elements)


def _bar(x: float, row: Row, colour: str) -> list[str]:
    ratio = row.to_direct
    assert ratio is not None
    title = f"{row.way}: {ratio.median:.3f} ({ratio.quartiles[0]:.3f} to {ratio.quartiles[1]:.3f})"
    top, (low, high) = _y(ratio.median), ratio.quartiles
    drawn = [rect(x, top, BAR - 1, _y(0.0) - top, fill=colour, title=title)]
    if ratio.median > RATIO_MAX:
        drawn.append(words(x + BAR / 2, top - 2, f"{ratio.median:.1f}", size=8, anchor="middle"))
    else:
        drawn.append(line(x + BAR / 2, _y(low), x + BAR / 2, _y(high), stroke="#222222"))
    return drawn


def _y(ratio: float) -> float:
    return TOP + HEIGHT * (1 - min(ratio, RATIO_MAX) / RATIO_MAX)
