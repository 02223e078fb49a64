"""What a pool that is closed does to whoever comes to it in that very moment."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from endpointd import refusal
from endpointd.pooling.bridge import give_away
from endpointd.session.pooledlogin import PooledLogin
from endpointd.session.pooledsession import PooledSession
from endpointd.wire.link import Link


def nowhere(_descriptor: int, _secret: object) -> int:
    raise KeyError


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def cannot_be_taken(_link: Link, *, can_tls: bool) -> bool:
    del can_tls
    return False


@pytest.mark.parametrize("is_bridged", [False, True])
async def test_who_is_not_taken_leaves_no_descriptor_behind(monkeypatch: pytest.MonkeyPatch, *, is_bridged: bool) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        transport, link = await asyncio.get_running_loop().create_connection(Link, sock=theirs)
        if is_bridged:
            monkeypatch.setattr("endpointd.pooling.bridge.can_be_taken", cannot_be_taken)
        before = descriptors()
        with pytest.raises(KeyError):
            give_away(link, nowhere, can_tls=True)
        assert descriptors() == before
        transport.abort()


async def test_who_comes_to_a_pool_that_was_closed_during_its_login_is_told_why() -> None:
    class Engine:
        def add(self, *_what: object, **_how: object) -> None:
            raise KeyError

    why = refusal.role_changed()
    session: Any = PooledSession.__new__(PooledSession)
    login = PooledLogin.__new__(PooledLogin)
    login.pool = SimpleNamespace(handle=1, why_closed=why)  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]
    session.number, session._login, session._client = 1, login, object()
    session._shared = SimpleNamespace(pools=SimpleNamespace(engine=Engine()))
    session._relay(SimpleNamespace(key_told=None, watch=None, client_rest=b""))
    assert session._why is why
    assert session._end == (why.message, "role_changed")
    assert session._client is not None  # who closes it tells it why
