"""The picture of a fault: what every node was, when writes were acknowledged, and the steps of the failover, on one time axis.

Pure: from times and states to SVG text.  All times are seconds on one monotonic clock; the picture counts from the fault.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from bench import svg

COLOURS: Mapping[str, tuple[str, str]] = {
    "writer": ("#1a7f4b", "writer"),
    "promoted": ("#7fd1a0", "promoted, not open"),
    "outdated": ("#e07b39", "old primary"),
    "streaming": ("#9fd0ea", "replica, streaming"),
    "catching_up": ("#f3d27a", "standby, not streaming"),
    "rewinding": ("#b07cc6", "rewinding or cloning"),
    "cloning": ("#b07cc6", "cloning"),
    "stopped": ("#c2574d", "stopped"),
    "unreachable": ("#8a8a8a", "not heard of"),
    "unknown": ("#e4e4e4", "no manager to ask"),
}
"""Colour and name of each state; two may share a colour where the eye need not tell them apart."""
LEGEND = ("writer", "promoted", "streaming", "catching_up", "rewinding", "stopped", "unreachable", "outdated", "unknown")
MARKS: Mapping[str, str] = {
    "fault": "#b3362b",
    "detected": "#7a4fa3",
    "published": "#555555",
    "elected": "#555555",
    "promoted": "#555555",
    "opened": "#1a7f4b",
    "undone": "#c07d12",
}
WRITES = "#2f6db3"
ERRORS = "#b3362b"
WIDTH = 1180
LEFT = 120
RIGHT = 30
LANE = 20
GAP = 5
RATE = 54
HEAD = 88
MARK_ROWS = 6
MARK_ROW = 12
BUCKETS = 240
TOP = 64

Scale = Callable[[float], float]
"""From a time to an x."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What a lane was from *at* on."""

    at: float
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One fault."""

    title: str
    note: str
    is_good: bool
    zero: float
    """When the fault struck."""
    begin: float
    end: float
    lanes: Mapping[str, Sequence[Sample]]
    acknowledged: Sequence[float]
    errors: Sequence[float]
    outage: tuple[float, float]
    """The last acknowledgement before it and the first after it."""
    marks: Sequence[tuple[float, str]] = field(default_factory=tuple)


def picture(title: str, panels: Sequence[Panel]) -> str:
    """Return the picture of all *panels*, one below the other."""
    elements = [svg.words(20, 26, title, size=16, bold=True), *_legend(46)]
    y = float(TOP)
    for panel in panels:
        drawn, height = _panel(panel, y)
        elements += drawn
        y += height
    return svg.document(WIDTH, y + 8, elements)


def _legend(y: float) -> list[str]:
    elements: list[str] = []
    x = 20.0
    for state in LEGEND:
        colour, name = COLOURS[state]
        elements += [svg.rect(x, y - 9, 12, 12, fill=colour, radius=2), svg.words(x + 17, y + 1, name)]
        x += 26 + 6.0 * len(name)
    return elements


def _panel(panel: Panel, top: float) -> tuple[list[str], float]:
    lanes_top = top + HEAD + 16
    rate_top = lanes_top + len(panel.lanes) * (LANE + GAP) + 4
    bottom = rate_top + RATE
    height = bottom + 40 - top

    def x_of(at: float) -> float:
        share = (min(max(at, panel.begin), panel.end) - panel.begin) / (panel.end - panel.begin)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    colour = "#1a7f4b" if panel.is_good else "#b3362b"
    elements = [
        svg.line(LEFT - 100, top, WIDTH - RIGHT, top, stroke="#dddddd"),
        svg.words(LEFT - 100, top + 18, panel.title, size=13, bold=True),
        svg.words(WIDTH - RIGHT, top + 18, panel.note, size=12, fill=colour, anchor="end", bold=True),
    ]
    elements += _axis(panel, x_of, lanes_top, bottom)
    elements += _outage(panel, x_of, lanes_top - 3, bottom - 10, rate_top)
    for index, (name, samples) in enumerate(panel.lanes.items()):
        y = lanes_top + index * (LANE + GAP)
        elements.append(svg.words(LEFT - 8, y + LANE / 2 + 4, name, anchor="end"))
        elements += _lane(panel, samples, x_of, y)
    elements += _rate(panel, x_of, rate_top)
    elements += _marks(panel, x_of, top + 32, bottom)
    return elements, height


def _outage(panel: Panel, x_of: Scale, top: float, bottom: float, rate_top: float) -> list[str]:
    """Shade the time without a commit."""
    begin, end = panel.outage
    left, right = x_of(begin), x_of(end)
    shade = svg.rect(left, top, right - left, bottom - top, fill="#fbeae8")
    text = f"no commit for {end - begin:.2f} s"
    if right - left < 6 * len(text):
        return [shade]
    return [shade, svg.words((left + right) / 2, rate_top + 26, text, anchor="middle", fill=ERRORS, bold=True)]


def _axis(panel: Panel, x_of: Scale, top: float, bottom: float) -> list[str]:
    step = next((each for each in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0) if (panel.end - panel.begin) / each <= 14), 60.0)
    elements: list[str] = []
    number = round((panel.begin - panel.zero) / step)
    while panel.zero + number * step <= panel.end:
        at = panel.zero + number * step
        if at >= panel.begin:
            elements.append(svg.line(x_of(at), top - 3, x_of(at), bottom, stroke="#ececec"))
            elements.append(svg.words(x_of(at), bottom + 15, f"{number * step:g} s", anchor="middle", fill="#666666"))
        number += 1
    return elements


def _lane(panel: Panel, samples: Sequence[Sample], x_of: Scale, y: float) -> list[str]:
    elements: list[str] = []
    for sample, following in zip(samples, [*samples[1:], Sample(panel.end, "")], strict=True):
        if following.at <= panel.begin or sample.at >= panel.end:
            continue
        fill, name = COLOURS.get(sample.state, ("#000000", sample.state))
        x = x_of(sample.at)
        width = x_of(following.at) - x
        lasted = following.at - sample.at
        elements.append(svg.rect(x, y, width, LANE, fill=fill, title=f"{name} for {lasted:.2f} s"))
        if width > 6.5 * len(name) + 8:
            ink = "#ffffff" if sample.state in ("writer", "stopped", "unreachable", "rewinding", "cloning") else "#333333"
            elements.append(svg.words(x + 5, y + LANE / 2 + 4, name, size=10.5, fill=ink))
    return elements


def _rate(panel: Panel, x_of: Scale, top: float) -> list[str]:
    width_s = (panel.end - panel.begin) / BUCKETS
    counts = [0] * BUCKETS
    for at in panel.acknowledged:
        if panel.begin <= at < panel.end:
            counts[min(BUCKETS - 1, int((at - panel.begin) / width_s))] += 1
    highest = max(counts, default=0) or 1
    floor = top + RATE - 10
    points = [(x_of(panel.begin), floor)]
    for index, count in enumerate(counts):
        height = count / highest * (RATE - 14)
        points += [(x_of(panel.begin + (index + edge) * width_s), floor - height) for edge in (0, 1)]
    points.append((x_of(panel.end), floor))
    peak = f"{highest / width_s:.0f}/s"
    elements = [
        svg.polygon(points, fill=WRITES, opacity=0.75),
        svg.line(LEFT, floor, WIDTH - RIGHT, floor, stroke="#999999"),
        svg.words(LEFT - 8, top + 14, "writes", anchor="end"),
        svg.words(LEFT - 8, top + 27, f"max {peak}", anchor="end", size=9.5, fill="#777777"),
        svg.words(LEFT - 8, floor + 9, "errors", anchor="end", size=9.5, fill=ERRORS),
    ]
    seen: set[int] = set()
    for at in panel.errors:
        pixel = round(x_of(at))
        if panel.begin <= at <= panel.end and pixel not in seen:
            seen.add(pixel)
            elements.append(svg.rect(x_of(at) - 1, floor + 2, 2, 8, fill=ERRORS))
    return elements


def _marks(panel: Panel, x_of: Scale, top: float, bottom: float) -> list[str]:
    """Draw the steps; each label takes the first row in which it has room, and no line goes through a label."""
    lines: list[str] = []
    labels: list[str] = []
    taken = [float("-inf")] * MARK_ROWS
    for at, name in sorted(panel.marks):
        if not panel.begin <= at <= panel.end:
            continue
        x = x_of(at)
        label = f"{name} {_since(at - panel.zero)}".strip()
        colour = MARKS.get(name, "#555555")
        is_main = name in ("fault", "opened")
        row = next((index for index, end in enumerate(taken) if x > end), MARK_ROWS - 1)
        y = top + row * MARK_ROW
        taken[row] = x + 5.8 * len(label) + 8
        lines.append(svg.line(x, y - 8, x, bottom, stroke=colour, width=1.6 if is_main else 1, dash="3 2"))
        labels.append(svg.words(x + 3, y, label, size=10, fill=colour, bold=is_main, halo=True))
    return [*lines, *labels]


def _since(seconds: float) -> str:
    return "" if seconds == 0 else f"{seconds * 1000:.0f} ms" if abs(seconds) < 1 else f"{seconds:.2f} s"
