"""A client's way to a session of a pooled endpoint: the proof is ours to ask for, and no server is asked about the client."""

from __future__ import annotations

import asyncio
import secrets

from endpointd import refusal
from endpointd.pooling.pools import Pools
from endpointd.pooling.serverlogin import Secret
from endpointd.pooling.serverpool import ServerPool
from endpointd.refusal import Refusal
from endpointd.servers.warmpool import Wish, fingerprint
from endpointd.session.commands import Connect, Connected, NotConnected
from endpointd.session.login import Established, Login
from endpointd.session.startupsettings import relaxed_at_startup
from pgwire.messages import KEY_BYTES_MIN, BackendKey
from pgwire.startup import StartupMessage

_NO = frozenset({"", "0", "off", "false", "no", "n", "f"})


class PooledLogin(Login):
    """Ends in a pool instead of at a server."""

    pools: Pools
    """Set before it runs."""
    pool: ServerPool | None = None

    async def _find_server(self, connect: Connect) -> None:
        del connect
        self._connect = self._watch = None
        startup = self.startup
        assert startup is not None
        why_not = self._entry.why_no_server(startup) or self._why_not_pooled(startup)
        if why_not is not None:
            self._handle(NotConnected(why_not))
            return
        proof = self._conversation.proof
        secret = Secret(proof.verifier, proof.client_key) if proof is not None else None
        print_of = fingerprint(proof.verifier) if proof is not None else b""
        wish = Wish(self._conversation.servers_packet, print_of, startup.user, startup.database)
        try:
            # Brought forward when the client leaves or the daemon ends: then nobody waits for a server any more.
            async with asyncio.timeout(None) as self._connecting:
                self._poke()
                joined = await self.pools.join(self._door, wish, secret)
        except TimeoutError:
            return
        finally:
            self._connecting = None
        if isinstance(joined, Refusal):
            self._handle(NotConnected(joined))
            return
        self._enter(joined)

    def _why_not_pooled(self, startup: StartupMessage) -> Refusal | None:
        asked = (startup.get("replication") or "").strip().lower()
        if asked not in _NO:
            return refusal.not_pooled(self._door.name, "replication", self._door.unpooled.name)
        if self._conversation.proof is None and not self._conversation.is_vouched_for:
            return refusal.not_pooled(self._door.name, "authentication by a server", self._door.unpooled.name)
        return None

    def _enter(self, pool: ServerPool) -> None:
        backend = pool.backend
        assert backend is not None
        self.backend, self.pool = backend, pool
        if (objection := self._identification.objection) is not None:
            self._handle(objection)
            return
        if backend.is_writer and not self._may_write():
            return
        assert self.startup is not None
        self._watch = relaxed_at_startup(self.startup)
        self._give_time(self._shared.board.limits.login_timeout_s)
        key = BackendKey(secrets.randbits(31), secrets.token_bytes(KEY_BYTES_MIN))
        self._handle(Connected(backend, reported=pool.reported, cancel_key=key))

    def _established(self) -> Established | None:
        relay, backend = self._relay, self.backend
        if relay is None:
            return None
        assert backend is not None
        rest = relay.client_rest + self._client_inbox.hand_over()
        return Established(None, backend, None, relay.key_told or relay.key, self._watch, b"", rest)
