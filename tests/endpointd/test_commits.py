"""Which startup packets and statements weaken what a commit promises."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from endpointd.relay.relaxed import Relaxed, relaxed_by
from endpointd.session.startupsettings import refused_at_startup, relaxed_at_startup, settings_asked_for
from pgtopology.desired import DesiredSettings
from pgtopology.document import Durability
from pgwire.startup import StartupMessage, make_startup
from testkit.feedserver import document

OFF = ("synchronous_commit", "off")


def asks(options: str) -> list[tuple[str, str]]:
    return [pair for pair in settings_asked_for(make_startup("u", "d", options=options)) if pair[0] not in ("user", "database")]


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ("-c synchronous_commit=off", [OFF]),
        ("-csynchronous_commit=off", [OFF]),
        ("-c synchronous-commit=off", [OFF]),
        ("--synchronous_commit=off", [OFF]),
        ("--synchronous-commit=off", [OFF]),
        ("-c SYNCHRONOUS_Commit=off", [OFF]),
        ("-Ecsynchronous_commit=off", [OFF]),
        ("-E -c synchronous_commit=off", [OFF]),
        ("-S 4 -c synchronous_commit=off", [OFF]),
        (r"-c synchronous_\commit=\off", [OFF]),
        ("\t-c\n synchronous_commit=off ", [OFF]),
        (r"-c search_path=a\ -c\ b -c synchronous_commit=off", [("search_path", "a -c b"), OFF]),
        (r"-c application_name=a\\ -c synchronous_commit=off", [("application_name", "a\\"), OFF]),
        (r"-c application_name=--synchronous_commit=off", [("application_name", "--synchronous_commit=off")]),
        ("-c work_mem=77kB -c search_path=a,b", [("work_mem", "77kB"), ("search_path", "a,b")]),
        ("-S --synchronous_commit=off", []),
        ("", []),
        ("-c", [("", "")]),
        ("--", [("", "")]),
        ("synchronous_commit=off", []),
        ("\\", []),
    ],
)
def test_options_are_read_as_a_server_reads_them(options: str, asked: list[tuple[str, str]]) -> None:
    assert asks(options) == asked


@given(st.text(alphabet=" \\-cSE=-_aoffn", max_size=60))
def test_any_options_can_be_read(options: str) -> None:
    for name, _ in asks(options):
        assert name == name.lower()


@pytest.mark.parametrize("value", ["on", "ON", "true", "yes", "1"])
def test_full_commits_may_be_asked_for(value: str) -> None:
    message = make_startup("u", "d", synchronous_commit=value, options=f"-c synchronous_commit={value}")
    assert refused_at_startup(message) is None
    assert relaxed_at_startup(message) is Relaxed.NONE


@pytest.mark.parametrize("value", ["off", "LOCAL", "remote_write", "remote_apply", "false", "no", "0", "", "nonsense"])
@pytest.mark.parametrize("how", ["parameter", "options"])
def test_less_is_refused_and_says_what_to_do(value: str, how: str) -> None:
    word = ("Synchronous_Commit", value) if how == "parameter" else ("options", f"-c synchronous_commit={value}")
    message = StartupMessage(3 << 16, (("user", "u"), word))
    why = refused_at_startup(message)
    assert why is not None
    assert (why.sqlstate, why.kind) == ("22023", "commits_relaxed")
    assert f'"synchronous_commit" cannot be set to "{value}"' in why.message
    assert relaxed_at_startup(message) is Relaxed.COMMITS


def test_the_reason_against_remote_apply_is_another_than_against_less() -> None:
    details = [refused_at_startup(make_startup("u", "d", synchronous_commit=value)) for value in ("off", "remote_apply")]
    assert ["before they are on the quorum" in (why.detail or "") for why in details if why is not None] == [True, False]


def test_a_later_word_does_not_excuse_an_earlier_one() -> None:
    message = StartupMessage(3 << 16, (("user", "u"), ("options", "-c synchronous_commit=off"), ("synchronous_commit", "on")))
    assert refused_at_startup(message) is not None


@pytest.mark.parametrize(("value", "refused"), [("error", True), ("Fatal", True), ("warning", False), ("notice", False)])
def test_warnings_may_not_be_hidden(value: str, refused: bool) -> None:
    why = refused_at_startup(make_startup("u", "d", client_min_messages=value))
    assert (why.kind if why is not None else None) == ("warnings_hidden" if refused else None)


def test_a_client_is_quoted_in_utf8_and_not_without_end() -> None:
    why = refused_at_startup(make_startup("u", "d", synchronous_commit="\udcff" + "x" * 5000))
    assert why is not None
    assert len(why.encode()) < 600


def test_the_promise_is_the_quorums_unless_an_operator_gave_it_up() -> None:
    topology = document(writer="n1")
    assert topology.promises_commits
    assert msgspec.structs.replace(topology, durability=Durability.REDUCED).promises_commits
    assert not msgspec.structs.replace(topology, durability=Durability.ASYNC).promises_commits
    relaxed = msgspec.structs.replace(topology, desired=DesiredSettings(relaxed_commits=True))
    assert not relaxed.promises_commits
    assert relaxed.waits_for_copies


@pytest.mark.parametrize(
    ("statement", "relaxed"),
    [
        ("set synchronous_commit = off", Relaxed.COMMITS),
        ("begin; SET LOCAL Synchronous_Commit TO 'local'; insert into t values (1); commit", Relaxed.COMMITS),
        ("select set_config('synchronous_commit', 'off', false)", Relaxed.COMMITS),
        ("alter role u set synchronous_commit = off", Relaxed.COMMITS),
        ("set synchronous_commit = one", Relaxed.COMMITS),
        ("set synchronous_commit = on; set synchronous_commit = off", Relaxed.COMMITS),
        ('set "synchronous_commit" = off', Relaxed.COMMITS),
        ("set synchronous_commit = on", Relaxed.NONE),
        ('set "synchronous_commit" to default', Relaxed.NONE),
        ("SET SESSION synchronous_commit TO 'remote_apply'", Relaxed.COMMITS),
        ("SET SESSION synchronous_commit TO 'on'", Relaxed.NONE),
        ("show synchronous_commit", Relaxed.NONE),
        ("reset synchronous_commit", Relaxed.NONE),
        ("select current_setting('synchronous_commit')", Relaxed.NONE),
        ("select set_config('synchronous_commit', 'on', true)", Relaxed.NONE),
        ("set client_min_messages = error", Relaxed.WARNINGS),
        ("select set_config('client_min_messages', 'error', false)", Relaxed.WARNINGS),
        ("SET client_min_messages = warning;", Relaxed.NONE),
        ("select pg_catalog.set_config('client_min_messages', 'notice', false)", Relaxed.NONE),
        ("set client_min_messages to error; set synchronous_commit to off", Relaxed.WARNINGS | Relaxed.COMMITS),
        ("select a_b from t", Relaxed.NONE),
        ("", Relaxed.NONE),
    ],
)
def test_statements_that_weaken_commits_are_noticed(statement: str, relaxed: Relaxed) -> None:
    assert relaxed_by(statement.encode() + b"\0") == relaxed
