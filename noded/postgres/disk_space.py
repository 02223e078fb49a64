"""How much room the file system of the data has, and whether that is too little for a server.

A server on a full disk cannot always say so itself: it may have no room for the line in its log, and PostgreSQL 15 leaves
the reason out when a session's first files cannot be written.  So noded looks for itself.
"""

from __future__ import annotations

import os
from functools import cache

from daemonkit.proctable import boot_id
from noded.postgres.instance import Instance
from pgtopology.observation import Disk

FREE_MIN_BYTES = 16 << 20
"""One WAL segment of the usual size: without room for it no server goes on."""


def disk_of(instance: Instance) -> Disk | None:
    """Return how full the file system of the data is; None if it cannot be told."""
    try:
        status, device = os.statvfs(instance.layout.root), instance.layout.root.stat().st_dev
    except OSError:
        return None
    system = _running_system()
    return Disk(
        free_bytes=status.f_bavail * status.f_frsize,
        total_bytes=status.f_blocks * status.f_frsize,
        device=f"{system}/{os.major(device)}:{os.minor(device)}" if system is not None else None,
    )


@cache
def _running_system() -> str | None:
    """Return what this boot of this kernel, which numbers the devices, calls itself, if it does."""
    return boot_id() or None


def lack_of_space(instance: Instance) -> str | None:
    """Return PostgreSQL's words for a full disk, with what is left, if no server can go on with so little; else None."""
    disk = disk_of(instance)
    if disk is None or disk.free_bytes >= FREE_MIN_BYTES:
        return None
    return f"No space left on device: {disk.free_bytes >> 20} MB are free"
