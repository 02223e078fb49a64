"""The picture: well-formed SVG that shows every lane, step and gap, and nothing outside its frame."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence

import pytest

from bench import svg
from bench.timeline import COLOURS, LEFT, RIGHT, WIDTH, Panel, Sample, picture

SVG = "{http://www.w3.org/2000/svg}"


def panel(*, lanes: Mapping[str, Sequence[Sample]] | None = None, marks: Sequence[tuple[float, str]] = ()) -> Panel:
    return Panel(
        title="kill <all> & more",
        note="1.00 s without a commit",
        is_good=True,
        zero=100.0,
        begin=99.0,
        end=104.0,
        lanes=lanes if lanes is not None else {"n1": [Sample(90.0, "writer"), Sample(100.1, "stopped")]},
        acknowledged=[99.0 + n / 100 for n in range(100)] + [101.0 + n / 100 for n in range(300)],
        errors=[100.01, 100.02, 103.9, 500.0],
        outage=(99.99, 101.0),
        marks=marks,
    )


def parse(text: str) -> ET.Element:
    return ET.fromstring(text)  # noqa: S314 - our own text


def texts(root: ET.Element) -> list[str]:
    return [element.text or "" for element in root.iter(f"{SVG}text")]


def test_a_picture_is_well_formed_and_names_what_it_shows() -> None:
    marks = [(100.0, "fault"), (100.25, "elected"), (101.5, "opened")]
    root = parse(picture("Faults", [panel(marks=marks)]))
    shown = texts(root)
    assert {"Faults", "kill <all> & more", "n1", "writes", "fault", "elected 250 ms", "opened 1.50 s"} <= set(shown)
    assert "no commit for 1.01 s" in shown


def test_everything_is_inside_the_frame() -> None:
    lanes = {"n1": [Sample(0.0, "writer"), Sample(1000.0, "stopped")], "n2": [Sample(99.5, "streaming"), Sample(103.0, "odd")]}
    root = parse(picture("x", [panel(lanes=lanes, marks=[(50.0, "early"), (100.0, "fault"), (900.0, "late")])]))
    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    for element in root.iter(f"{SVG}rect"):
        x, y = float(element.get("x", -1)), float(element.get("y", -1))
        assert x >= 0
        assert x + float(element.get("width", 0)) <= width
        assert y >= 0
        assert y + float(element.get("height", 0)) <= height
    assert not {"early", "late"} & {text.split(" ")[0] for text in texts(root)}


def test_a_lane_is_as_long_as_the_state_lasted() -> None:
    root = parse(picture("x", [panel()]))
    fills = {colour: name for name, (colour, _) in COLOURS.items()}
    drawn = {
        fills[str(element.get("fill"))]: float(element.get("width", 0))
        for element in root.iter(f"{SVG}rect")
        if element.get("fill") in fills and element.get("height") == "20"
    }
    per_second = (WIDTH - LEFT - RIGHT) / 5.0
    assert drawn["writer"] == pytest.approx(1.1 * per_second, abs=0.1)
    assert drawn["stopped"] == pytest.approx(3.9 * per_second, abs=0.1)


def test_labels_that_are_close_take_different_rows() -> None:
    marks = [(100.0 + n / 100, f"step{n}") for n in range(6)]
    root = parse(picture("x", [panel(marks=marks)]))
    rows = {element.get("y") for element in root.iter(f"{SVG}text") if (element.text or "").startswith("step")}
    assert len(rows) == 6


def test_a_run_without_any_acknowledgement_can_be_drawn() -> None:
    empty = Panel(
        title="t",
        note="n",
        is_good=False,
        zero=0.0,
        begin=-1.0,
        end=2.0,
        lanes={},
        acknowledged=[],
        errors=[],
        outage=(0.0, float("inf")),
    )
    assert parse(picture("x", [empty])).tag == f"{SVG}svg"


def test_words_are_escaped() -> None:
    assert parse(svg.document(10, 10, [svg.words(0, 0, "a < b & c")]))[1].text == "a < b & c"
