"""Who holds what TLS is spoken with, and takes up a file that has changed.

A swap is whole: a connection goes on with what it began with, the next one gets the new.  Files that cannot be used change
nothing and are one line in the log; certificate and key may be replaced one after the other, so a change is looked at when
nothing has changed since the last look.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import os
from pathlib import Path

from daemonkit.logs import get_logger
from endpointd import metrics
from endpointd.settings import ServersSettings, TlsSettings
from endpointd.wire.identity import CertificateError, ServerIdentity, ServersTls, load_server_identity, load_servers_tls
from pgtopology.node import Address

SAY_EVERY_S = 10.0
"""How often one server's failure is a line in the log: a writer is tried again twenty times a second."""

LOOK_EVERY_S = 2.0
"""Between two looks at the files; a stat each."""

_Marks = tuple[tuple[int, int, int] | None, ...]


class TlsKeeper:
    """One for the process."""

    def __init__(self, clients: TlsSettings, servers: ServersSettings) -> None:
        """Load all files. Raises CertificateError."""
        self.clients: ServerIdentity | None = None
        """What doors prove themselves with; None if they speak no TLS."""
        self.servers: ServersTls | None = None
        """How servers are spoken to; None: in plaintext."""
        self.is_required = False
        """Whether clients must speak TLS."""
        self._settings = clients, servers
        self._tried: _Marks = ()
        self._said: dict[Address, tuple[float, str]] = {}
        self.take_up(clients, servers)

    def take_up(self, clients: TlsSettings, servers: ServersSettings, *, only_valid: bool = False) -> None:
        """Speak as these settings say from now on. Raises CertificateError; then everything stays as it was.

        *only_valid*: refuse a certificate that does not count now.
        """
        marks = _marks(clients, servers)
        identity, to_servers = load_server_identity(clients), load_servers_tls(servers)
        if only_valid and (why := _complaint(identity)) is not None:
            raise CertificateError(why)
        self.clients, self.servers = identity, to_servers
        self.is_required = clients.mode == "require"
        self._settings, self._tried = (clients, servers), marks
        metrics.CERTIFICATE_END.clear()
        if identity is not None:
            metrics.CERTIFICATE_END.labels("clients").set(identity.certificate.not_after.timestamp())
        if to_servers is not None and to_servers.own is not None:
            metrics.CERTIFICATE_END.labels("servers").set(to_servers.own[1].not_after.timestamp())

    def complain(self) -> None:
        """Say in the log what others will find wrong with our certificates, if anything: better served so than not at all."""
        why = _complaint(self.clients)
        if why is not None:
            get_logger().error("clients that verify the certificate will not connect", reason=why)
        why = self.servers.complaint(dt.datetime.now(dt.UTC)) if self.servers is not None else None
        if why is not None:
            get_logger().error("servers will refuse the certificate", reason=why)

    def note_failure(self, address: Address, reason: str) -> None:
        """Say in the log that TLS with the server at *address* failed, unless that was said a moment ago."""
        now = asyncio.get_running_loop().time()
        said_at, said = self._said.get(address, (float("-inf"), ""))
        if reason != said or now - said_at >= SAY_EVERY_S:
            self._said[address] = now, reason
            get_logger().warning("TLS with a server failed", server=str(address), reason=reason)

    async def run(self) -> None:
        """Take up changed files, for ever."""
        last = self._tried
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            now = _marks(*self._settings)
            if now == last and now != self._tried:
                self._try_anew(now)
            last = now

    def _try_anew(self, marks: _Marks) -> None:
        self._tried = marks
        try:
            self.take_up(*self._settings, only_valid=True)
        except CertificateError as error:
            get_logger().error("changed certificates cannot be used, the former ones stay", reason=str(error))
            return
        certificate = self.clients.certificate if self.clients is not None else None
        get_logger().info(
            "changed certificates taken up",
            sha256=certificate.sha256 if certificate is not None else None,
            not_after=certificate.not_after.isoformat() if certificate is not None else None,
        )


def _complaint(identity: ServerIdentity | None) -> str | None:
    return identity.complaint(dt.datetime.now(dt.UTC)) if identity is not None else None


def _marks(clients: TlsSettings, servers: ServersSettings) -> _Marks:
    """Return by what a change of each file is known."""
    paths = (clients.certificate, clients.key, clients.client_ca, servers.ca, servers.certificate, servers.key)
    return tuple(_mark(path) for path in paths if path is not None)


def _mark(path: Path) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - the same, and it says that it follows links
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
