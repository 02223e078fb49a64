"""What this node's PostgreSQL speaks TLS with: files that others make and renew, looked at before PostgreSQL is given them.

A server does not start with a certificate that it cannot load, so one that is damaged or missing means no TLS, not no server.
"""

from __future__ import annotations

import os
import ssl
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from noded.postgres.binaries import Binaries

ANSWER_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True)
class ServerTls:
    """Files in PEM."""

    certificate: Path
    key: Path
    """Private to PostgreSQL's user (0600). May be the same file."""
    client_ca: Path | None = None
    """Whose certificates clients may log in with; None: nobody's."""

    def why_not(self) -> str | None:
        """Return why PostgreSQL could not begin with these files, or None."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            if stat.S_IMODE(os.stat(self.key).st_mode) & 0o077:  # noqa: PTH116 - it says that it follows links
                return f"{self.key}: the key is open to other users; expected mode 0600"
            context.load_cert_chain(self.certificate, self.key, password=_refuse)
            if self.client_ca is not None:
                context.load_verify_locations(self.client_ca)
        except ssl.SSLError as error:
            return f"{self.certificate}: certificate, key or authorities cannot be used: {error.reason or 'expected PEM'}"
        except (OSError, ValueError) as error:
            return f"certificate, key or authorities cannot be read: {error}"
        return None

    def marks(self) -> tuple[tuple[int, int, int] | None, ...]:
        """Return by what a change of each file is known."""
        return tuple(_mark(path) for path in (self.certificate, self.key, self.client_ca) if path is not None)


def _mark(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _refuse() -> str:
    raise ValueError("the key is protected by a passphrase, and nobody is there to enter it")


def has_tls(binaries: Binaries) -> bool:
    """Return whether this PostgreSQL was built with TLS, as it says itself; False if it does not say."""
    with tempfile.TemporaryDirectory(prefix="endpointd-") as folder:
        Path(folder, "postgresql.conf").touch()
        command = binaries.command("postgres", "-C", "ssl_library", "-D", folder)
        try:
            said = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_TIMEOUT_S, check=True)
        except (OSError, subprocess.SubprocessError):
            return False
    return bool(said.stdout.strip())
