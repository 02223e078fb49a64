"""Runs `endpointctl` in processes that have everything imported already: forks of one that did it once.

An end-to-end test gives a dozen commands, and most of a command's processor time is the interpreter's start and its imports.
What runs is the command's own `main`, in a process of its own with the environment, arguments, output and exit code of its own;
what is not the same is that nothing is imported anew.  That the command line works from nothing is seen by the tests that start
it as users do (tests/endpointctl, and wherever a test starts ``python -m endpointctl`` itself).
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
_REQUEST_BYTES_MAX = 1 << 20


class WarmEndpointctl:
    """The process that forks; it is started with the first command and ends with this one, or when this one is gone."""

    def __init__(self) -> None:
        self._control: socket.socket | None = None
        self._starting = threading.Lock()

    def run(self, arguments: Sequence[str], *, env: Mapping[str, str], timeout_s: float) -> subprocess.CompletedProcess[str]:
        """Run `endpointctl` with *arguments* in *env*. Raises subprocess.TimeoutExpired, and the command is gone then."""
        ours, theirs = socket.socketpair()
        out, err = os.memfd_create("stdout"), os.memfd_create("stderr")
        try:
            with ours, theirs:
                socket.send_fds(self._started(), [b"run"], [theirs.fileno(), out, err])
                theirs.close()
                ours.settimeout(timeout_s)
                ours.sendall(json.dumps([list(arguments), dict(env)]).encode())
                ours.shutdown(socket.SHUT_WR)
                code = self._code(ours, ["endpointctl", *arguments], timeout_s)
            return subprocess.CompletedProcess(["endpointctl", *arguments], code, _text(out), _text(err))
        finally:
            os.close(out)
            os.close(err)

    @staticmethod
    def _code(connection: socket.socket, command: list[str], timeout_s: float) -> int:
        """Return the exit code that is told on *connection*, after the process that has it."""
        told = b""
        try:
            while piece := connection.recv(64):
                told += piece
        except TimeoutError:
            if told:
                os.kill(int(told.split()[0]), signal.SIGKILL)
                connection.settimeout(None)
                connection.recv(64)
            raise subprocess.TimeoutExpired(command, timeout_s) from None
        words = told.split()
        assert len(words) == 2, f"the process that forks endpointctl has ended: {told!r}"
        return int(words[1])

    def _started(self) -> socket.socket:
        with self._starting:
            if self._control is None:
                self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                with theirs:
                    process = subprocess.Popen(
                        [sys.executable, "-m", "testkit.warm", str(theirs.fileno())],
                        cwd=ROOT,
                        stdin=subprocess.DEVNULL,
                        pass_fds=[theirs.fileno()],
                    )
                atexit.register(self._end, process)
            return self._control

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        assert self._control is not None
        self._control.close()
        process.wait()


def _text(descriptor: int) -> str:
    with open(descriptor, encoding="utf-8", errors="replace", closefd=False) as file:
        file.seek(0)
        return file.read()


def _serve(control: socket.socket) -> list[str] | None:
    """Fork for each request; return the arguments in the process that is to run them, and None when nobody asks any more."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 16, 3)
        if not message:
            return None
        if os.fork() == 0:
            control.close()
            return _attend(*descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _attend(connection: int, out: int, err: int) -> list[str]:
    """Return the arguments in a new process with its own output and environment; here wait for it and tell what came of it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    asker = socket.socket(fileno=connection)
    request = b""
    while piece := asker.recv(_REQUEST_BYTES_MAX):
        request += piece
    arguments, env = json.loads(request)
    pid = os.fork()
    if pid == 0:
        asker.close()
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.close(out)
        os.close(err)
        os.environ.clear()
        os.environ.update(env)
        time.tzset()
        sys.argv = [str(ROOT / "endpointctl" / "__main__.py"), *arguments]
        return arguments
    try:
        asker.sendall(f"{pid} ".encode())
        _, status = os.waitpid(pid, 0)
        asker.sendall(f"{os.waitstatus_to_exitcode(status)}".encode())
    except OSError:
        pass  # whoever asked is gone
    os._exit(0)


def _import_all() -> None:
    """Import what commands do when they run, and what Typer does when it reads arguments."""
    import endpointctl
    from endpointctl.main import main

    for module in pkgutil.walk_packages(endpointctl.__path__, "endpointctl."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in ("asyncpg", "rich.live", "rich.table", "rich.console"):
        importlib.import_module(name)
    with Path(os.devnull).open("w") as nowhere:
        shown, sys.stdout = sys.stdout, nowhere
        main(["status", "--version"])
        sys.stdout = shown


def _main() -> int:
    control = socket.socket(fileno=int(sys.argv[1]))
    _import_all()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    if _serve(control) is None:
        return 0
    from endpointctl.main import main

    return main()


if __name__ == "__main__":
    sys.exit(_main())
