"""Keeps PostgreSQL from putting a tablespace outside its data directory.

A tablespace's LOCATION is one path in the WAL, the same on every server: servers of one machine would write one directory, and
a server whose directory is missing stops at the record.  Unmodified PostgreSQL has no hook that could refuse it, but before it
writes anything, to the WAL or elsewhere, it gives the directory the permissions of its data directory (tablespace.c,
create_tablespace_directories).  So PostgreSQL and all its children are started under a filter of system calls that refuses
chmod to exactly these modes: the statement ends with "could not set permissions on directory", SQLSTATE 42501.
LOCATION '' makes a tablespace inside the data directory, is carried by copies and rewinds, and is not concerned.

A filter belongs to a thread and is inherited by what it starts: a thread puts it on, starts PostgreSQL and ends, so noded
itself and the programs it runs are free.  Sources: seccomp(2), <linux/seccomp.h>, <linux/filter.h>, <linux/audit.h>.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import threading
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")

MODES = (0o700, 0o750)
"""Of a data directory, and so of its tablespaces: file_perm.h, PG_DIR_MODE_OWNER and PG_DIR_MODE_GROUP."""

_CALLS = {
    "x86_64": (0xC000003E, ((90, 1), (268, 2), (452, 2))),
    "aarch64": (0xC00000B7, ((53, 2), (452, 2))),
}
"""By machine: its number in <linux/audit.h>; chmod where there is one, fchmodat, fchmodat2, each with the place of the mode."""

_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, _PR_SET_NO_NEW_PRIVS = 22, 2, 38
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBER_AT, _ARCH_AT, _ARGUMENTS_AT = 0, 4, 16


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def is_possible() -> bool:
    """Return whether PostgreSQL can be confined on this machine."""
    return run_confined(lambda confined: confined)


def run_confined(start: Callable[[bool], _T]) -> _T:
    """Return what *start* returns, called in a thread whose children are confined. It is told whether they are.

    Whatever it raises is raised here.
    """
    answers: list[_T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            answers.append(start(_confine_this_thread()))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, name="confined start")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return answers[0]


def _confine_this_thread() -> bool:
    text = _filter(os.uname().machine)
    if text is None:
        return False
    program = ctypes.byref(_Program(len(text) // 8, text))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program, 0, 0) == 0:
        return True
    # Who is not privileged must first promise to stay so.
    return (
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
        and libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program, 0, 0) == 0
    )


def _filter(machine: str) -> bytes | None:
    """Return the filter for *machine*; None for one whose numbers are not known here."""
    if machine not in _CALLS:
        return None
    arch, calls = _CALLS[machine]
    lines = [(_LOAD, 0, 0, _ARCH_AT), (_EQUAL, 1, 0, arch), (_RETURN, 0, 0, _ALLOW), (_LOAD, 0, 0, _NUMBER_AT)]
    for number, place in calls:
        lines += [
            (_EQUAL, 0, 5, number),
            (_LOAD, 0, 0, _ARGUMENTS_AT + 8 * place),
            (_EQUAL, 1, 0, MODES[0]),
            (_EQUAL, 0, 1, MODES[1]),
            (_RETURN, 0, 0, _ERRNO | errno.EPERM),
            (_RETURN, 0, 0, _ALLOW),
        ]
    lines.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *line) for line in lines)
