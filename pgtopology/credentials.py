"""What a cluster tells its proxies of its roles, so that a client can prove who it is to the proxy.

A noded tells it to whoever asks with a proxy's token, and a proxy keeps it in memory: it goes through no manager, stands on no
disk and in no log (decision 0031).  What a role has that could be presented as it is, an md5 hash, is never told; from a SCRAM
verifier no password follows and nobody can log in with it.  No repr here shows a verifier or the nonce.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from enum import StrEnum

import msgspec

from pgtopology.document import FORMAT_VERSION
from pgtopology.lsn import Lsn

NONCE_BYTES = 32
"""MOCK_AUTH_NONCE_LEN in PostgreSQL's pg_control.h."""


class VerifierKind(StrEnum):
    """What a role's rolpassword is."""

    SCRAM = "scram"
    MD5 = "md5"
    NONE = "none"
    """No password was ever given, or it was taken away."""
    OTHER = "other"
    """Nothing that PostgreSQL 15 to 18 stores: no login with it."""


class RoleCredential(msgspec.Struct, frozen=True):
    """A role, and what its logins are checked against."""

    name: bytes
    """As it stands in pg_authid: not every name is UTF-8."""
    kind: str
    """One of VerifierKind, or a word of a later version."""
    verifier: str | None = None
    """As PostgreSQL stores it; with SCRAM alone."""
    vouchable: bool | None = None
    """Whether this node's server would take a proxy's word for it, if a rule names it. None: the noded does not say."""

    def __repr__(self) -> str:
        return f"RoleCredential(name={self.name!r}, kind={self.kind!r})"


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """All roles that may log in through a proxy, with or without the right to, as of one moment."""

    format_version: int = FORMAT_VERSION
    version: str
    """The same on every node that holds the same, another one otherwise (`version_of`)."""
    mock_nonce: bytes
    """Of pg_control, the same on all nodes: from it follows the salt that is shown for roles that do not exist."""
    scram_iterations: int
    """The server's setting of that name; 4096 before it had one."""
    roles: tuple[RoleCredential, ...]

    def __repr__(self) -> str:
        return f"Credentials(version={self.version!r}, roles: {len(self.roles)})"


class RolesAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to GET /v1/roles: what there is, or that nothing has changed."""

    format_version: int = FORMAT_VERSION
    version: str | None = None
    """Of what is known here; None if nothing is."""
    lsn: Lsn | None = None
    """What was committed up to here is contained, on a standby what was replayed."""
    age_ms: int | None = None
    """Since the last look that was not in vain began."""
    problem: str | None = None
    """Why the last look was in vain, or what is left out. What is told is the last that was seen."""
    credentials: Credentials | None = None
    """None if its version is the one that was named in the question, or nothing is known."""

    def __repr__(self) -> str:
        return f"RolesAnswer(version={self.version!r}, lsn={self.lsn}, age_ms={self.age_ms}, problem={self.problem!r})"


def make_credentials(mock_nonce: bytes, scram_iterations: int, roles: Iterable[RoleCredential]) -> Credentials:
    """Return *roles* as they are told, in the order of their names."""
    ordered = tuple(sorted(roles, key=lambda role: role.name))
    return Credentials(
        version=version_of(mock_nonce, scram_iterations, ordered),
        mock_nonce=mock_nonce,
        scram_iterations=scram_iterations,
        roles=ordered,
    )


def version_of(mock_nonce: bytes, scram_iterations: int, roles: tuple[RoleCredential, ...]) -> str:
    """Return what names this content. Nobody who does not know all of it learns anything by it: the nonce is in it."""
    content = msgspec.json.encode((mock_nonce, scram_iterations, roles))
    return hashlib.sha256(content).hexdigest()[:32]
