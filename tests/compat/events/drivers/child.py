"""The application's part of an event, the same for every driver of Python; the words of it stand in events/scene.py.

Speaks in lines of JSON on standard output and waits for lines on standard input, meanwhile the event loop runs: a driver that
listens in the background hears what comes.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Protocol


class Session(Protocol):
    """A connection, in the driver's autocommit mode: transactions are begun by hand."""

    async def execute(self, statement: str) -> object: ...


Connect = Callable[[], Awaitable[Session]]
Play = Callable[[Any], Coroutine[Any, Any, None]]


def say(**line: object) -> None:
    """Tell the other side."""
    print(json.dumps(line), flush=True)


async def hear() -> None:
    """Wait for a word of the other side."""
    if not await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline):
        sys.exit(0)


def facts(error: BaseException) -> dict[str, object]:
    """Return what an application can know of *error*."""
    cls = type(error)
    fields = error.args[0] if error.args and isinstance(error.args[0], dict) else {}
    return {
        "error": f"{cls.__module__.partition('.')[0]}.{cls.__name__}",
        "sqlstate": getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or fields.get("C"),
        "text": " ".join(str(fields.get("M") or error).split())[:200],
    }


async def attempt(step: str, act: Callable[[], Awaitable[Any]]) -> Any:
    """Do *act*, tell what came of it, and return its value."""
    begun = time.monotonic()
    try:
        value = await act()
    except Exception as error:
        say(step=step, after_s=round(time.monotonic() - begun, 1), **facts(error))
        return None
    say(step=step, after_s=round(time.monotonic() - begun, 1))
    return value


async def play(event: str, connect: Connect, special: Mapping[str, Play]) -> None:
    """Play *event*."""
    if event.startswith("login"):
        say(ready=True)
        await hear()
        await attempt("connect", connect)
        return
    session = await connect()
    await session.execute("select 1")
    if event in special:
        await special[event](session)
        return
    if event in ("transaction", "running", "switchover in a transaction", "commit"):
        await session.execute("begin")
        await session.execute(f"insert into {'slow' if event == 'commit' else 'quick'} values (1)")
    say(ready=True)
    if event == "commit":
        await attempt("commit", lambda: session.execute("commit"))
    elif event == "running":
        await attempt("statement", lambda: session.execute("select pg_sleep(60)"))
    elif event == "alone":
        await attempt("statement", lambda: session.execute("insert into quick select 1 from pg_sleep(60)"))
    else:
        await hear()
        await attempt("statement", lambda: session.execute("insert into quick values (2)"))
        if event == "switchover in a transaction":
            await attempt("commit", lambda: session.execute("commit"))
            say(committed=True)
            await hear()
    await attempt("next statement", lambda: session.execute("select 1"))
    await attempt("new connection", connect)


def main(connect: Connect, special: Mapping[str, Play] | None = None) -> None:
    """Play the event that is named on the command line, or list those that only this driver has."""
    if sys.argv[1] == "--special":
        print(json.dumps(list(special or {})))
        return
    asyncio.run(play(sys.argv[1], connect, special or {}))
