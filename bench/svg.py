"""A few SVG elements as text: rectangles, lines, words, polygons. Pure; knows nothing of what is drawn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from xml.sax.saxutils import escape, quoteattr

FONT = "font-family:system-ui,-apple-system,'DejaVu Sans',sans-serif"


def document(width: float, height: float, elements: Iterable[str]) -> str:
    """Return a whole file with a white ground."""
    body = "\n".join(elements)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_n(width)}" height="{_n(height)}" '
        f'viewBox="0 0 {_n(width)} {_n(height)}" style="{FONT}">\n'
        f"{rect(0, 0, width, height, fill='#ffffff')}\n{body}\n</svg>\n"
    )


def rect(x: float, y: float, width: float, height: float, *, fill: str, radius: float = 0, title: str = "") -> str:
    """Return a filled rectangle; *title* is shown when the pointer rests on it."""
    shape = f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(max(0.0, width))}" height="{_n(height)}" fill={quoteattr(fill)}'
    shape += f' rx="{_n(radius)}"' if radius else ""
    return f"{shape}><title>{escape(title)}</title></rect>" if title else f"{shape}/>"


def line(x1: float, y1: float, x2: float, y2: float, *, stroke: str, width: float = 1, dash: str = "") -> str:
    """Return a straight line."""
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<line x1="{_n(x1)}" y1="{_n(y1)}" x2="{_n(x2)}" y2="{_n(y2)}" stroke={quoteattr(stroke)} '
        f'stroke-width="{_n(width)}"{dashed}/>'
    )


def words(
    x: float,
    y: float,
    text: str,
    *,
    size: float = 11,
    fill: str = "#333333",
    anchor: str = "start",
    bold: bool = False,
    halo: bool = False,
) -> str:
    """Return *text* with its base line at *y*; *anchor* is start, middle or end; a *halo* keeps it legible across lines."""
    weight = ' font-weight="600"' if bold else ""
    around = ' paint-order="stroke" stroke="#ffffff" stroke-width="3"' if halo else ""
    return (
        f'<text x="{_n(x)}" y="{_n(y)}" font-size="{_n(size)}" fill={quoteattr(fill)} '
        f'text-anchor="{anchor}"{weight}{around}>{escape(text)}</text>'
    )


def polygon(points: Sequence[tuple[float, float]], *, fill: str, opacity: float = 1) -> str:
    """Return a filled polygon."""
    listed = " ".join(f"{_n(x)},{_n(y)}" for x, y in points)
    return f'<polygon points="{listed}" fill={quoteattr(fill)} fill-opacity="{_n(opacity)}"/>'


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
