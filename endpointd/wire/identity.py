"""What TLS is spoken with: certificates, keys and authorities in files, checked when they are read.

A file that cannot be used is named with the reason, in words of ours where OpenSSL's help nobody.  A key must be as private as
PostgreSQL wants its own (be-secure-common.c).
"""

from __future__ import annotations

import datetime as dt
import os
import ssl
import stat
from dataclasses import dataclass
from pathlib import Path

from daemonkit.settings import SettingsError
from endpointd.settings import ServersSettings, TlsSettings
from endpointd.wire.tls import Channel, Role, client_context, server_context
from pgwire.x509 import Certificate, read_pem

PEM_BYTES_MAX = 1 << 20
"""Of a file of certificates; a path that points at something else is noticed early."""

_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class CertificateError(SettingsError):
    """A certificate or its key cannot be used; the text names the file and the reason."""


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """What the proxy proves itself to clients with."""

    context: ssl.SSLContext
    certificate: Certificate
    path: Path

    def channel(self, *, is_direct: bool) -> Channel:
        """Return a client's new channel; *is_direct*: it did not ask first, and must name the protocol."""
        return Channel(self.context, Role.SERVER, binding=self.certificate.binding, must_name_protocol=is_direct)

    def complaint(self, now: dt.datetime) -> str | None:
        """Return why clients that verify it will go away, if they will."""
        return _complaint(self.path, self.certificate, now)


@dataclass(frozen=True, slots=True)
class ServersTls:
    """How the proxy speaks TLS to servers."""

    context: ssl.SSLContext
    is_optional: bool
    """A server that declines is spoken to in plaintext."""
    verifies: bool
    vouching: ssl.SSLContext | None = None
    """With the certificate that vouches for clients, if there is one."""
    source: str | None = None
    """From where it does."""
    own: tuple[Path, Certificate] | None = None
    """Our certificate, and where it is."""

    def complaint(self, now: dt.datetime) -> str | None:
        """Return why servers will refuse our certificate, if they will."""
        return _complaint(*self.own, now) if self.own is not None else None

    def channel(self, host: str, *, vouches: bool = False) -> Channel:
        """Return a new channel to the server at *host*, a name or an address; *vouches*: for a client."""
        context = self.vouching if vouches and self.vouching is not None else self.context
        return Channel(context, Role.CLIENT, server_name=host)


def load_server_identity(settings: TlsSettings) -> ServerIdentity | None:
    """Return what *settings* name; None if TLS is off. Raises CertificateError."""
    if settings.mode == "off":
        return None
    assert settings.certificate is not None
    assert settings.key is not None
    context = server_context()
    context.minimum_version = _VERSIONS[settings.minimum]
    certificate = _load_pair(context, settings.certificate, settings.key)
    if settings.client_ca is not None:
        _load_authorities(context, settings.client_ca)
        # Asked for and verified if there is one, as PostgreSQL does; who needs one is said elsewhere.
        context.verify_mode = ssl.CERT_OPTIONAL
    return ServerIdentity(context, certificate, settings.certificate)


def load_servers_tls(settings: ServersSettings) -> ServersTls | None:
    """Return how to speak TLS to servers; None if it is off. Raises CertificateError."""
    if settings.tls == "off":
        return None
    source = settings.source
    # With a source it must not be shown from elsewhere: what a server takes for our word is not to be said for a client that
    # proves itself to the server (relay).
    context = _servers_context(settings, shows_certificate=source is None)
    vouching = _servers_context(settings, shows_certificate=True) if source is not None else None
    is_optional, verifies = settings.tls == "prefer", settings.tls == "verify"
    own = (settings.certificate, _first_certificate(settings.certificate)) if settings.certificate is not None else None
    return ServersTls(context, is_optional=is_optional, verifies=verifies, vouching=vouching, source=source, own=own)


def _servers_context(settings: ServersSettings, *, shows_certificate: bool) -> ssl.SSLContext:
    context = client_context()
    if settings.tls == "verify":
        assert settings.ca is not None
        _load_authorities(context, settings.ca)
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if settings.certificate is not None and shows_certificate:
        assert settings.key is not None
        _load_pair(context, settings.certificate, settings.key)
    return context


def _load_pair(context: ssl.SSLContext, certificate: Path, key: Path) -> Certificate:
    """Load a certificate with its chain, and its key, into *context*. Raises CertificateError."""
    found = _first_certificate(certificate)
    _check_key(key)

    def refuse() -> str:
        raise CertificateError(f"{key}: the key is protected by a passphrase, and nobody is there to enter it")

    try:
        context.load_cert_chain(certificate, key, password=refuse)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise CertificateError(f"{key}: the key is not that of the certificate {certificate}") from error
        raise CertificateError(f"{key}: the key cannot be read: expected PEM") from error
    except OSError as error:
        raise CertificateError(f"{key}: the key cannot be read: {error.strerror}") from error
    return found


def _first_certificate(path: Path) -> Certificate:
    text = _read(path, "the certificate").decode("utf-8", "replace")
    begin = text.find(ssl.PEM_HEADER)
    end = text.find(ssl.PEM_FOOTER, begin)
    if begin < 0 or end < 0:
        raise CertificateError(f"{path}: there is no certificate in it: expected PEM")
    try:
        return read_pem(text[begin : end + len(ssl.PEM_FOOTER)])
    except ValueError as error:
        raise CertificateError(f"{path}: the certificate cannot be read: {error}") from error


def _load_authorities(context: ssl.SSLContext, path: Path) -> None:
    _first_certificate(path)
    try:
        context.load_verify_locations(path)
    except (ssl.SSLError, OSError) as error:
        raise CertificateError(f"{path}: the authorities cannot be read: expected certificates in PEM") from error


def _check_key(path: Path) -> None:
    _read(path, "the key")
    status = path.stat()
    if status.st_uid not in (os.geteuid(), 0):
        raise CertificateError(f"{path}: the key belongs to another user: expected this program's, or root")
    allowed = 0o600 if status.st_uid == os.geteuid() else 0o640
    mode = stat.S_IMODE(status.st_mode)
    if mode & ~(allowed | 0o100):
        raise CertificateError(f"{path}: the key is open to other users (mode {mode:04o}); expected mode {allowed:04o}")


def _read(path: Path, what: str) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise CertificateError(f"{path}: {what} cannot be read: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise CertificateError(f"{path}: {what} is not a regular file")
        data = file.read(PEM_BYTES_MAX + 1)
    if len(data) > PEM_BYTES_MAX:
        raise CertificateError(f"{path}: {what} is longer than {PEM_BYTES_MAX} bytes")
    return data


def _complaint(path: Path, certificate: Certificate, now: dt.datetime) -> str | None:
    if now > certificate.not_after:
        return f"{path}: the certificate expired on {certificate.not_after:%Y-%m-%d %H:%M:%S} UTC"
    if now < certificate.not_before:
        return f"{path}: the certificate is not valid before {certificate.not_before:%Y-%m-%d %H:%M:%S} UTC"
    return None
