#!/opt/endpointd/bin/python -I
"""The program of every container: makes a daemon's settings file from the cluster's, and becomes the daemon.

    endpointd-launch noded NAME | manager | proxy      a role of the cluster, until the container stops
    endpointd-launch psql writer|reader|NODE [ARGS]     a client beside the cluster

Knows where things are in a container and on its networks, and nothing of what the daemons do.  The cluster is described once,
in config/compose.toml; the environment (docker-compose.yml) says which of its nodes there are and in which network.  Secrets
are copied into memory that is this container's own: the engine hands them over with the owner and mode they have on the
host, and the daemons refuse a secret that others could read.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from daemonkit.settings import SettingsError, load_settings

CLUSTER_FILE = Path("/etc/endpointd/compose.toml")
SECRETS = Path("/run/secrets")
RUN = Path("/run/endpointd")
"""In memory, and this container's own."""
DATA = Path("/var/lib/endpointd")
"""A volume."""

EVERYWHERE = "0.0.0.0"  # noqa: S104 - the container's networks decide who gets here
POSTGRES_PORT = 5432
NODED_PORT = 8008
MANAGER_PORT = 6480
DNS_PORT = 53
WRITER_PORT = 6432
READER_PORT = 6433
PROXY_PORT = 6490
DEFAULT_NODES = "n1,n2,n3"
USAGE = 2

LastNumber = Annotated[int, msgspec.Meta(ge=2, le=254)]


class ClusterTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[cluster]"""

    name: str = "local"
    zone: str = "endpointd.internal"
    durability: str = "quorum"


class PostgresTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[postgres]"""

    settings: dict[str, str] = {}
    hba: tuple[str, ...] = ()


class ProxyTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[proxy]"""

    fallback_to_writer: bool = True
    max_lag_ms: int = 1000
    """Given to the manager, whose settings explain it."""
    sessions_max: int = 1000
    hold_s: float = 10.0


class FailoverTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[failover]: given to the manager, whose settings explain it."""

    soft_interval_s: float = 10.0
    hold_after: int = 3
    hold_window_s: float = 600.0
    hold_s: float = 60.0


class LogsTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[logs]"""

    level: str = "info"
    style: str = "json"


class NetworkTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[network]"""

    manager: LastNumber


class NodeTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One [[nodes]] table."""

    name: str
    zone: str
    number: LastNumber
    tier: int = 1


class ClusterFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """config/compose.toml"""

    network: NetworkTable
    nodes: Annotated[tuple[NodeTable, ...], msgspec.Meta(min_length=1, max_length=16)]
    cluster: ClusterTable = ClusterTable()
    postgres: PostgresTable = PostgresTable()
    proxy: ProxyTable = ProxyTable()
    failover: FailoverTable = FailoverTable()
    logs: LogsTable = LogsTable()


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """What the environment says."""

    net: str
    """The first three numbers of the nodes' network."""
    nodes: tuple[str, ...]
    """The nodes that the manager looks after."""
    hostname: str

    def address(self, number: int) -> str:
        """Return an address in the nodes' network."""
        return f"{self.net}.{number}"


def surroundings(environment: Mapping[str, str]) -> Surroundings:
    """Return what *environment* says. Raises SettingsError."""
    net = environment.get("ENDPOINTD_NET", "")
    if net.count(".") != 2:
        raise SettingsError(f'ENDPOINTD_NET: "{net}" is not the first three numbers of an address, such as "172.30.64"')
    nodes = tuple(name.strip() for name in environment.get("ENDPOINTD_NODES", DEFAULT_NODES).split(",") if name.strip())
    return Surroundings(net=net, nodes=nodes, hostname=socket.gethostname())


def noded_settings(cluster: ClusterFile, name: str, run: Path = RUN, data: Path = DATA) -> str:
    """Return the settings file of the node *name*. Raises SettingsError."""
    _node(cluster, name)
    return f"""\
[node]
cluster = {_text(cluster.cluster.name)}
name = {_text(name)}
dir = {_text(data / "node")}
socket_dir = {_text(run / "socket")}

[postgres]
host = {_text(EVERYWHERE)}
port = {POSTGRES_PORT}
settings = {{ {", ".join(f"{_text(key)} = {_text(value)}" for key, value in sorted(cluster.postgres.settings.items()))} }}
hba = {_list(cluster.postgres.hba)}

[http]
host = {_text(EVERYWHERE)}
port = {NODED_PORT}
token_file = {_text(run / "secrets" / "nodes-token")}
verifiers_file = {_text(run / "secrets" / "verifiers")}

[secrets]
superuser = {_text(run / "secrets" / "superuser")}
control = {_text(run / "secrets" / "control")}
replication = {_text(run / "secrets" / "replication")}
probe = {_text(run / "secrets" / "probe")}

{_logs(cluster)}"""


def manager_settings(cluster: ClusterFile, around: Surroundings, run: Path = RUN, data: Path = DATA) -> str:
    """Return the manager's settings file. Raises SettingsError."""
    present = [_node(cluster, name) for name in around.nodes]
    nodes = "\n".join(
        f"""\
[[nodes]]
name = {_text(node.name)}
zone = {_text(node.zone)}
host = {_text(around.address(node.number))}
port = {POSTGRES_PORT}
noded_host = {_text(around.address(node.number))}
noded_port = {NODED_PORT}
tier = {node.tier}
"""
        for node in present
    )
    return f"""\
[cluster]
name = {_text(cluster.cluster.name)}
zone = {_text(cluster.cluster.zone)}
durability = {_text(cluster.cluster.durability)}
bootstrap = true

[http]
host = {_text(EVERYWHERE)}
port = {MANAGER_PORT}
verifiers_file = {_text(run / "secrets" / "verifiers")}
allowed_hosts = ["manager"]

[dns]
host = {_text(EVERYWHERE)}
port = {DNS_PORT}
ttl_s = 1

[store]
kind = "embedded"
path = {_text(data / "store.sqlite")}

[journal]
path = {_text(data / "journal.jsonl")}

[nodeds]
token_file = {_text(run / "secrets" / "nodes-token")}

[endpoints.writer]
host = "proxy"
port = {WRITER_PORT}

[endpoints.reader]
host = "proxy"
port = {READER_PORT}
max_lag_ms = {cluster.proxy.max_lag_ms}

[failover]
soft_interval_s = {cluster.failover.soft_interval_s}
hold_after = {cluster.failover.hold_after}
hold_window_s = {cluster.failover.hold_window_s}
hold_s = {cluster.failover.hold_s}

{nodes}
{_logs(cluster)}"""


def proxy_settings(cluster: ClusterFile, around: Surroundings, run: Path = RUN, data: Path = DATA) -> str:
    """Return a proxy's settings file."""
    return f"""\
[proxy]
name = {_text(f"proxy-{around.hostname}")}
engine = "asyncio"
cache = {_text(data / "topology.json")}

[feed]
urls = [{_text(f"http://{around.address(cluster.network.manager)}:{MANAGER_PORT}")}]
token_file = {_text(run / "secrets" / "feed-token")}

[nodeds]
token_file = {_text(run / "secrets" / "feed-token")}

[writer]
host = {_text(EVERYWHERE)}
port = {WRITER_PORT}

[reader]
host = {_text(EVERYWHERE)}
port = {READER_PORT}
fallback_to_writer = {str(cluster.proxy.fallback_to_writer).lower()}

[limits]
sessions_max = {cluster.proxy.sessions_max}
hold_s = {cluster.proxy.hold_s}

[http]
host = {_text(EVERYWHERE)}
port = {PROXY_PORT}
verifiers_file = {_text(run / "secrets" / "verifiers")}

{_logs(cluster)}"""


def psql_command(cluster: ClusterFile, around: Surroundings, door: str, arguments: Sequence[str]) -> list[str]:
    """Return the command that opens psql at *door*, an endpoint or a node. Raises SettingsError."""
    match door:
        case "writer":
            host, port = "proxy", WRITER_PORT
        case "reader":
            host, port = "proxy", READER_PORT
        case _:
            host, port = around.address(_node(cluster, door).number), POSTGRES_PORT
    return ["psql", f"postgresql://postgres@{host}:{port}/postgres", *arguments]


def copy_secrets(source: Path, target: Path) -> None:
    """Copy what the engine handed over to where only this user reads it."""
    target.mkdir(mode=0o700, exist_ok=True)
    for file in sorted(source.iterdir()) if source.is_dir() else ():
        descriptor = os.open(target / file.name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as copy:
            copy.write(file.read_bytes())


def main() -> None:
    """Become what the arguments say."""
    parser = argparse.ArgumentParser(prog="endpointd-launch", description="the program of every container of a cluster")
    roles = parser.add_subparsers(dest="role", required=True, metavar="ROLE")
    noded = roles.add_parser("noded", help="a PostgreSQL server with its noded")
    noded.add_argument("name", help="the node's name in config/compose.toml")
    roles.add_parser("manager", help="the cluster's manager, with its name server")
    roles.add_parser("proxy", help="the writer and the reader endpoint")
    psql = roles.add_parser("psql", help="psql at an endpoint or a node")
    psql.add_argument("door", metavar="writer|reader|NODE")
    psql.add_argument("arguments", nargs=argparse.REMAINDER, help="given to psql")
    options = parser.parse_args()
    os.umask(0o077)
    try:
        cluster = load_settings(CLUSTER_FILE, ClusterFile)
        around = surroundings(os.environ)
        copy_secrets(SECRETS, RUN / "secrets")
        match options.role:
            case "noded":
                (RUN / "socket").mkdir(mode=0o700, exist_ok=True)
                _become("noded.daemon", noded_settings(cluster, options.name), f"{NODED_PORT} /readiness")
            case "manager":
                _become("cluster_manager.daemon", manager_settings(cluster, around), f"{MANAGER_PORT} /health")
            case "proxy":
                _become("endpointd.daemon", proxy_settings(cluster, around), f"{PROXY_PORT} /health")
            case _:
                command = psql_command(cluster, around, options.door, options.arguments)
                password = (RUN / "secrets" / "superuser").read_text().strip()
                os.execvpe(command[0], command, os.environ | {"PGPASSWORD": password})  # noqa: S606 - no shell is wanted
    except (SettingsError, OSError) as error:
        sys.stderr.write(f"endpointd-launch: {error}\n")
        sys.exit(USAGE)


def _become(module: str, settings: str, health: str) -> None:
    """Replace this process by the daemon, with *settings*; *health* is where its health check asks."""
    path = RUN / "settings.toml"
    path.write_text(settings)
    (RUN / "health").write_text(f"{health}\n")
    # Engines start programs with room for few open files, so that old ones are not harmed; a proxy has two for each session.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    os.execv(sys.executable, [sys.executable, "-m", module, "--config", str(path)])  # noqa: S606 - no shell is wanted


def _node(cluster: ClusterFile, name: str) -> NodeTable:
    node = next((node for node in cluster.nodes if node.name == name), None)
    if node is None:
        raise SettingsError(f'{CLUSTER_FILE}: there is no node "{name}", only {", ".join(node.name for node in cluster.nodes)}')
    return node


def _logs(cluster: ClusterFile) -> str:
    return f"[logs]\nlevel = {_text(cluster.logs.level)}\nstyle = {_text(cluster.logs.style)}\n"


def _text(value: str | Path) -> str:
    """Return *value* as a TOML string. A JSON string is one."""
    return json.dumps(str(value), ensure_ascii=False)


def _list(values: Sequence[str]) -> str:
    return "[" + ", ".join(_text(value) for value in values) + "]"


if __name__ == "__main__":
    main()
