"""PgBouncer in session mode in front of the writer's server, so that an endpoint's score has something to stand beside."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from testkit.ports import free_port
from tests.compat.server import Server

PROGRAM = "pgbouncer"
DEADLINE_S = 30.0


@contextmanager
def pgbouncer(server: Server, folder: Path) -> Iterator[Server]:
    """Run it for *server* and yield where it listens. Roles are looked up at the server, by its superuser."""
    program = shutil.which(PROGRAM)
    assert program is not None
    home, port = folder / "pgbouncer", free_port()
    home.mkdir()
    users, settings = home / "users", home / "ini"
    users.write_text(f'"{server.user}" "{server.password}"\n')
    settings.write_text(f"""
[databases]
* = host={server.host} port={server.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {users}
auth_user = {server.user}
pool_mode = session
default_pool_size = 100
max_client_conn = 500
server_idle_timeout = 2
ignore_startup_parameters = extra_float_digits
""")
    command = [program, str(settings)]
    if os.geteuid() == 0:  # it refuses to be root, and so do the parents of a temporary folder
        owner = pwd.getpwnam("nobody")
        for path in (home, users, settings):
            shutil.chown(path, owner.pw_uid, owner.pw_gid)
        folder.chmod(0o755)
        command[1:1] = ["-u", "nobody"]
    with (folder / "pgbouncer.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        _wait(port, process, folder / "pgbouncer.log")
        yield replace(server, host="127.0.0.1", port=port)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        time.sleep(0.05)
    raise RuntimeError(f"PgBouncer does not listen: {log.read_text()}")
