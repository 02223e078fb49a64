"""Secrets in files: tokens and passwords, one a file, private to the user.

A secret that others can read is not one, so such a file is refused rather than used with a warning.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from daemonkit.settings import SettingsError

SECRET_BYTES_MAX = 4096
"""More than any token or password of ours; a path that points at something else is noticed early."""


class SecretError(SettingsError):
    """A secret cannot be used; the text names the file and the reason."""


class SecretFile:
    """A secret that is read anew each time it is needed, so that nobody must be restarted for another one."""

    def __init__(self, path: Path) -> None:
        """Read it the first time. Raises SecretError."""
        self._path = path
        self._last = read_secret(path)

    def __call__(self) -> str:
        """Return the secret, or the last good one while the file cannot be used."""
        with contextlib.suppress(SecretError):
            self._last = read_secret(self._path)
        return self._last


def read_secret(path: Path) -> str:
    """Return the secret in *path*, without white space around it.

    Raises SecretError if the file is missing, not a regular file, readable or writable by others than its owner, too long,
    not UTF-8 or empty.
    """
    try:
        # The descriptor is checked, not the path: nobody can exchange the file between the look and the use.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise SecretError(f"{path}: the secret cannot be read: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise SecretError(f"{path}: the secret is not a regular file")
        if status.st_mode & 0o077:
            mode = stat.S_IMODE(status.st_mode)
            raise SecretError(f"{path}: the secret is open to other users (mode {mode:04o}); expected mode 0600")
        raw = file.read(SECRET_BYTES_MAX + 1)
    if len(raw) > SECRET_BYTES_MAX:
        raise SecretError(f"{path}: the secret is longer than {SECRET_BYTES_MAX} bytes")
    try:
        secret = raw.decode().strip()
    except UnicodeDecodeError as error:
        raise SecretError(f"{path}: the secret is not UTF-8 text") from error
    if not secret:
        raise SecretError(f"{path}: the secret is empty")
    return secret
