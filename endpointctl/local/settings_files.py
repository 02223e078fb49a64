"""The TOML files the daemons of a local cluster are started with.

Pure text from a plan and a layout; daemonkit's strict loader is the judge of it.  A JSON string without escapes of
non-ASCII characters is a TOML basic string, which is all the quoting there is.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from daemonkit.principals import Scope
from endpointctl.local.layout import Layout
from endpointctl.local.plan import HOST, MANAGER_PROGRAM, PROXY, PROXY_PROGRAM, Plan, PlannedNode
from endpointctl.local.preferences import Preferences

SECRET_NAMES = ("superuser", "control", "replication", "probe")
NODES_TOKEN = "nodes-token"  # noqa: S105 - a file's name


def settings_files(plan: Plan, layout: Layout, preferences: Preferences) -> dict[Path, str]:
    """Return the text of every settings file by its path."""
    files = {layout.settings_file(node.name): _noded(plan, layout, preferences, node) for node in plan.nodes}
    files[layout.settings_file(MANAGER_PROGRAM)] = _manager(plan, layout, preferences)
    files[layout.settings_file(PROXY_PROGRAM)] = _proxy(plan, layout, preferences)
    return files


def preferences_in_force(layout: Layout, plan: Plan) -> Preferences:
    """Return the preferences the programs of *plan* were started with, so that they go on, and a new node gets the same."""
    manager = _tables(layout.settings_file(MANAGER_PROGRAM))
    in_force: dict[str, object] = {"failover": manager.get("failover", {}), "reader": _reader_in_force(manager)}
    for node in plan.nodes:
        found = _tables(layout.settings_file(node.name))
        if found:
            postgres = found.get("postgres", {})
            in_force["postgres"] = {key: postgres[key] for key in ("settings", "hba") if key in postgres}
            in_force["logs"] = found.get("logs", {})
            break
    return msgspec.convert(in_force, Preferences)


def _reader_in_force(manager: Mapping[str, Mapping[str, object]]) -> dict[str, object]:
    reader = manager.get("endpoints", {}).get("reader", {})
    return {key: value for key, value in reader.items() if key == "max_lag_ms"} if isinstance(reader, dict) else {}


def preferences_file(preferences: Preferences) -> str:
    """Return a file for `up --config` that says what the programs are given of *preferences*."""
    reader = f"[reader]\nmax_lag_ms = {preferences.reader.max_lag_ms}\n"
    return f"[postgres]\n{_postgres(preferences)}\n{_failover(preferences)}\n{reader}\n{_logs(preferences)}"


def _tables(path: Path) -> dict[str, dict[str, object]]:
    """Return the tables of a settings file; none if it was never written, or is damaged: it is about to be written anew."""
    try:
        return tomllib.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}


def _noded(plan: Plan, layout: Layout, preferences: Preferences, node: PlannedNode) -> str:
    secrets = "\n".join(f"{name} = {_text(layout.secret(name))}" for name in SECRET_NAMES)
    return f"""\
[node]
cluster = {_text(plan.cluster)}
name = {_text(node.name)}
dir = {_text(layout.node(node.name))}
socket_dir = {_text(layout.sockets / node.name)}
pg_bin = {_text(plan.pg_bin)}

[postgres]
host = {_text(HOST)}
port = {node.port}
{_postgres(preferences)}
[http]
host = {_text(HOST)}
port = {node.noded_port}
token_file = {_text(layout.secret(NODES_TOKEN))}
verifiers_file = {_text(layout.verifiers)}

[secrets]
{secrets}

{_logs(preferences)}"""


def _manager(plan: Plan, layout: Layout, preferences: Preferences) -> str:
    nodes = "\n".join(
        f"""\
[[nodes]]
name = {_text(node.name)}
zone = {_text(node.zone)}
host = {_text(HOST)}
port = {node.port}
noded_host = {_text(HOST)}
noded_port = {node.noded_port}
tier = 1
"""
        for node in plan.nodes
    )
    return f"""\
[cluster]
name = {_text(plan.cluster)}
zone = {_text(plan.zone)}
durability = {_text(plan.durability)}
bootstrap = true

[http]
host = {_text(HOST)}
port = {plan.manager_port}
verifiers_file = {_text(layout.verifiers)}

[dns]
host = {_text(HOST)}
port = {plan.dns_port}
ttl_s = 1

[store]
kind = "embedded"
path = {_text(layout.store)}

[journal]
path = {_text(layout.manager / "journal.jsonl")}

[nodeds]
token_file = {_text(layout.secret(NODES_TOKEN))}

[endpoints.writer]
host = {_text(HOST)}
port = {plan.writer_port}

[endpoints.reader]
host = {_text(HOST)}
port = {plan.reader_port}
max_lag_ms = {preferences.reader.max_lag_ms}

{nodes}
{_failover(preferences)}
{_logs(preferences)}"""


def _proxy(plan: Plan, layout: Layout, preferences: Preferences) -> str:
    return f"""\
[proxy]
name = {_text(PROXY)}
engine = "asyncio"
cache = {_text(layout.proxy / "topology.json")}

[feed]
urls = [{_text(plan.api)}]
token_file = {_text(layout.token_of(Scope.FEED))}

[nodeds]
token_file = {_text(layout.token_of(Scope.FEED))}

[writer]
host = {_text(HOST)}
port = {plan.writer_port}

[reader]
host = {_text(HOST)}
port = {plan.reader_port}
fallback_to_writer = true

[limits]
sessions_max = 1000
startup_timeout_s = 15.0
dial_timeout_s = 3.0
hold_s = 10.0
hold_max = 1000

[http]
host = {_text(HOST)}
port = {plan.proxy_port}
verifiers_file = {_text(layout.verifiers)}

{_logs(preferences)}"""


def _postgres(preferences: Preferences) -> str:
    return f"settings = {_table(preferences.postgres.settings)}\nhba = {_list(preferences.postgres.hba)}\n"


def _failover(preferences: Preferences) -> str:
    chosen = preferences.failover
    return f"""\
[failover]
soft_interval_s = {chosen.soft_interval_s}
hold_after = {chosen.hold_after}
hold_window_s = {chosen.hold_window_s}
hold_s = {chosen.hold_s}
"""


def _logs(preferences: Preferences) -> str:
    return f"[logs]\nlevel = {_text(preferences.logs.level)}\nstyle = {_text(preferences.logs.style)}\n"


def _text(value: str | Path) -> str:
    return json.dumps(str(value), ensure_ascii=False)


def _list(values: Sequence[str]) -> str:
    return "[" + ", ".join(_text(value) for value in values) + "]"


def _table(values: Mapping[str, str]) -> str:
    return "{ " + ", ".join(f"{_text(key)} = {_text(value)}" for key, value in sorted(values.items())) + " }"
