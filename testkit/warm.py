"""Runs programs of ours in processes that have everything imported already: forks of one that did it once.

A test gives a dozen commands, or starts a proxy for itself alone, and most of the processor time of either is the interpreter's
start and its imports.  What runs is the program's own `main`, in a process with arguments, environment, output and end of its
own; what is not the same is that nothing is imported anew.  That programs start from nothing is seen wherever they are started
as users do it: the daemons of every local cluster, and what a test starts with ``python -m``.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
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
START_TIMEOUT_S = 60.0
_REQUEST_BYTES_MAX = 1 << 20


class WarmProgram:
    """The processes that fork one program of ours; each is started with its first use and ends with this one."""

    def __init__(self, module: str, warm_up: Sequence[str]) -> None:
        """*module* has the program's `main`; with the arguments *warm_up* that does nothing but load what it loads late."""
        self._command = [module, *warm_up]
        self._controls: dict[int, socket.socket] = {}
        """Of one process for each mount namespace: what is started sees the file systems that the caller sees."""
        self._starting = threading.Lock()

    def start(self, arguments: Sequence[str], *, env: Mapping[str, str], out: int, err: int) -> Forked:
        """Start the program with the descriptors *out* and *err* as its output, in the directory of the project."""
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._started(), [b"start"], [theirs.fileno(), out, err])
        ours.sendall(json.dumps([list(arguments), dict(env)]).encode())
        ours.shutdown(socket.SHUT_WR)
        return Forked(ours)

    def run(self, arguments: Sequence[str], *, env: Mapping[str, str], timeout_s: float) -> subprocess.CompletedProcess[str]:
        """Run it to its end. Raises subprocess.TimeoutExpired, and it is gone then."""
        out, err = os.memfd_create("stdout"), os.memfd_create("stderr")
        try:
            forked = self.start(arguments, env=env, out=out, err=err)
            try:
                code = forked.wait_for(timeout_s)
            except TimeoutError:
                forked.send_signal(signal.SIGKILL)
                forked.wait_for(None)
                raise subprocess.TimeoutExpired([*self._command[:1], *arguments], timeout_s) from None
            return subprocess.CompletedProcess([*self._command[:1], *arguments], code, _text(out), _text(err))
        finally:
            os.close(out)
            os.close(err)

    def _started(self) -> socket.socket:
        namespace = Path("/proc/thread-self/ns/mnt").stat().st_ino
        with self._starting:
            if namespace not in self._controls:
                control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                with theirs:
                    process = subprocess.Popen(
                        [sys.executable, "-m", "testkit.warm", str(theirs.fileno()), *self._command],
                        cwd=ROOT,
                        stdin=subprocess.DEVNULL,
                        pass_fds=[theirs.fileno()],
                    )
                self._controls[namespace] = control
                atexit.register(_end, control, process)
            return self._controls[namespace]


def _end(control: socket.socket, process: subprocess.Popen[bytes]) -> None:
    control.close()
    process.wait()


class Forked:
    """A process that was forked for us; what it has of `asyncio.subprocess.Process` means the same."""

    def __init__(self, connection: socket.socket) -> None:
        """On *connection* its pid is told, and at its end the exit code."""
        self._connection = connection
        self._told = b""
        self._code: int | None = None
        connection.settimeout(START_TIMEOUT_S)
        while b" " not in self._told:
            piece = connection.recv(64)
            assert piece, "the process that forks has ended"
            self._told += piece
        self.pid = int(self._told.split()[0])

    @property
    def returncode(self) -> int | None:
        """The exit code, negative if a signal ended it; None while it runs."""
        if self._code is None:
            self._connection.settimeout(0)
            with contextlib.suppress(BlockingIOError):
                while not self._take(self._connection.recv(64)):
                    pass
        return self._code

    def wait_for(self, timeout_s: float | None) -> int:
        """Wait for the end and return the exit code. Raises TimeoutError."""
        while self._code is None:
            self._connection.settimeout(timeout_s)
            self._take(self._connection.recv(64))
        return self._code

    async def wait(self) -> int:
        """Wait for the end and return the exit code."""
        while self._code is None:
            self._connection.settimeout(0)
            self._take(await asyncio.get_running_loop().sock_recv(self._connection, 64))
        return self._code

    def send_signal(self, number: signal.Signals) -> None:
        """Signal it. Raises ProcessLookupError once it has ended."""
        if self.returncode is not None:
            raise ProcessLookupError
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)

    def _take(self, piece: bytes) -> bool:
        """Take what was told; return whether that was all."""
        self._told += piece
        if piece:
            return False
        self._connection.close()
        words = self._told.split()
        assert len(words) == 2, "the process that forks has ended"
        self._code = int(words[1])
        return True


def _text(descriptor: int) -> str:
    with open(descriptor, encoding="utf-8", errors="replace", closefd=False) as file:
        file.seek(0)
        return file.read()


def _serve(control: socket.socket) -> bool:
    """Fork for each request; return True in the process that is to run the program, False when nobody asks any more."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 16, 3)
        if not message:
            return False
        if os.fork() == 0:
            control.close()
            _attend(*descriptors)
            return True
        for descriptor in descriptors:
            os.close(descriptor)


def _attend(connection: int, out: int, err: int) -> None:
    """Return in a new process with arguments, environment and output as asked for; here wait for it and tell its end."""
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
        sys.argv[1:] = arguments
        return
    os.close(out)
    os.close(err)
    with contextlib.suppress(OSError):  # whoever asked may be gone
        asker.sendall(f"{pid} ".encode())
        _, status = os.waitpid(pid, 0)
        asker.sendall(f"{os.waitstatus_to_exitcode(status)}".encode())
    os._exit(0)


def _import_all(module: str) -> None:
    """Import the package of *module* with all that is in it: some of it would be imported only when it is needed."""
    package = importlib.import_module(module.partition(".")[0])
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)


def _main() -> int:
    control, module, warm_up = socket.socket(fileno=int(sys.argv[1])), sys.argv[2], sys.argv[3:]
    _import_all(module)
    main = importlib.import_module(module).main
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.suppress(SystemExit):
        main(warm_up)
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    return main() if _serve(control) else 0


if __name__ == "__main__":
    sys.exit(_main())
