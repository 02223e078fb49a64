"""Which TCP and UDP ports of 127.0.0.1 are free, and who holds those that are not.

A port is free when it can be bound.  The holder is found through /proc: the socket's inode in /proc/net, then the process
that has it open.  Another user's process can only be named by its user.  A connection that has ended has no process any more;
if it went out from there, which the ports of `ip_local_port_range` are for, it keeps its port for up to a minute.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from daemonkit.proctable import pids, title
from deployment.local.plan import HOST, PortUse

_LISTEN = "0A"
_NOBODYS = "0"
"""The inode of a connection that no process has open."""
_BLOCK = 100
_claims: list[socket.socket] = []
"""Of the blocks that this process was given; closed at its end, which gives them back."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has a port open, as far as we may see."""

    pid: int | None
    description: str


@dataclass(frozen=True, slots=True)
class Conflict:
    """A port the cluster needs and does not get."""

    use: PortUse
    holder: Holder


def conflicts(uses: Iterable[PortUse]) -> list[Conflict]:
    """Return every port of *uses* that cannot be bound now, with its holder."""
    taken = [Conflict(use, find_holder(use)) for use in uses if not is_free(use)]
    # Who is looked for may be gone before he is found.
    return [conflict for conflict in taken if conflict.holder.pid is not None or not is_free(conflict.use)]


def is_free(use: PortUse) -> bool:
    """Return whether we could listen there now."""
    kind = socket.SOCK_DGRAM if use.udp else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as probe:
        if not use.udp:
            # Connections in TIME_WAIT must not count as a holder; servers set this option as well.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, use.port))
            if not use.udp:
                probe.listen(1)
        except OSError:
            return False
        return True


def free_base_port(offsets: Iterable[PortUse]) -> int:
    """Return a base port, outside the range of outgoing connections, whose whole block is free and, until this process ends,
    given to nobody else who asks.

    *offsets* are the uses of a plan with base port 0.  Raises OSError if no block is free.
    """
    uses = list(offsets)
    lowest_ephemeral = _lowest_ephemeral_port()
    bases = list(range(10_000, max(lowest_ephemeral, 12_000) - _BLOCK, _BLOCK))
    random.shuffle(bases)
    for base in bases:
        if all(is_free(PortUse(base + use.port, use.purpose, use.udp)) for use in uses) and _claim(base):
            return base
    raise OSError("no block of 100 free ports between 10000 and the range of outgoing connections")


def _claim(base: int) -> bool:
    """Return whether nobody else is about to listen there: between the look and the first program that listens lie seconds."""
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        claim.bind(f"\0endpointd/ports/{base}")  # a name without a file, which goes with the process
    except OSError:
        claim.close()
        return False
    _claims.append(claim)
    return True


def find_holder(use: PortUse) -> Holder:
    """Return who holds the port of *use*."""
    everything = list(_sockets_on(use))
    found = sorted((entry for entry in everything if entry.inode != _NOBODYS), key=lambda entry: not entry.listening)
    for entry in found:
        pid = _process_with_socket(entry.inode)
        if pid is not None:
            return Holder(pid, f"process {pid} ({_command_of(pid)})")
    if found:
        return Holder(None, f"a process of user {_user_name(found[0].uid)}")
    if everything:
        lowest = _lowest_ephemeral_port()
        why = f" (outgoing connections have ports from {lowest} on)" if use.port >= lowest else ""
        return Holder(None, f"a connection that has ended, for a minute at most{why}")
    return Holder(None, "a process that cannot be seen from here")


@dataclass(frozen=True, slots=True)
class _Entry:
    inode: str
    uid: int
    listening: bool


def _sockets_on(use: PortUse) -> Iterator[_Entry]:
    protocol = "udp" if use.udp else "tcp"
    for table in (protocol, protocol + "6"):
        try:
            lines = Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if int(fields[1].rpartition(":")[2], 16) == use.port:
                yield _Entry(fields[9], int(fields[7]), fields[3] == _LISTEN)


def _process_with_socket(inode: str) -> int | None:
    wanted = f"socket:[{inode}]"
    for pid in pids():
        with contextlib.suppress(OSError):
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    if os.readlink(descriptor) == wanted:  # noqa: PTH115 - not a path
                        return pid
    return None


def _command_of(pid: int) -> str:
    try:
        text = " ".join((title(pid) or "").split()) or Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "gone meanwhile"
    return text if len(text) <= 100 else text[:97] + "..."


def _user_name(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _lowest_ephemeral_port() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 32_768
