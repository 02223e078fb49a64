"""Which engine serves, where there is a native one and where there is none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import endpointd.relay
from daemonkit.settings import SettingsError
from deployment.local.layout import Layout
from endpointctl.local.checkup import examine
from endpointctl.local.machine import Grade
from endpointd.assembly import check, prepare
from endpointd.pooling import statestatements
from endpointd.relay.choice import make_engine, why_not_native
from endpointd.settings import (
    FeedSettings,
    HttpSettings,
    NodedSettings,
    PooledSettings,
    ProxySettings,
    ReaderSettings,
    Settings,
    WantedEngine,
    WriterSettings,
)
from tests.endpointd.twins import native


@pytest.fixture
def unbuilt(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation without the extension."""
    monkeypatch.delattr(endpointd.relay, "_native", raising=False)
    monkeypatch.setitem(sys.modules, "endpointd.relay._native", None)
    monkeypatch.delitem(sys.modules, "endpointd.relay.native_engine", raising=False)


@pytest.mark.skipif(native is None, reason="the native engine was not built")
def test_the_native_engine_serves_where_it_was_built() -> None:
    wanted: dict[WantedEngine, str] = {"auto": "native", "native": "native", "asyncio": "asyncio"}
    assert why_not_native() is None
    assert {each: make_engine(each).name for each in wanted} == wanted


@pytest.mark.usefixtures("unbuilt")
def test_the_asyncio_engine_serves_where_there_is_no_other() -> None:
    assert make_engine("auto").name == "asyncio"
    assert "install a C compiler" in (why_not_native() or "")
    with pytest.raises(ImportError):
        make_engine("native")


@pytest.mark.usefixtures("unbuilt")
def test_doctor_says_what_it_takes_to_have_the_native_engine(tmp_path: Path) -> None:
    (found,) = (finding for finding in examine(Layout(tmp_path)) if finding.subject == "relay engine")
    assert found.grade is Grade.NOTE
    assert "install a C compiler" in found.text


def pooling(directory: Path) -> Settings:
    """Settings that can be used, with a pooled endpoint."""
    token = directory / "token"
    token.write_text("secret")
    token.chmod(0o600)
    return Settings(
        proxy=ProxySettings(name="proxy-1", cache=directory),
        feed=FeedSettings(urls=("http://127.0.0.1:1",), token_file=token),
        nodeds=NodedSettings(token_file=token),
        http=HttpSettings(port=0, token_file=token),
        writer=WriterSettings(port=0),
        reader=ReaderSettings(port=0),
        pooled_writer=PooledSettings(port=0),
    )


@pytest.mark.skipif(native is None, reason="the native engine was not built")
def test_check_and_doctor_say_what_pooled_endpoints_lack_without_a_grammar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout(tmp_path)
    assert not [finding for finding in examine(layout) if finding.subject == "pooled endpoints"]
    file = layout.settings_file("endpointd")
    file.parent.mkdir(parents=True)
    file.write_text("[pooled_writer]\nport = 6466\n")
    assert check(pooling(tmp_path)) == ()
    (found,) = (finding for finding in examine(layout) if finding.subject == "pooled endpoints")
    assert found.grade is Grade.GOOD
    monkeypatch.setattr(statestatements, "grammar", lambda: None)
    (note,) = check(pooling(tmp_path))
    assert note.startswith("[pooled_writer]: pglast is not installed")
    assert f"{sys.executable} -m pip install 'pglast>=8'" in note
    (found,) = (finding for finding in examine(layout) if finding.subject == "pooled endpoints")
    assert (found.grade, found.text) == (Grade.NOTE, note.removeprefix("[pooled_writer]: "))


@pytest.mark.usefixtures("unbuilt")
def test_a_proxy_that_is_to_have_the_native_engine_does_not_begin_without_it() -> None:
    proxy = ProxySettings(name="proxy-1", engine="native", cache=Path("unused"))
    settings = Settings(
        proxy=proxy,
        feed=FeedSettings(urls=("http://127.0.0.1:1",), token_file=Path("unused")),
        nodeds=NodedSettings(token_file=Path("unused")),
        http=HttpSettings(port=0),
        writer=WriterSettings(port=0),
        reader=ReaderSettings(port=0),
    )
    with pytest.raises(SettingsError, match="engine: there is no native engine"):
        prepare(settings)
