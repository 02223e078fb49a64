"""What bench/proxy makes of what it measured: only rounds are compared, a tie is one, and the picture shows every way."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence

import pytest

from bench.proxy.columns import CLIENTS, columns
from bench.proxy.picture import picture
from bench.proxy.verdict import Taken, percentiles, ratio, rows
from bench.proxy.ways import Way

SVG = "{http://www.w3.org/2000/svg}"


def taken(*tps: float, cpu_us: float | None = 10.0) -> list[Taken]:
    return [Taken(each, 0.1, 0.2, cpu_us) for each in tps]


def test_a_ratio_is_of_the_same_round() -> None:
    found = ratio(taken(100, 10, 50), taken(200, 10, 25), "other")
    assert (found.median, found.wins, found.rounds) == (1.0, 1, 3)
    assert found.quartiles == (0.75, 1.5)
    assert found.verdict == "tie"


@pytest.mark.parametrize(("tps", "verdict"), [(96.9, "behind"), (97.1, "tie"), (102.9, "tie"), (103.1, "ahead")])
def test_three_in_a_hundred_are_no_difference(tps: float, verdict: str) -> None:
    assert ratio(taken(tps), taken(100.0), "x").verdict == verdict


def test_percentiles_of_one_and_of_none() -> None:
    assert percentiles([3.0]) == (3.0, 3.0)
    assert percentiles([]) == (0.0, 0.0)
    assert percentiles([float(n) for n in range(101)]) == (50.0, 99.0)


def test_only_ours_is_judged_by_the_better_peer() -> None:
    by_way = {"direct": taken(100, 100, cpu_us=None), "ours": taken(66, 66), "one": taken(50, 90), "other": taken(60, 60)}
    found = {row.way: row for row in rows(by_way, direct="direct", peers=("one", "other", "absent"))}
    assert found["ours"].to_peer is not None
    assert found["ours"].to_peer.other == "one"
    assert found["ours"].to_direct is not None
    assert found["ours"].to_direct.median == 0.66
    assert found["direct"].to_direct is None
    assert found["direct"].cpu_us is None
    assert found["one"].to_peer is None


def test_a_way_is_asked_for_what_it_can() -> None:
    def names(way: Way) -> Sequence[str]:
        return [column.name for column in columns(CLIENTS) if way.takes(column)]

    assert len({column.name for column in columns(CLIENTS)}) == len(columns(CLIENTS)) == 22
    assert len(names(Way("all", 1, 1, True))) == 22
    assert not [name for name in names(Way("plain", 1, 1, False)) if "TLS" in name]
    assert not [name for name in names(Way("pool", 1, 1, True, keeps_statements=False)) if "prepared" in name]


def test_the_picture_shows_every_way_and_stays_in_its_frame() -> None:
    by_way = {"direct": taken(100), "ours & mine": taken(66), "one": taken(1700)}
    root = ET.fromstring(picture({f"column {n}": rows(by_way, direct="direct", peers=("one",)) for n in range(9)}))  # noqa: S314
    texts = {element.text for element in root.iter(f"{SVG}text")}
    assert {"ours & mine", "one", "column 0", "column 8", "17.0"} <= texts
    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    for element in root.iter(f"{SVG}rect"):
        assert float(element.get("x", -1)) >= 0
        assert float(element.get("x", 0)) + float(element.get("width", 0)) <= width
        assert float(element.get("y", -1)) >= 0
        assert float(element.get("y", 0)) + float(element.get("height", 0)) <= height
