#!/opt/endpointd/bin/python -I
"""The program of every container: makes a daemon's settings file from the cluster's, and becomes the daemon.

    endpointd-launch certs                              the cluster's certificates, what is missing or due; then it ends
    endpointd-launch noded NAME | manager | proxy      a role of the cluster, until the container stops
    endpointd-launch psql writer|reader|NODE [ARGS]     a client beside the cluster

What the cluster is and what a daemon reads is deployment/containers.py's to say.  Secrets are copied into memory that is this
container's own: the engine hands them over with the owner and mode they have on the host, and the daemons refuse a secret that
others could read.
"""

from __future__ import annotations

import argparse
import os
import resource
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from daemonkit.settings import SettingsError, load_settings
from daemonkit.toml import to_toml
from deployment import containers
from noded.postgres.binaries import BinariesError, find_binaries
from noded.postgres.tls import has_tls

HANDED_OVER = Path("/run/secrets")
USAGE = 2


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
    roles.add_parser("certs", help="makes the certificates that are missing or due, and ends")
    noded = roles.add_parser("noded", help="a PostgreSQL server with its noded")
    noded.add_argument("name", help="the node's name in config/compose.toml")
    roles.add_parser("manager", help="the cluster's manager, with its name server")
    roles.add_parser("proxy", help="the writer and the reader endpoint")
    psql = roles.add_parser("psql", help="psql at an endpoint or a node")
    psql.add_argument("place", metavar="writer|reader|NODE")
    psql.add_argument("arguments", nargs=argparse.REMAINDER, help="given to psql")
    options = parser.parse_args()
    os.umask(0o077)
    try:
        file = load_settings(containers.CLUSTER_FILE, containers.ClusterFile)
        cluster = containers.describe(file, os.environ)
        copy_secrets(HANDED_OVER, containers.SECRETS)
        match options.role:
            case "certs":
                for path in containers.certify(cluster, datetime.now(UTC)):
                    sys.stdout.write(f"{path}\n")
            case "noded":
                containers.SOCKETS.mkdir(mode=0o700, exist_ok=True)
                settings = containers.of_node(cluster, options.name, has_tls=_have_tls(f"{options.name}.pem"))
                _become("noded.daemon", settings, f"{containers.NODED_PORT} /readiness")
            case "manager":
                settings = containers.of_manager(cluster, os.environ)
                _become("cluster_manager.daemon", settings, f"{containers.MANAGER_PORT} /health")
            case "proxy":
                tls = file.tls if (containers.TLS / containers.ENDPOINTS).exists() else None
                servers = file.servers if _have_tls(containers.ENDPOINTS) else None
                settings = containers.of_proxy(cluster, socket.gethostname(), tls=tls, servers=servers)
                _become("endpointd.daemon", settings, f"{containers.PROXY_PORT} /health")
            case _:
                command = containers.psql_command(cluster, options.place, options.arguments)
                password = (containers.SECRETS / "superuser").read_text().strip()
                os.execvpe(command[0], command, os.environ | {"PGPASSWORD": password})  # noqa: S606 - no shell is wanted
    except (SettingsError, BinariesError, OSError) as error:
        sys.stderr.write(f"endpointd-launch: {error}\n")
        sys.exit(USAGE)


def _have_tls(certificate: str) -> bool:
    """Return whether the nodes speak TLS: there are certificates, and the image's PostgreSQL was built with it."""
    return (containers.TLS / certificate).exists() and has_tls(find_binaries())


def _become(module: str, settings: msgspec.Struct, health: str) -> None:
    """Replace this process by the daemon, with *settings*; *health* is where its health check asks."""
    path = containers.RUN / "settings.toml"
    path.write_text(to_toml(settings))
    (containers.RUN / "health").write_text(f"{health}\n")
    # Engines start programs with room for few open files, so that old ones are not harmed; a proxy has two for each session.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    os.execv(sys.executable, [sys.executable, "-m", module, "--config", str(path)])  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main()
