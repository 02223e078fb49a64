"""Settings: what is refused, and whether the error leads an operator to the place."""

from __future__ import annotations

import datetime as dt
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest

from daemonkit.settings import SettingsError, load_settings


class Http(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    host: str
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    token_file: Path = Path("token")
    timeout_s: Annotated[float, msgspec.Meta(gt=0)] = 1.0


class Logs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    level: Literal["debug", "info"] = "info"
    colors: bool | None = None


class Node(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: Annotated[str, msgspec.Meta(pattern="^[a-z0-9]+$")]
    zone: Annotated[str, msgspec.Meta(min_length=1, max_length=3)] = "az1"
    tags: tuple[str, ...] = ()


class Mode(StrEnum):
    FAST = "fast"
    SAFE = "safe"


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    least: Annotated[int, msgspec.Meta(ge=1)] = 1
    above: Annotated[int, msgspec.Meta(gt=1)] = 2
    most: Annotated[int, msgspec.Meta(le=9)] = 1
    below: Annotated[float, msgspec.Meta(lt=9)] = 1
    between: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.5
    name: Annotated[str, msgspec.Meta(min_length=2)] = "ab"
    short: Annotated[str, msgspec.Meta(max_length=2)] = "ab"
    plain: int = 0
    mode: Mode = Mode.FAST
    either: int | str = 0
    pair: tuple[int, ...] = ()
    any: dt.date | None = None
    http: Http | None = None
    zones: dict[str, tuple[int, ...]] = {}


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    http: Http
    logs: Logs = Logs()
    nodes: tuple[Node, ...] = ()
    endpoints: dict[str, Http] = {}
    extra: dict[str, str] = {}
    limits: Limits = Limits()


GOOD = "[http]\nhost = 'a'\nport = 1\n"


def load(tmp_path: Path, text: str) -> Settings:
    path = tmp_path / "some.toml"
    path.write_text(text)
    return load_settings(path, Settings)


def test_settings_become_one_frozen_value(tmp_path: Path) -> None:
    settings = load(tmp_path, GOOD + "token_file = '~/token'\ntimeout_s = 2\n[[nodes]]\nname = 'n1'\ntags = ['x']\n")
    assert settings.http == Http("a", 1, Path.home() / "token", 2.0)
    assert settings.nodes == (Node("n1", tags=("x",)),)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[http\n", "not valid TOML: Expected ']' at the end of a table declaration (at line 1, column 6)"),
        ("", "[http]: missing; expected a table"),
        ("http = 3", "http: expected a table, got 3"),
        ("[http]\nport = 1", "[http].host: missing; expected a string"),
        ("[http]\nhost = 1\nport = 1", "[http].host: expected a string, got 1"),
        (GOOD + "prt = 2", "[http].prt: unknown key; known keys are host, port, timeout_s, token_file"),
        (GOOD + "[htp]", "htp: unknown key; known keys are endpoints, extra, http, limits, logs, nodes"),
        ("[http]\nhost = 'a'\nport = 70000", "[http].port: expected an integer from 1 to 65535, got 70000"),
        ("[http]\nhost = 'a'\nport = '1'", '[http].port: expected an integer from 1 to 65535, got "1"'),
        ("[http]\nhost = 'a'\nport = true", "[http].port: expected an integer from 1 to 65535, got true"),
        (GOOD + "timeout_s = 0", "[http].timeout_s: expected a number above 0, got 0"),
        (GOOD + "token_file = 3", "[http].token_file: expected a path in quotes, got 3"),
        (GOOD + "token_file = ''", '[http].token_file: expected a path in quotes, got ""'),
        (GOOD + "[logs]\nlevel = 'loud'", '[logs].level: expected one of "debug", "info", got "loud"'),
        (GOOD + "[logs]\ncolors = 'x'", '[logs].colors: expected true or false, got "x"'),
        (GOOD + "[[nodes]]\nname = 'n1'\n[[nodes]]\nname = 'N2'", "[[nodes]] 2, name: expected a string that matches"),
        (GOOD + "[[nodes]]\nname = 'n1'\nport = 1", "[[nodes]] 1, port: unknown key; known keys are name, tags, zone"),
        (GOOD + "[[nodes]]\nzone = 'a'", "[[nodes]] 1, name: missing"),
        (
            GOOD + "[[nodes]]\nname = 'a'\nzone = 'long'",
            '[[nodes]] 1, zone: expected a string of 1 to 3 characters, got "long"',
        ),
        (GOOD + "[[nodes]]\nname = 'a'\ntags = 1", "[[nodes]] 1, tags: expected an array, got 1"),
        (GOOD + "[endpoints.a]\nhost = 'x'\nport = 1\n[endpoints.b]\nhost = 'x'", "[endpoints.b].port: missing"),
        (GOOD + "[endpoints.a]\nhost = 'x'\nport = 1\nx = 1", "[endpoints.a].x: unknown key"),
        (GOOD + "[extra]\na = 'x'\nb = 1", "[extra].b: expected a string, got 1"),
        (GOOD + "[extra]\nb = 1979-05-27", "[extra].b: expected a string, got something else"),
    ],
)
def test_an_error_names_table_key_and_what_is_accepted(tmp_path: Path, text: str, error: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'some.toml'}: {error}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("least = 0", "[limits].least: expected an integer of 1 or more, got 0"),
        ("above = 1", "[limits].above: expected an integer above 1, got 1"),
        ("most = 10", "[limits].most: expected an integer of 9 or less, got 10"),
        ("below = 9.5", "[limits].below: expected a number below 9, got 9.5"),
        ("between = 1.0", "[limits].between: expected a number from above 0 to below 1, got 1.0"),
        ("name = 'a'", '[limits].name: expected a string of 2 or more characters, got "a"'),
        ("short = 'abc'", '[limits].short: expected a string of 0 to 2 characters, got "abc"'),
        ("plain = 1.5", "[limits].plain: expected an integer, got 1.5"),
        ("plain = []", "[limits].plain: expected an integer, got an array"),
        ("plain = {}", "[limits].plain: expected an integer, got a table"),
        ("mode = 'slow'", '[limits].mode: expected one of "fast", "safe", got "slow"'),
        ("either = 1.5", "[limits].either: expected an integer or a string, got 1.5"),
        ("pair = [1, 'x']", '[limits].pair, item 2: expected an integer, got "x"'),
        ("any = 3", "[limits].any: expected `date | null`, got `int`"),
        ("http = { host = 'a', port = 0 }", "[limits.http].port: expected an integer from 1 to 65535, got 0"),
        ("http = { host = 'a', x = 0 }", "[limits.http].x: unknown key; known keys are host, port, timeout_s, token_file"),
        ("zones = { a = [1], b = [1, 'x'] }", '[limits.zones].b, item 2: expected an integer, got "x"'),
    ],
)
def test_every_kind_of_value_says_what_it_accepts(tmp_path: Path, line: str, error: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, f"{GOOD}[limits]\n{line}\n")
    assert str(caught.value) == f"{tmp_path / 'some.toml'}: {error}"


def test_a_missing_file_and_a_binary_one_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.toml: the settings cannot be read: No such file or directory"):
        load_settings(tmp_path / "none.toml", Settings)
    (tmp_path / "binary.toml").write_bytes(b"\xff")
    with pytest.raises(SettingsError, match=r"binary\.toml: the settings are not UTF-8 text"):
        load_settings(tmp_path / "binary.toml", Settings)


def test_a_long_wrong_value_is_not_quoted_whole(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, GOOD + f"[logs]\nlevel = '{'x' * 500}'")
    assert len(str(caught.value)) < 300
