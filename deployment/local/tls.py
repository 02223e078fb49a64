"""The certificates of a local cluster, in its data directory: made by `up`, made anew when they are due.

    tls/ca.pem      the authority with its key, 0600; nobody needs it but us
    tls/ca.crt      whom clients trust: the authority, and former ones as long as they count
    tls/server.pem  the endpoints' certificate with its key, 0600; the proxy reads it

Each file is replaced as a whole, in this order.  Whatever is interrupted, the next call finds what does not fit what stands
before it and makes it anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from daemonkit.durable import read_or_none, write_durably
from deployment.certificates import KeyPair, certificates_in, is_due, is_signed_by, names_of, new_authority, new_server
from deployment.local.layout import Layout
from deployment.local.plan import HOST, Plan
from pgwire.x509 import Certificate, read_pem


@dataclass(frozen=True, slots=True)
class Shown:
    """One certificate, for people."""

    name: str
    """authority, former authority, or endpoints."""
    path: Path
    certificate: Certificate
    names: tuple[str, ...]
    """For which it counts; an authority's has none."""


def server_names(plan: Plan) -> tuple[str, ...]:
    """Return every name and address by which clients reach the endpoints and, some day, the nodes."""
    hosts = (f"{name}.{plan.cluster}.{plan.zone}" for name in ("writer", "reader", *plan.names))
    return (*hosts, "localhost", HOST, "::1")


def make_certificates(layout: Layout, plan: Plan, now: datetime, *, anew: bool = False, authority_anew: bool = False) -> None:
    """Make what is missing, damaged, due or for other names; *anew*: the endpoints' in any case; *authority_anew*: all."""
    authority = _read_pair(layout.authority)
    if authority is None or authority_anew or is_due(authority.certificate, now):
        authority = new_authority(plan.cluster, now)
        write_durably(layout.authority, authority.pem.encode())
    trusted = _read_certificates(layout.trusted)
    if authority.certificate_pem not in trusted:
        counting = [each for each in trusted if read_pem(each).not_after > now]
        write_durably(layout.trusted, "".join([authority.certificate_pem, *counting]).encode(), 0o644)
    server = _read_pair(layout.server_pair)
    fits = (
        server is not None
        and is_signed_by(server, authority)
        and not is_due(server.certificate, now)
        and names_of(server) >= set(server_names(plan))
    )
    if anew or not fits:
        write_durably(layout.server_pair, new_server(authority, server_names(plan), now).pem.encode())


def show_certificates(layout: Layout) -> list[Shown]:
    """Return every certificate there is."""
    trusted, server = _read_certificates(layout.trusted), _read_pair(layout.server_pair)
    shown = [
        Shown("former authority" if number else "authority", layout.trusted, read_pem(each), ())
        for number, each in enumerate(trusted)
    ]
    if server is not None:
        shown.append(Shown("endpoints", layout.server_pair, server.certificate, tuple(sorted(names_of(server)))))
    return shown


def _read_pair(path: Path) -> KeyPair | None:
    """Return the certificate and key in *path*; None if they are missing or damaged."""
    data = read_or_none(path)
    pair = KeyPair(data.decode("utf-8", "replace")) if data is not None else None
    if pair is None or "PRIVATE KEY" not in pair.pem:
        return None
    try:
        _ = pair.certificate
    except ValueError:
        return None
    path.chmod(0o600)
    return pair


def _read_certificates(path: Path) -> list[str]:
    data = read_or_none(path)
    try:
        found = certificates_in(data.decode("utf-8", "replace")) if data is not None else ()
        for each in found:
            read_pem(each)
    except ValueError:
        return []
    return list(found)
