"""Logs: one line an event, in both styles, libraries included."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from daemonkit.logs import configure_logs, get_logger


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(False)


def test_json_lines_carry_fields_and_program(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(program="noded", style="json")
    get_logger(node="n2").info("writer changed", epoch=7)
    line = json.loads(capsys.readouterr().err)
    assert line | {"timestamp": ""} == {
        "event": "writer changed", "epoch": 7, "node": "n2", "program": "noded", "level": "info", "timestamp": "",
    }  # fmt: skip


def test_what_is_below_the_level_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(program="noded", level="warning", style="json")
    get_logger().info("quiet")
    logging.getLogger("library").info("quiet")
    assert capsys.readouterr().err == ""


def test_a_logger_made_before_the_configuration_obeys_it(capsys: pytest.CaptureFixture[str]) -> None:
    log = get_logger(early=True)
    configure_logs(program="noded", style="json")
    log.info("later")
    assert json.loads(capsys.readouterr().err)["early"] is True


def test_libraries_go_the_same_way(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(program="noded", style="json")
    logging.getLogger("aiohttp.server").warning("hello %s", "x")
    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["library"], line["level"]) == ("hello x", "aiohttp.server", "warning")


@pytest.mark.parametrize("style", ["console", "json"])
def test_a_name_from_elsewhere_is_only_read(capsys: pytest.CaptureFixture[str], style: str) -> None:
    configure_logs(program="noded", style=style)
    hostile = "\x1b[2J\x9b31m\u202e"
    get_logger(**{hostile: 1}).info(f"seen{hostile}", name=hostile, names=[hostile])
    try:
        raise ValueError(hostile)
    except ValueError:
        get_logger().exception("failed")
    logging.getLogger("library").warning("said %s", hostile)
    said = capsys.readouterr().err
    assert "ValueError" in said
    assert all(line.isprintable() for line in said.split("\n"))
    if style == "json":
        assert json.loads(said.split("\n")[0])["name"] == hostile


@pytest.mark.parametrize("style", ["console", "json"])
def test_a_traceback_does_not_show_local_values(capsys: pytest.CaptureFixture[str], style: str) -> None:
    configure_logs(program="noded", style=style)
    password = f"{style}-{style}"
    try:
        int(password[:0] + "x")
    except ValueError:
        get_logger().exception("failed")
    text = capsys.readouterr().err
    assert "ValueError" in text
    assert f"{style}-{style}" not in text


def test_unknown_level_and_style_are_errors() -> None:
    with pytest.raises(ValueError, match="unknown log level"):
        configure_logs(program="noded", level="loud")
    with pytest.raises(ValueError, match="unknown log style"):
        configure_logs(program="noded", style="xml")


def test_a_disk_that_takes_no_more_loses_lines_and_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    with path.open("w") as file, Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stderr", file)
        configure_logs(program="noded", style="json")
        kept = os.dup(file.fileno())
        get_logger().info("before")
        os.dup2(full.fileno(), file.fileno())
        get_logger().info("lost")
        logging.getLogger("library").warning("lost as well")
        os.dup2(kept, file.fileno())
        os.close(kept)
        get_logger().info("after")
    events = [json.loads(line) for line in path.read_text().splitlines()]
    assert [event["event"] for event in events] == ["before", "after", "lines could not be written here and are lost"]
    assert events[-1]["lines"] == 2
