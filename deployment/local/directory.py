"""Making and checking a local cluster's data directory.

It is made in this order: the directory (0700), our marker, secrets, and cluster.json last; an interrupted `up` goes on where
the former one stopped as long as no node has data.  A directory that is not ours is never written to, and never removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import stat
from enum import StrEnum
from pathlib import Path

import msgspec

from daemonkit.durable import fsync_dir, write_durably
from daemonkit.exits import Failure
from daemonkit.principals import Scope, encode_verifiers
from daemonkit.secrets import SecretError, read_secret
from deployment.files import NODES_TOKEN, ROLE_SECRETS
from deployment.local.layout import Layout
from deployment.local.plan import HOST, USER, Plan

_MARKER_TEXT = b"This directory belongs to a local endpointd cluster. `endpointctl down --purge` removes it.\n"
_DISK_FREE_MIN = 512 << 20
"""Three fresh nodes take about 150 MB with their first WAL segments; less than this would fail in the middle."""


class DirectoryState(StrEnum):
    """What a data directory is to us."""

    NEW = "new"
    """It does not exist, or is empty, or holds nothing but our beginnings."""
    COMPLETE = "complete"
    """A cluster was laid out here."""


def inspect_directory(layout: Layout) -> DirectoryState:
    """Return what the data directory is. Writes nothing; raises Failure if it cannot be used."""
    root = layout.root
    purge = f"`endpointctl down --purge --data-dir {root}` removes it"
    if layout.is_too_long:
        raise Failure(
            f"the path of the data directory is too long ({len(os.fsencode(root))} bytes): {root}",
            hint="choose a shorter one with --data-dir",
        )
    if not root.exists():
        _require_writable_parent(root)
        return DirectoryState.NEW
    if not root.is_dir():
        raise Failure(f"{root} is not a directory", hint="choose another one with --data-dir")
    if root.stat().st_uid != os.getuid():
        raise Failure(f"{root} belongs to another user", hint="choose another one with --data-dir")
    if not layout.marker.exists():
        if any(root.iterdir()):
            raise Failure(f"{root} is not empty and not a cluster of ours", hint="choose another one with --data-dir")
        return DirectoryState.NEW
    has_data = any(layout.nodes.glob("*/pgdata"))
    if not layout.plan.exists():
        if has_data:
            raise Failure(f"{root} is half made: nodes have data, but {layout.plan.name} is missing", hint=purge)
        return DirectoryState.NEW
    for path in (layout.secret(name) for name in (*ROLE_SECRETS, NODES_TOKEN)):
        if not path.exists():
            raise Failure(f"{root} is half made: {path.relative_to(root)} is missing", hint=f"put it back, or {purge}")
        try:
            read_secret(path)
        except SecretError as error:
            raise Failure(str(error), hint=f"put it back as it was, or {purge}") from error
    if has_data and not layout.store.exists():
        raise Failure(
            f"{root} is half made: nodes have data, but {layout.store.relative_to(root)} is missing",
            hint=f"put it back, or {purge}",
        )
    return DirectoryState.COMPLETE


def require_disk(layout: Layout) -> None:
    """Raise Failure if the disk is so full that a new cluster would fail in the middle."""
    place = layout.root
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < _DISK_FREE_MIN:
        raise Failure(
            f"only {free >> 20} MB are free on the disk of {place}, a new cluster needs {_DISK_FREE_MIN >> 20} MB",
            hint="make room or choose another directory with --data-dir",
        )


def require_disk_for_copy(layout: Layout, plan: Plan) -> None:
    """Raise Failure if the disk cannot hold one more copy of the data."""
    sizes = [_size_of(layout.pgdata(node.name)) for node in plan.nodes]
    needed = _DISK_FREE_MIN + max(sizes, default=0)
    free = shutil.disk_usage(layout.root).free
    if free < needed:
        raise Failure(
            f"only {free >> 20} MB are free on the disk of {layout.root}, one more node needs {needed >> 20} MB",
            hint="make room first",
        )


def _size_of(folder: Path) -> int:
    """Return the bytes below *folder*; PostgreSQL removes files while we look."""
    total = 0
    for place, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):
                total += (Path(place) / name).lstat().st_size
    return total


def make_root(layout: Layout) -> None:
    """Make the directory itself and mark it as ours."""
    layout.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    layout.root.chmod(0o700)
    if not layout.marker.exists():
        write_durably(layout.marker, _MARKER_TEXT)


def make_files(layout: Layout, plan: Plan) -> None:
    """Make everything below the root that is made once: directories, secrets, and the plan last."""
    make_directories(layout, plan)
    for name in ROLE_SECRETS:
        _write_once(layout.secret(name), secrets.token_urlsafe(24))
    _write_once(layout.secret(NODES_TOKEN), secrets.token_urlsafe(32))
    make_tokens(layout)
    write_passfile(layout, plan)
    write_plan(layout, plan)
    fsync_dir(layout.root)


def make_tokens(layout: Layout) -> None:
    """Make the tokens of all scopes that are not there yet, as in a directory of an earlier version, and their digests."""
    tokens: list[tuple[Scope, str]] = []
    for scope in Scope:
        path = layout.token_of(scope)
        _write_once(path, secrets.token_urlsafe(32))
        tokens.append((scope, read_secret(path)))
    write_durably(layout.verifiers, encode_verifiers(tokens).encode())


def write_passfile(layout: Layout, plan: Plan) -> None:
    """Write libpq's password file of the superuser."""
    password = layout.secret("superuser").read_text().rstrip("\n")
    # libpq compares the host as it was given, so every name the cluster answers to has its line.
    names = ("writer", "reader", *plan.names)
    hosts = (HOST, "localhost", *(f"{name}.{plan.cluster}.{plan.zone}" for name in names))
    write_durably(layout.passfile, "".join(f"{passfile_line(password, host)}\n" for host in hosts).encode())


def passfile_line(password: str, host: str = HOST) -> str:
    """Return the line by which libpq knows the superuser's *password* on *host*."""
    escaped = password.replace("\\", "\\\\").replace(":", "\\:")
    return f"{host}:*:*:{USER}:{escaped}"


def write_plan(layout: Layout, plan: Plan) -> None:
    """Write down what is decided about the cluster; from then on every `up` brings back that."""
    write_durably(layout.plan, msgspec.json.format(msgspec.json.encode(plan)) + b"\n")


def make_directories(layout: Layout, plan: Plan | None = None) -> None:
    """Make every directory of ours, those of the proxies of *plan* too, private to the user.

    Raises Failure if somebody else made one of them.
    """
    proxies = plan.proxies if plan is not None else ()
    for directory in (*layout.directories, *(layout.proxy_data(proxy.number) for proxy in proxies)):
        make_private(directory)


def make_private(directory: Path) -> None:
    """Make *directory*, private to the user, if it is not there. Raises Failure if it is somebody else's."""
    directory.mkdir(mode=0o700, exist_ok=True)
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise Failure(f"{directory} is not a directory of ours", hint="remove it, or choose another --data-dir")
    directory.chmod(0o700)


def write_settings(files: dict[Path, str]) -> None:
    """Write the daemons' settings files."""
    for path, text in files.items():
        write_durably(path, text.encode())


def read_plan(layout: Layout) -> Plan | None:
    """Return the plan of the cluster, or None if there is no complete one. Raises Failure if it is damaged."""
    try:
        return msgspec.json.decode(layout.plan.read_bytes(), type=Plan)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, RecursionError) as error:
        raise Failure(f"{layout.plan} cannot be read: {error}", hint="put it back from a copy") from error


def lock(layout: Layout) -> int | None:
    """Lock the data directory and return the descriptor that holds the lock; None if somebody else holds it."""
    descriptor = os.open(layout.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def purge(layout: Layout) -> None:
    """Remove the data directory and all that is in it. Raises Failure unless it carries our marker."""
    if not layout.root.exists():
        return
    if not layout.marker.is_file() or layout.root.is_symlink():
        raise Failure(
            f"{layout.root} does not carry our marker ({layout.marker.name}), nothing was removed",
            hint="look at it and remove it yourself",
        )
    if _is_ours(layout.sockets):
        shutil.rmtree(layout.sockets)
    # The marker goes last: a purge that was interrupted can be repeated.
    for entry in layout.root.iterdir():
        if entry == layout.marker:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    layout.marker.unlink()
    layout.root.rmdir()


def leave_no_sockets(layout: Layout) -> None:
    """Remove the sockets' directory if it lies outside the data directory and nobody listens there any more."""
    sockets = layout.sockets
    if layout.root in sockets.parents or not _is_ours(sockets):
        return
    with contextlib.suppress(OSError):  # what is not empty stays
        for entry in sockets.iterdir():
            entry.rmdir()
        sockets.rmdir()


def _is_ours(directory: Path) -> bool:
    return directory.is_dir() and not directory.is_symlink() and directory.stat().st_uid == os.getuid()


def _write_once(path: Path, secret: str) -> None:
    """Write *secret*, unless there is one that can be used."""
    try:
        read_secret(path)
    except SecretError:
        write_durably(path, f"{secret}\n".encode())


def _require_writable_parent(root: Path) -> None:
    parent = root.parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise Failure(f"{root} cannot be made: no right to write in {parent}", hint="choose another one with --data-dir")
