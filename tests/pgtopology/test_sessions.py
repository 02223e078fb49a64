"""Names of sessions, and which sessions a filter means."""

from __future__ import annotations

import msgspec
import pytest

from pgtopology.codec import MessageError, decode, encode
from pgtopology.sessions import SessionFilter, SessionId, SessionOrder, SessionQuestion, SessionView


def view(**changes: object) -> SessionView:
    fields: dict[str, object] = {
        "session": 1,
        "endpoint": "writer",
        "client": "10.0.0.1:5000",
        "state": "relaying",
        "doing": "idle",
        "node": "n1",
        "user": "alice",
        "database": "shop",
        "application_name": "psql",
        "age_s": 1.0,
        "to_server_bytes": 0,
        "to_client_bytes": 0,
        "held_bytes": 0,
        **changes,
    }
    return msgspec.convert(fields, SessionView)


def test_an_id_names_proxy_and_session() -> None:
    assert SessionId.read("proxy-1:42") == SessionId("proxy-1", 42)
    assert SessionId.read("eu:west:7") == SessionId("eu:west", 7)
    assert str(SessionId("proxy-1", 42)) == "proxy-1:42"


@pytest.mark.parametrize("text", ["", "42", ":42", "proxy-1:", "proxy-1:x", "proxy-1:-1", "proxy-1:٤", "p:" + "9" * 17])
def test_what_is_no_id(text: str) -> None:
    with pytest.raises(ValueError, match="is no session: expected is a proxy and a number"):
        SessionId.read(text)


@pytest.mark.parametrize(
    ("which", "is_meant"),
    [
        (SessionFilter(), True),
        (SessionFilter(user="alice", database="shop", endpoint="writer", node="n1", state="idle", numbers=(1, 2)), True),
        (SessionFilter(user="bob"), False),
        (SessionFilter(database="alice"), False),
        (SessionFilter(endpoint="reader"), False),
        (SessionFilter(node="n2"), False),
        (SessionFilter(state="busy"), False),
        (SessionFilter(state="login"), False),
        (SessionFilter(numbers=(2,)), False),
        (SessionFilter(numbers=()), False),
    ],
)
def test_a_filter_means_those_for_which_all_of_it_holds(which: SessionFilter, is_meant: bool) -> None:
    assert which.takes(view()) is is_meant


def test_a_login_has_the_state_of_its_login() -> None:
    waiting = view(state="connecting", doing=None, node=None)
    assert waiting.activity == "connecting"
    assert SessionFilter(state="login").takes(waiting)
    assert SessionFilter(state="connecting").takes(waiting)
    assert not SessionFilter(state="idle").takes(waiting)


def test_a_question_that_is_not_wholly_understood_is_not_understood() -> None:
    question = SessionQuestion(id="1", order=SessionOrder.END, which=SessionFilter(user="alice"))
    assert decode(encode(question), SessionQuestion) == question
    newer = encode(question).replace(b'"user"', b'"tenant"')
    with pytest.raises(MessageError, match="unknown field"):
        decode(newer, SessionQuestion)
