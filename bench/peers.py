"""Proxies of others, where they are installed, to be measured beside ours."""

from __future__ import annotations

import contextlib
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from testkit.ports import free_port

END_S = 30.0


@contextlib.contextmanager
def pgbouncer(
    folder: Path,
    *,
    server: int,
    users: str | None,
    tls: Path,
    clients_max: int = 100,
    mode: str = "session",
    servers_max: int | None = None,
    keeps_servers: bool = False,
) -> Iterator[tuple[int, int] | None]:
    """Run PgBouncer in *mode* before the port *server*, and give its port and pid; None if it is not installed.

    *users*: the text of its file of users and secrets, who log in by SCRAM; None: it believes everybody.  In *tls* are
    certificate and authority.  *keeps_servers*: it gives the session of a client that has left to the next one, as it does
    unless it is told otherwise; else each client has a session of its own.
    """
    program = shutil.which("pgbouncer")
    if program is None:
        yield None
        return
    home, port = folder / f"pgbouncer-{mode}", free_port()
    home.mkdir()
    (home / "users").write_text(users or "")
    for file in ("ca.crt", "server.pem"):
        shutil.copy(tls / file, home / file)
    (home / "ini").write_text(f"""
[databases]
* = host=127.0.0.1 port={server}{"" if users is not None else " user=postgres"}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
listen_backlog = 1024
unix_socket_dir =
auth_type = {"scram-sha-256" if users is not None else "any"}
auth_file = {home / "users"}
pool_mode = {mode}
max_client_conn = {clients_max}
default_pool_size = {servers_max or clients_max}
{"" if keeps_servers else "server_lifetime = 0"}
client_tls_sslmode = allow
client_tls_cert_file = {home / "server.pem"}
client_tls_key_file = {home / "server.pem"}
""")
    owner = pwd.getpwnam("nobody")
    for path in (home, *home.iterdir()):
        shutil.chown(path, owner.pw_uid, owner.pw_gid)
    with home.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen([program, "-u", "nobody", str(home / "ini")], stdout=log, stderr=log)
    try:
        yield port, process.pid
    finally:
        process.terminate()  # at once; by an interrupt it would wait for its clients
        process.wait(END_S)


@contextlib.contextmanager
def haproxy(folder: Path, *, server: int, clients_max: int = 100) -> Iterator[tuple[int, int] | None]:
    """Run HAProxy in tcp mode, of one thread, before the port *server*, and give its port and pid; None if it is not there."""
    program = shutil.which("haproxy")
    if program is None:
        yield None
        return
    port, config = free_port(), folder / "haproxy.cfg"
    config.write_text(f"""
global
    nbthread 1
    maxconn {clients_max}
defaults
    mode tcp
    timeout connect 5s
    timeout client 1h
    timeout server 1h
listen all
    bind 127.0.0.1:{port}
    server one 127.0.0.1:{server}
""")
    with (folder / "haproxy.log").open("wb") as log:
        process = subprocess.Popen([program, "-db", "-f", str(config)], stdout=log, stderr=log)
    try:
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(END_S)
