"""What statements leave behind in a session, by PostgreSQL's own grammar. The one place that imports pglast (extra `sql`).

Asked only about statements with a suspicious word (native/suspect.c), once for each text.  What a function does inside cannot
be seen.  Pure.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

from endpointd.pooling.pins import Pin, verdict_of

_HOLD = 0x20
"""CURSOR_OPT_HOLD."""
_OF_TRANSACTION = frozenset({"TRANSACTION", "TRANSACTION SNAPSHOT"})
_OF_TRANSACTION_BY_NAME = frozenset({"transaction_isolation", "transaction_read_only", "transaction_deferrable"})
_RESETS = frozenset({"VAR_RESET", "VAR_RESET_ALL", "VAR_SET_DEFAULT"})


@functools.cache
def grammar() -> Callable[[str], str] | None:
    """Return what makes JSON of statements, None if it is not installed. A proxy without pooled endpoints never loads it."""
    try:
        from pglast.parser import parse_sql_json  # pyright: ignore
    except ImportError:
        return None
    return parse_sql_json  # pyright: ignore


def why_no_grammar() -> str | None:
    """Return what is the matter, for people, if there is no grammar to judge statements by; None if there is one."""
    if grammar() is not None:
        return None
    return (
        "pglast is not installed, so a pooled session keeps its server from the first statement on that is not harmless by its"
        f" words alone; `{sys.executable} -m pip install 'pglast>=8'` installs it"
    )


def judge(statement: bytes) -> int:
    """Return the verdict over a session that says *statement*: 0, or as `verdict_of` has it."""
    try:
        stmts = _parse(statement)
    except Exception:
        return verdict_of([Pin.NOT_PARSED], forgets=True)
    found = [_judge(each) for each in stmts]
    return verdict_of((pin for pins, _ in found for pin in pins), forgets=any(forgets for _, forgets in found))


def _parse(statement: bytes) -> list[dict[str, Any]]:
    parse = grammar()
    if parse is None:
        raise ValueError("there is no grammar")
    parsed = json.loads(parse(statement.decode("utf-8", "replace")))
    return [each.get("stmt", {}) for each in parsed.get("stmts", ())]


def _judge(stmt: dict[str, Any]) -> tuple[tuple[Pin, ...], bool]:
    """Return all for which one statement pins, and whether it makes the server forget what is prepared."""
    for kind, node in stmt.items():
        match kind:
            case "VariableSetStmt":
                return _of_setting(node), False
            case "DiscardStmt":
                return (), node.get("target") == "DISCARD_ALL"
            case "DeallocateStmt":
                is_all = "name" not in node
                return () if is_all else (Pin.SQL_PREPARE,), True
            case "ListenStmt":
                return (Pin.LISTEN,), False
            case "PrepareStmt":
                return (Pin.SQL_PREPARE,), False
            case "LoadStmt":
                return (Pin.LOAD,), False
            case "DoStmt":
                return (Pin.DO_BLOCK,), False
            case "DeclareCursorStmt" if node.get("options", 0) & _HOLD:
                return (Pin.HELD_CURSOR,), False
            case _:
                pass
    return tuple(_of_parts(stmt)), False


def _of_setting(node: dict[str, Any]) -> tuple[Pin, ...]:
    name = node.get("name", "")
    if node.get("is_local") or node.get("kind") in _RESETS or name in _OF_TRANSACTION or name in _OF_TRANSACTION_BY_NAME:
        return ()
    return (Pin.SETTING,)


def _of_parts(node: Any) -> Iterator[Pin]:
    """Yield why what is somewhere in a statement pins."""
    if isinstance(node, list):
        for each in node:  # pyright: ignore[reportUnknownVariableType]
            yield from _of_parts(each)
        return
    if not isinstance(node, dict):
        return
    is_dropped_at_end = node.get("oncommit") == "ONCOMMIT_DROP" or node.get("onCommit") == "ONCOMMIT_DROP"
    for key, value in node.items():  # pyright: ignore[reportUnknownVariableType]
        if key == "FuncCall":
            pin = _of_call(value)
            if pin is not None:
                yield pin
        elif key == "ExecuteStmt":
            yield Pin.SQL_PREPARE
        elif _is_temporary(key, value):
            yield Pin.TEMPORARY_OBJECT
        if is_dropped_at_end and key in ("relation", "rel"):
            continue
        yield from _of_parts(value)


def _is_temporary(key: Any, value: Any) -> bool:
    """Return whether a field names something in the schema of a session's own."""
    match key:
        case "String":
            return str(value.get("sval", "")).startswith("pg_temp")
        case "schemaname":
            return str(value).startswith("pg_temp")
        case "relpersistence":
            return value == "t"
        case _:
            return False


def _of_call(call: dict[str, Any]) -> Pin | None:
    name = str(call.get("funcname", [{}])[-1].get("String", {}).get("sval", ""))
    if name == "set_config":
        return None if _is_true(call.get("args", [])[2:3]) else Pin.SET_CONFIG
    if name in ("currval", "lastval"):
        return Pin.SEQUENCE_VALUE
    if name == "setseed":
        return Pin.RANDOM_SEED
    if name.startswith(("pg_advisory_lock", "pg_try_advisory_lock")):
        return Pin.ADVISORY_LOCK
    if name.startswith(("dblink_connect", "pg_replication_origin_session")):
        return Pin.EXTENSION_STATE
    return None


def _is_true(argument: list[dict[str, Any]]) -> bool:
    """Return whether there is an argument, and it is literally true."""
    if not argument:
        return False
    constant = argument[0].get("A_Const", {})
    return bool(constant.get("boolval", {}).get("boolval", False))
