"""What clients' proofs are checked against: the cluster's roles, in memory alone, and a mock for everybody else.

Whoever is no role, has no password, or none that SCRAM works with, is shown what PostgreSQL itself would show: a salt that
depends on the name and the cluster's nonce, the same on every server and at every attempt, so that nobody finds out which names
exist.  A lookup is the same work for every name.  Source: PostgreSQL's auth-scram.c, mock_scram_secret and scram_mock_salt;
backend_startup.c for names of 64 bytes and more.

Nothing that is decided here lets anybody in: the server is logged into as well, and decides by what it has itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from pgtopology.credentials import Credentials, RoleCredential, VerifierKind
from pgwire.scram import Verifier, format_verifier, parse_verifier
from pgwire.startup import NAME_BYTES_MAX

MOCK_SALT_BYTES = 16
"""SCRAM_DEFAULT_SALT_LEN."""
MOCK_ITERATIONS = 4096
"""SCRAM_SHA_256_DEFAULT_ITERATIONS: the mock does not go by the setting scram_iterations, in no version."""


class Doom(StrEnum):
    """Why no proof can be right; for the log, never for the client."""

    NO_ROLE = "the role does not exist"
    NO_PASSWORD = "the role has no password"  # noqa: S105 - what is wrong, no password
    MD5 = "the role's password is stored as an md5 hash; ALTER ROLE ... PASSWORD sets it again, as SCRAM"
    UNUSABLE = "what is stored as the role's password is no SCRAM verifier"
    UNKNOWN = "no node has told the roles yet"


@dataclass(frozen=True, slots=True)
class Secret:
    """What the proof of one name is checked against."""

    verifier: Verifier
    """Of the role, or a mock whose salt and count can be shown, and which nothing fulfils."""
    doom: Doom | None
    """None: a right proof is possible."""
    version: str | None
    """Of the credentials it is from; None before there were any."""


_DOOMS = {VerifierKind.NONE: Doom.NO_PASSWORD, VerifierKind.MD5: Doom.MD5}


class Roles:
    """The roles as they were told last."""

    def __init__(self, seed: bytes) -> None:
        """*seed*: 32 random bytes that nobody else has."""
        self.version: str | None = None
        """Of what is known; None before anything is."""
        self.count = 0
        self._tells_vouchable = False
        self._roles: Mapping[bytes, RoleCredential] = {}
        self._remembered: dict[str, Secret] = {}
        """Of roles that can prove themselves, for `find_known`."""
        self._mock_nonce = seed
        self._stored_key = hashlib.sha256(b"stored" + seed).digest()
        self._server_key = hashlib.sha256(b"server" + seed).digest()

    @property
    def is_known(self) -> bool:
        """Whether any node has told the roles."""
        return self.version is not None

    def put(self, credentials: Credentials) -> None:
        """Go by *credentials* from now on."""
        self._roles = {role.name: role for role in credentials.roles}
        self._remembered.clear()
        self._mock_nonce = credentials.mock_nonce
        self.version = credentials.version
        self.count = len(self._roles)
        self._tells_vouchable = any(role.vouchable is not None for role in credentials.roles)

    def find(self, user: str) -> Secret:
        """Return what *user*, as the startup packet names it, is checked against. The work is the same for every name."""
        name = _name(user)
        salt = hashlib.sha256(name + self._mock_nonce).digest()[:MOCK_SALT_BYTES]
        mock = Verifier(MOCK_ITERATIONS, salt, self._stored_key, self._server_key)
        text = format_verifier(mock)
        role = self._roles.get(name)
        doom = self._doom(role)
        if doom is None and role is not None and role.verifier is not None:
            text = role.verifier
        try:
            return Secret(parse_verifier(text), doom, self.version)
        except ValueError:
            return Secret(mock, Doom.UNUSABLE, self.version)

    def find_known(self, user: str) -> Secret | None:
        """Return what `find` does if *user* can prove itself, else None.

        It is remembered, so the time that it takes tells who can: for those alone who have been let in before.
        """
        secret = self._remembered.get(user)
        if secret is None and (found := self.find(user)).doom is None:
            secret = self._remembered[user] = found
        return secret

    def is_vouchable(self, user: str) -> bool:
        """Return whether *user* may come in by our word; where a noded of an earlier version told the roles, servers decide."""
        role = self._roles.get(_name(user))
        return not self._tells_vouchable or (role is not None and role.vouchable is True)

    def _doom(self, role: RoleCredential | None) -> Doom | None:
        if role is None:
            return Doom.NO_ROLE if self.is_known else Doom.UNKNOWN
        if role.kind == VerifierKind.SCRAM and role.verifier is not None:
            return None
        return next((doom for kind, doom in _DOOMS.items() if role.kind == kind), Doom.UNUSABLE)


def _name(user: str) -> bytes:
    """Return what PostgreSQL looks up for *user*."""
    return user.encode("utf-8", "surrogateescape")[:NAME_BYTES_MAX]
