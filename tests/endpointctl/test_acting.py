"""Who runs the command, and what was typed, as the manager's journal will have it."""

from __future__ import annotations

import os
import pwd
import socket
from datetime import UTC, datetime, timedelta

import pytest

from daemonkit.exits import WrongUsage
from endpointctl.acting import command_line, operator
from endpointctl.watching import read_since

NOW = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)


def test_the_operator_is_the_systems_user_not_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "somebody-else")
    monkeypatch.setenv("USER", "somebody-else")
    monkeypatch.delenv("SUDO_USER", raising=False)
    me = pwd.getpwuid(os.getuid()).pw_name
    assert operator() == f"{me}@{socket.gethostname()}"
    monkeypatch.setenv("SUDO_USER", "alice")
    assert operator() == f"{me}@{socket.gethostname()} (sudo by alice)"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["pause"], "endpointctl pause"),
        (["config", "set", "a=b c"], "endpointctl config set 'a=b c'"),
        (
            ["verify", "--writer-dsn", "postgresql://u:s3cret@h:1/d", "--reader-dsn=postgres://u:s3cret@h/d"],
            "endpointctl verify --writer-dsn 'postgresql://u:***@h:1/d' '--reader-dsn=postgres://u:***@h/d'",
        ),
        (["verify", "--writer-dsn", "postgresql://u@h/d"], "endpointctl verify --writer-dsn postgresql://u@h/d"),
    ],
)
def test_what_was_typed_is_kept_without_passwords(words: list[str], line: str) -> None:
    assert command_line(words) == line


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("90s", NOW - timedelta(seconds=90)),
        ("15m", NOW - timedelta(minutes=15)),
        ("2h", NOW - timedelta(hours=2)),
        ("3d", NOW - timedelta(days=3)),
        ("2026-11-29T10:00:00Z", datetime(2026, 11, 29, 10, tzinfo=UTC)),
        ("2026-11-29T10:00:00+02:00", datetime(2026, 11, 29, 8, tzinfo=UTC)),
        ("2026-11-29 10:00", datetime(2026, 11, 29, 10).astimezone()),
        ("2026-11-29", datetime(2026, 11, 29).astimezone()),
    ],
)
def test_a_beginning_is_a_time_or_a_duration(text: str, moment: datetime) -> None:
    assert read_since(text, NOW) == moment


@pytest.mark.parametrize("text", ["", "yesterday", "-5m", "5", "5 minutes", "999999999d", "2026-13-01"])
def test_what_is_no_time_is_refused_with_what_is(text: str) -> None:
    with pytest.raises(WrongUsage) as caught:
        read_since(text, NOW)
    assert "90s, 15m, 2h, 3d" in caught.value.line
