"""A cluster's authority and what it has certified, in files: made once, made anew when they are due, and never half.

The authority stands with its key in one file, 0600, which nobody needs but us; whom others trust, without keys, in another:
the authority, and former ones as long as they count.  Each certificate stands with its key in a file of its own.  Each file is
replaced as a whole, the authority first.  Whatever is interrupted, the next call finds what does not fit what stands before it
and makes it anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from daemonkit.durable import read_or_none, write_durably
from deployment.certificates import (
    SERVER_DAYS,
    KeyPair,
    certificates_in,
    is_due,
    is_signed_by,
    names_of,
    new_authority,
    new_client,
    new_server,
)
from pgwire.x509 import read_pem

NAME_LENGTH_MAX = 64
"""Of a common name (RFC 5280, ub-common-name)."""
TAKEN_UP_S = 6.0
"""So long a proxy that runs does not trust a new authority: it looks at its files every two seconds, and takes up what has not
changed for another two."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """A certificate that there is to be."""

    path: Path
    title: str
    """For people."""
    names: tuple[str, ...] = ()
    """DNS names and addresses of a server, the first its subject; none: it is a client's."""
    client: str = ""
    """Who a client is."""
    days: int = SERVER_DAYS


@dataclass(frozen=True, slots=True)
class Keyring:
    """The files of one authority."""

    cluster: str
    authority: Path
    trusted: Path

    def certify(self, leaves: Iterable[Leaf], now: datetime, *, anew: bool = False, authority_anew: bool = False) -> None:
        """Make what is missing, damaged, due or for other names; *anew*: all but the authority; *authority_anew*: all."""
        authority = self.establish(now, anew=authority_anew)
        for leaf in leaves:
            if anew or not _fits(leaf, authority, now):
                write_durably(leaf.path, _issue(leaf, authority, now).pem.encode())

    def establish(self, now: datetime, *, anew: bool = False) -> KeyPair:
        """Return the authority, made if it is missing, damaged or due, or *anew*; it is among those that are trusted.

        Who runs and verifies takes up to TAKEN_UP_S to trust a new one: that long before anything of it is shown.
        """
        authority = read_pair(self.authority)
        if authority is None or anew or is_due(authority.certificate, now):
            authority = new_authority(self.cluster, now)
            write_durably(self.authority, authority.pem.encode())
        trusted = read_certificates(self.trusted)
        if authority.certificate_pem not in trusted:
            counting = [each for each in trusted if read_pem(each).not_after > now]
            write_durably(self.trusted, "".join([authority.certificate_pem, *counting]).encode(), 0o644)
        return authority

    def issue_client(self, name: str, now: datetime) -> KeyPair:
        """Return a certificate by which a client is *name* to the endpoints. Raises ValueError."""
        authority = read_pair(self.authority)
        if authority is None:
            raise ValueError(f"there is no authority in {self.authority}")
        if name.startswith("endpointd"):
            raise ValueError(f'"{name}" is one of the cluster\'s own names')
        if not (name.isprintable() and 1 <= len(name) <= NAME_LENGTH_MAX):
            raise ValueError(f"a common name has 1 to {NAME_LENGTH_MAX} printable characters")
        return new_client(authority, name, now)

    def is_due(self, now: datetime) -> bool:
        """Return whether `establish` would make another authority. Cheap."""
        return ends_soon(self.authority, now)


def ends_soon(path: Path, now: datetime) -> bool:
    """Return whether the certificate in *path* should be made anew, as it ends or cannot be read. Cheap."""
    pair = read_pair(path)
    return pair is None or is_due(pair.certificate, now)


def read_pair(path: Path) -> KeyPair | None:
    """Return the certificate and key in *path*, made private; None if they are missing or damaged."""
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


def read_certificates(path: Path) -> list[str]:
    """Return each certificate in *path*; none if it is missing or damaged."""
    data = read_or_none(path)
    try:
        found = certificates_in(data.decode("utf-8", "replace")) if data is not None else ()
        for each in found:
            read_pem(each)
    except ValueError:
        return []
    return list(found)


def _issue(leaf: Leaf, authority: KeyPair, now: datetime) -> KeyPair:
    if not leaf.names:
        return new_client(authority, leaf.client, now)
    return new_server(authority, leaf.names, now, days=leaf.days)


def _fits(leaf: Leaf, authority: KeyPair, now: datetime) -> bool:
    pair = read_pair(leaf.path)
    return (
        pair is not None
        and is_signed_by(pair, authority)
        and not is_due(pair.certificate, now)
        and names_of(pair) >= set(leaf.names)
    )
