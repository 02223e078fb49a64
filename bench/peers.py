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
    folder: Path, *, server: int, users: str | None, tls: Path, clients_max: int = 100
) -> Iterator[tuple[int, int] | None]:
    """Run PgBouncer in session mode before the port *server*, and give its port and pid; None if it is not installed.

    *users*: the text of its file of users and secrets, who log in by SCRAM; None: it believes everybody.  In *tls* are
    certificate and authority.
    """
    program = shutil.which("pgbouncer")
    if program is None:
        yield None
        return
    home, port = folder / "pgbouncer", free_port()
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
pool_mode = session
max_client_conn = {clients_max}
default_pool_size = {clients_max}
server_lifetime = 0
client_tls_sslmode = allow
client_tls_cert_file = {home / "server.pem"}
client_tls_key_file = {home / "server.pem"}
""")
    owner = pwd.getpwnam("nobody")
    for path in (home, *home.iterdir()):
        shutil.chown(path, owner.pw_uid, owner.pw_gid)
    with (folder / "pgbouncer.log").open("wb") as log:
        process = subprocess.Popen([program, "-u", "nobody", str(home / "ini")], stdout=log, stderr=log)
    try:
        yield port, process.pid
    finally:
        process.terminate()  # at once; by an interrupt it would wait for its clients
        process.wait(END_S)
