"""File descriptors: as many as the system grants, and the last of them for the program's own work.

The kernel hands out the lowest free number.  The number of a socket that was just accepted therefore tells how many are in
use, without counting; when it comes near the limit, the socket is a stranger's and is closed again, so that what the program
itself opens (a file that must be fsynced, a connection to a peer, /proc) never meets EMFILE.
"""

from __future__ import annotations

import errno
import resource

FOR_STRANGERS_LESS = 160
"""Descriptors that nobody from outside gets."""
FOR_OWN_WORK = 96
"""Of these, what is left when what clients brought with them (connections to servers) has taken the rest."""
TOO_MANY = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""What accept(2) says when the machine gives no more."""


def allow_descriptors() -> int:
    """Raise the soft limit of open files to the hard one, and return what holds from now on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard and soft != resource.RLIM_INFINITY:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (ValueError, OSError):
            pass  # some systems name a hard limit that they do not grant
    return soft


def is_reserved(descriptor: int, spared: int) -> bool:
    """Return whether *descriptor* is one of the last *spared*; of a very small limit, of its last quarter."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return False
    return descriptor >= soft - min(spared, soft // 4)
