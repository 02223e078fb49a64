"""Which engine serves, where there is a native one and where there is none."""

from __future__ import annotations

import sys

import pytest

import endpointd.relay
from endpointd.relay.choice import make_engine, why_not_native
from endpointd.settings import WantedEngine
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
