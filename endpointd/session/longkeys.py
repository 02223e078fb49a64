"""The cancel keys that we make ourselves: they say who has their session, so that whoever gets a request knows whom to ask.

    version | proxy | process | secret | MAC
          1 |     8 |       8 |     16 |  16 bytes

A client of protocol 3.2 takes any key of up to 256 bytes.  The process number before it stays that of the server's process,
which drivers compare.  The MAC is of all that, under a secret of the cluster: who made a key up is told from who was given one
at any proxy of the cluster, without asking anybody.  Pure; the secret part of each key is an argument.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field

from pgtopology.cancels import PROXY_ID_BYTES
from pgwire.messages import BackendKey

MINOR = 2
"""From this minor version of protocol 3 on keys may be long."""
SECRET_BYTES = 16
PROCESS_ID_BYTES = 8
_VERSION = b"\x01"
_MAC_BYTES = 16
_BODY_BYTES = len(_VERSION) + PROXY_ID_BYTES + PROCESS_ID_BYTES + SECRET_BYTES
KEY_BYTES = _BODY_BYTES + _MAC_BYTES
"""No server's key is as long: PostgreSQL's have 4 or 32."""
_PURPOSE = b"endpointd cancel keys, version 1"


@dataclass(frozen=True, slots=True)
class Origin:
    """Who made a key."""

    proxy: bytes
    """pgtopology.cancels.proxy_id of its name."""
    process: bytes
    """Drawn at its start."""


@dataclass(frozen=True, slots=True)
class KeyMint:
    """Makes the keys of one process, and knows those of all the cluster."""

    secret: bytes = field(repr=False)
    origin: Origin

    @classmethod
    def of_cluster(cls, shared: str, origin: Origin) -> KeyMint:
        """Return the mint of *origin* in the cluster whose proxies share the secret *shared*."""
        return cls(hmac.digest(shared.encode(), _PURPOSE, "sha256"), origin)

    def issue(self, pid: int, drawn: bytes) -> BackendKey:
        """Return the key of a session whose server's process is *pid*; *drawn* are SECRET_BYTES that nobody can guess."""
        body = _VERSION + self.origin.proxy + self.origin.process + drawn
        assert len(body) == _BODY_BYTES, "its parts have fixed lengths"
        return BackendKey(pid, body + self._mac(pid, body))

    def origin_of(self, key: BackendKey) -> Origin | None:
        """Return who made *key*, or None if it was forged, or is no key of this kind."""
        if not is_long(key):
            return None
        body, mac = key.secret[:_BODY_BYTES], key.secret[_BODY_BYTES:]
        if not hmac.compare_digest(mac, self._mac(key.pid, body)):
            return None
        at = len(_VERSION)
        return Origin(body[at : at + PROXY_ID_BYTES], body[at + PROXY_ID_BYTES : at + PROXY_ID_BYTES + PROCESS_ID_BYTES])

    def _mac(self, pid: int, body: bytes) -> bytes:
        return hmac.digest(self.secret, pid.to_bytes(4, "big", signed=True) + body, "sha256")[:_MAC_BYTES]


def is_long(key: BackendKey) -> bool:
    """Return whether *key* has the form of those that we make."""
    return len(key.secret) == KEY_BYTES and key.secret.startswith(_VERSION)
