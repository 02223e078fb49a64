"""What the holder of a token may do, and the tokens by which our servers know it.

A server holds digests and no tokens: who breaks into a proxy finds there the one token that the proxy itself presents, and
nothing by which it could order anything.  A token is 32 random bytes, so that a plain digest is as good as the token's own
secrecy.  Every token is compared, each in constant time, so that the time of an answer tells nothing.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

from daemonkit.secrets import SecretError, read_secret
from daemonkit.settings import SettingsError


class Scope(StrEnum):
    """What a token is for; each but `feed` includes those before it."""

    SCRAPE = "scrape"
    """GET /metrics."""
    FEED = "feed"
    """What a proxy needs: the document and the writer's heartbeat."""
    READ = "read"
    """Everything that changes nothing."""
    OPERATE = "operate"
    """What operators do every day, and what loses nothing: switchover, restart, pause."""
    ADMIN = "admin"
    """Everything."""


_INCLUDES: dict[Scope, frozenset[Scope]] = {
    Scope.SCRAPE: frozenset({Scope.SCRAPE}),
    Scope.FEED: frozenset({Scope.FEED}),
    Scope.READ: frozenset({Scope.SCRAPE, Scope.READ}),
    Scope.OPERATE: frozenset({Scope.SCRAPE, Scope.READ, Scope.OPERATE}),
    Scope.ADMIN: frozenset(Scope),
}


class Verifiers:
    """The digests of all tokens that a server accepts, and what each is for."""

    def __init__(self, digests: Iterable[tuple[Scope, str]] = ()) -> None:
        self._digests = tuple((scope, digest.encode()) for scope, digest in digests)

    def scopes_of(self, token: str) -> frozenset[Scope]:
        """Return what the holder of *token* may do; nothing if it is none of ours."""
        given = digest_of(token).encode()
        found: frozenset[Scope] = frozenset()
        for scope, digest in self._digests:
            if hmac.compare_digest(given, digest):
                found |= _INCLUDES[scope]
        return found

    def __or__(self, other: Verifiers) -> Verifiers:
        both = Verifiers()
        both._digests = self._digests + other._digests
        return both

    def __bool__(self) -> bool:
        return bool(self._digests)

    def only(self, *scopes: Scope) -> Verifiers:
        """Return those of *scopes*: what another program's operators may do here."""
        some = Verifiers()
        some._digests = tuple((scope, digest) for scope, digest in self._digests if scope in scopes)
        return some


def verifier_of(token: str, scope: Scope = Scope.ADMIN) -> Verifiers:
    """Return what accepts *token*. Raises ValueError if it is empty."""
    if not token:
        raise ValueError("the token is empty")
    return Verifiers([(scope, digest_of(token))])


def digest_of(token: str) -> str:
    """Return the digest of *token* as it stands in a file of verifiers."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def encode_verifiers(tokens: Iterable[tuple[Scope, str]]) -> str:
    """Return the text of a file of verifiers: a scope and the SHA-256 of a token on each line."""
    return "".join(f"{scope} {digest_of(token)}\n" for scope, token in tokens)


def accepted_tokens(token_file: Path | None, verifiers_file: Path | None) -> Verifiers:
    """Return what a server with these settings accepts: a token for everything, verifiers, or both. Raises SettingsError."""
    if token_file is None and verifiers_file is None:
        raise SettingsError("[http]: token_file or verifiers_file is needed, else nobody could ask anything")
    own = verifier_of(read_secret(token_file)) if token_file is not None else Verifiers()
    return own | (read_verifiers(verifiers_file) if verifiers_file is not None else Verifiers())


def read_verifiers(path: Path) -> Verifiers:
    """Return the verifiers in *path*. Raises SecretError if it is not private, or not of that form."""
    try:
        return decode_verifiers(read_secret(path))
    except ValueError as error:
        raise SecretError(f"{path}, {error}") from error


def decode_verifiers(text: str) -> Verifiers:
    """Return the verifiers in the *text* of such a file. Raises ValueError if it is not of that form."""
    digests: list[tuple[Scope, str]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        scope, _, digest = line.strip().partition(" ")
        if scope not in tuple(Scope) or len(digest) != 64 or set(digest) - set("0123456789abcdef"):
            scopes = ", ".join(Scope)
            raise ValueError(f"line {number}: expected one of {scopes}, and the SHA-256 of a token in hexadecimal")
        digests.append((Scope(scope), digest))
    return Verifiers(digests)
