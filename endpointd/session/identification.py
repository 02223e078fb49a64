"""Asks the gate about one client, and waits where it has to: what the conversation's Identify and ProofFailed call for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import assert_never

from endpointd import refusal
from endpointd.auth.gate import Gate, fresh_nonce
from endpointd.auth.roles import Doom, Secret
from endpointd.rules import Method, Rule, Visit
from endpointd.session.commands import LeftToServer, ProofFailed, ProofWanted, Refused, Vouched
from endpointd.session.replay import Replay
from endpointd.usermaps import may_be
from endpointd.wire.tls import Facts
from pgwire.startup import StartupMessage
from pgwire.x509 import read_certificate


class Identification:
    """One client's, at one endpoint."""

    def __init__(
        self, gate: Gate, endpoint: str, *, host: str, address: str, is_local: bool = False, replay: Replay | None = None
    ) -> None:
        """*host* is where the client is from; *address* what counts as its address when failures are counted.

        *is_local*: it came by a Unix socket.  *replay*: what it has said already.
        """
        self._gate = gate
        self._endpoint = endpoint
        self._host = host
        self._is_local = is_local
        self._address = address
        self._loop = asyncio.get_running_loop()
        self._nonce = replay.nonce if replay is not None else None
        self._delay_s = replay.delay_s if replay is not None else None
        self._secret: Secret | None = None
        self._user = ""
        self._visit: Visit | None = None
        self._rule: Rule | None = None
        self._is_slowed = False
        self._vouched: Vouched | None = None
        self._is_vouching = False

    @property
    def doom(self) -> Doom | None:
        """Why no proof could have convinced: for the log alone, the client must not learn it."""
        return self._secret.doom if self._secret is not None else None

    def ask_at_once(self, message: StartupMessage, encrypted: Facts | None) -> ProofWanted | None:
        """Return what `ask` would, if that is a proof to us and nothing has to be waited for; else None."""
        rule = self._decide(message, encrypted)
        if rule is None or rule.method is not Method.SCRAM:
            return None
        secret = self._gate.secret_at_once(message.user, self._address)
        return self._wanted(secret, encrypted) if secret is not None else None

    async def ask(
        self, message: StartupMessage, encrypted: Facts | None, deadline: float
    ) -> ProofWanted | LeftToServer | Vouched | Refused:
        """Return how the client proves who it is, by the endpoint's rules; *deadline* is when roles must be known."""
        rule = self._decide(message, encrypted)
        match rule.method if rule is not None else None:
            case Method.RELAY:
                return LeftToServer()
            case Method.SCRAM:
                await self._wait_for_address()
                secret = await self._gate.secret(message.user, self._address, deadline)
                return self._wanted(secret, encrypted) if secret is not None else Refused(refusal.roles_unknown(self._endpoint))
            case Method.CERT:
                assert rule is not None
                proven = self._by_certificate(rule, message.user, encrypted.certificate if encrypted is not None else None)
                return await self._vouch(proven, deadline) if isinstance(proven, Vouched) else proven
            case Method.TRUST:
                return await self._vouch(Vouched(refusal.not_vouched_for(message.user)), deadline)
            case Method.REJECT | None as method:
                return Refused(refusal.not_permitted(self._endpoint, str(self._visit), is_rejected=method is Method.REJECT))
            case method:
                assert_never(method)

    def _decide(self, message: StartupMessage, encrypted: Facts | None) -> Rule | None:
        """Return the rule for the client; there may be many, so it is looked for once."""
        visit = Visit(
            self._host,
            is_encrypted=encrypted is not None,
            database=message.database,
            user=message.user,
            is_physical_replication=message.is_physical_replication,
            is_local=self._is_local,
        )
        if visit != self._visit:
            self._user, self._visit, self._rule = message.user, visit, self._gate.rule(self._endpoint, visit)
        return self._rule

    def _wanted(self, secret: Secret, encrypted: Facts | None) -> ProofWanted:
        self._secret = secret
        binding = encrypted.binding if encrypted is not None else None
        nonce, self._nonce = self._nonce or fresh_nonce(), None
        return ProofWanted(secret.verifier, nonce, is_doomed=secret.doom is not None, binding=binding)

    @property
    def waits(self) -> str:
        """For what `ask` waits, for people."""
        if self._is_slowed:
            return "logins from its address are slowed down, since some have just failed"
        if not self._gate.knows_roles:
            return "no node has told yet which roles there are"
        if self._is_vouching:
            return "no node has told for some seconds which roles there are, and its role may not be the same any more"
        return "the roles are looked at, since it has not logged in from its address lately"

    async def _wait_for_address(self) -> None:
        wait_s = self._gate.wait_s(self._user, self._address)
        if wait_s > 0 and self._delay_s is None:
            self._is_slowed = True
            await asyncio.sleep(wait_s)
            self._is_slowed = False

    def _by_certificate(self, rule: Rule, user: str, certificate: bytes | None) -> Vouched | Refused:
        """Return whether *certificate*, which TLS has verified, is for *user*."""
        if certificate is None:
            return Refused(refusal.certificate_missing())
        failed = refusal.certificate_failed(user)
        name = read_certificate(certificate).common_name
        is_proven = name is not None and may_be(self._gate.user_maps, rule.user_map, name, user)
        return Vouched(failed) if is_proven else Refused(failed)

    async def _vouch(self, vouched: Vouched, deadline: float) -> Vouched | Refused:
        """Return *vouched* if the role may come in by our word, as far as the nodes have told lately."""
        self._is_vouching = True
        is_vouchable = await self._gate.vouches_for(self._user, deadline)
        self._is_vouching = False
        if is_vouchable is None:
            is_known = self._gate.knows_roles
            return Refused((refusal.roles_outdated if is_known else refusal.roles_unknown)(self._endpoint))
        self._vouched = vouched
        return vouched if is_vouchable else Refused(vouched.otherwise)

    @property
    def objection(self) -> Refused | None:
        """Why the client may not come in by our word any more, if it was to: it may have waited long for its server."""
        vouched = self._vouched
        return Refused(vouched.otherwise) if vouched is not None and not self._gate.is_vouchable(self._user) else None

    async def deny(self, failed: ProofFailed, wait_until: Callable[[float], Awaitable[None]]) -> Refused:
        """Return the answer when the client's address has waited for it; *wait_until* returns earlier if nobody wants it."""
        assert self._secret is not None
        delay_s = self._delay_s if self._delay_s is not None else self._gate.failed(self._user, self._address)
        await wait_until(self._loop.time() + delay_s)
        return Refused(failed.refusal)

    def is_outdated(self) -> bool:
        """Return whether the role's password was set anew since the client gave its proof."""
        return self._secret is not None and self._gate.is_outdated(self._user, self._secret)

    def succeeded(self) -> None:
        """A server has let the client in by its proof to us."""
        if self._secret is not None:
            self._gate.succeeded(self._user, self._address)
