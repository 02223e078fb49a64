"""Where everything of one local cluster lies.

One directory, private to the user (0700), recognised by our marker file; nothing of ours is outside it, except the Unix
sockets when the directory's path is too long for one (107 bytes): then they live in a private directory below /tmp whose
name is derived from the path.  Knows names only; directory.py makes and checks them.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from daemonkit.principals import Scope
from deployment.files import STORE, VERIFIERS

_SUN_PATH_MAX = 107
"""sockaddr_un.sun_path holds 108 bytes with its final zero."""
_LONGEST_SOCKET = "/n99/.s.PGSQL.65535.lock"
_LONGEST_LOCAL_PATH = 700
"""PostgreSQL cuts paths at 1024 bytes (MAXPGPATH); its own files need some of them."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths below the data directory *root*, which is absolute."""

    root: Path

    @property
    def marker(self) -> Path:
        """Tells that the directory is ours; made first, and what `down --purge` looks for."""
        return self.root / "ENDPOINTD_CLUSTER"

    @property
    def plan(self) -> Path:
        """What was decided when the cluster was made; written last, so its presence means complete files."""
        return self.root / "cluster.json"

    @property
    def run(self) -> Path:
        """Process records, the API token, the supervisor's socket."""
        return self.root / "run"

    @property
    def token(self) -> Path:
        """The bearer token for everything at the manager's and the proxy's HTTP API."""
        return self.run / "token"

    @property
    def verifiers(self) -> Path:
        """The digests of all tokens, by which the programs know them."""
        return self.secrets / VERIFIERS

    @property
    def logs(self) -> Path:
        """One bounded log file per process."""
        return self.root / "logs"

    @property
    def secrets(self) -> Path:
        """Passwords of PostgreSQL's roles and the nodes' token, one file each, 0600."""
        return self.root / "secrets"

    @property
    def passfile(self) -> Path:
        """libpq password file of role postgres."""
        return self.secrets / "pgpass"

    @property
    def settings(self) -> Path:
        """The TOML files the daemons are started with; written anew by every `up`."""
        return self.root / "settings"

    @property
    def nodes(self) -> Path:
        """PostgreSQL's data, one directory per node."""
        return self.root / "nodes"

    @property
    def manager(self) -> Path:
        """The manager's store and journal."""
        return self.root / "manager"

    @property
    def store(self) -> Path:
        """The manager's document store."""
        return self.manager / STORE

    @property
    def proxy(self) -> Path:
        """The proxies' copies of the last document."""
        return self.root / "proxy"

    def proxy_data(self, number: int) -> Path:
        """Return the directory of the *number*th proxy."""
        return self.proxy if number == 1 else self.proxy / str(number)

    @property
    def tls(self) -> Path:
        """Certificates and their keys."""
        return self.root / "tls"

    @property
    def authority(self) -> Path:
        """The cluster's certificate authority with its key."""
        return self.tls / "ca.pem"

    @property
    def trusted(self) -> Path:
        """The authorities that clients trust, without keys."""
        return self.tls / "ca.crt"

    @property
    def server_pair(self) -> Path:
        """The endpoints' certificate with its key."""
        return self.tls / "server.pem"

    @property
    def proxy_pair(self) -> Path:
        """The proxy's certificate for servers, with its key."""
        return self.tls / "proxy.pem"

    def node_pair(self, name: str) -> Path:
        """Return the certificate of node *name* with its key."""
        return self.tls / f"{name}.pem"

    @property
    def sockets(self) -> Path:
        """A directory whose path is short enough for Unix sockets."""
        inside = self.run / "s"
        if len(os.fsencode(inside)) + len(_LONGEST_SOCKET) <= _SUN_PATH_MAX:
            return inside
        digest = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:12]
        return Path("/tmp") / f"endpointd-{os.getuid()}-{digest}"  # noqa: S108 - made 0700 and checked for its owner

    @property
    def control_socket(self) -> Path:
        """Where the supervisor listens."""
        return self.sockets / "supervisor"

    @property
    def notify_socket(self) -> Path:
        """Where the supervisor hears that programs are alive."""
        return self.sockets / "notify"

    def takeover_socket(self, number: int) -> Path:
        """Return where the *number*th proxy lets another process take over."""
        return self.sockets / ("proxy" if number == 1 else f"proxy-{number}")

    @property
    def directories(self) -> tuple[Path, ...]:
        """Every directory of ours below the root, parents first."""
        return (self.run, self.logs, self.secrets, self.settings, self.tls, self.nodes, self.manager, self.proxy, self.sockets)

    @property
    def is_too_long(self) -> bool:
        """Whether PostgreSQL could not work below so long a path."""
        return len(os.fsencode(self.root)) > _LONGEST_LOCAL_PATH

    def node(self, name: str) -> Path:
        """Return the directory of node *name*."""
        return self.nodes / name

    def pgdata(self, name: str) -> Path:
        """Return PostgreSQL's data directory of node *name*."""
        return self.node(name) / "pgdata"

    def token_of(self, scope: Scope) -> Path:
        """Return the file of the token of *scope*."""
        return self.token if scope is Scope.ADMIN else self.run / f"token-{scope}"

    def record(self, name: str) -> Path:
        """Return the file that remembers the process called *name*."""
        return self.run / f"{name}.pid"

    def log(self, name: str) -> Path:
        """Return the log file of the process called *name*."""
        return self.logs / f"{name}.log"

    def settings_file(self, name: str) -> Path:
        """Return the settings file of the daemon called *name*."""
        return self.settings / f"{name}.toml"

    def secret(self, name: str) -> Path:
        """Return the file of one secret."""
        return self.secrets / name
