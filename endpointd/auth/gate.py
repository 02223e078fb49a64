"""What every login asks about its client: which rule is for it, what its proof is checked against, how long a failure waits."""

from __future__ import annotations

import asyncio
import secrets
from base64 import b64encode
from collections.abc import Mapping, Sequence

from endpointd.auth.familiar import Familiar
from endpointd.auth.rolefeed import RoleFeed
from endpointd.auth.roles import Secret
from endpointd.auth.slowdown import Slowdown
from endpointd.rules import Rule, Visit, decide
from endpointd.usermaps import UserMaps

NONCE_BYTES = 18
"""PostgreSQL's SCRAM_RAW_NONCE_LEN."""

LOOK_S = 0.2
"""For how long a login waits for a look at the roles when no node has answered lately: longer than one takes."""
ANSWERS_WITHIN_S = 4.0
"""For how long after its last answer a node is waited for, busy as it may be: its noded confirms the roles each second, and who
was made a moment ago is not to be told that its password is wrong."""

VOUCHES_FOR_S = 5.0
"""How old what is known of roles may be when a client comes in by our word: whoever has become a superuser since must not. A
noded that answers does so each second; one that is silent is given up after 2.5 s, and the others are asked then."""


def fresh_nonce() -> str:
    """Return a nonce that was never used before."""
    return b64encode(secrets.token_bytes(NONCE_BYTES)).decode("ascii")


class Gate:
    """One for the process; its rules may be replaced at any time."""

    def __init__(
        self,
        rules: Mapping[str, Sequence[Rule]],
        rolefeed: RoleFeed,
        tell_address: frozenset[str] = frozenset(),
        user_maps: UserMaps | None = None,
    ) -> None:
        """*rules* by endpoint's name; *tell_address*: the endpoints whose servers are given the client's address.

        *user_maps*: which roles certificates stand for.
        """
        self.rules = rules
        self.user_maps: UserMaps = user_maps or {}
        self.tell_address = tell_address
        self._rolefeed = rolefeed
        self._slowdown = Slowdown()
        self._familiar = Familiar()
        self._loop = asyncio.get_running_loop()

    def rule(self, endpoint: str, visit: Visit) -> Rule | None:
        """Return the rule by which *visit* is to prove who it is; None if none is for it."""
        return decide(self.rules[endpoint], visit)

    def wait_s(self, user: str, address: str) -> float:
        """Return for how many seconds *user* is not asked for a proof: whose failure's answer is held back could come again."""
        return 0.0 if self._familiar.remembers(address, user) else self._slowdown.left_s(address, self._loop.time())

    @property
    def knows_roles(self) -> bool:
        """Whether a node has told which roles there are."""
        return self._rolefeed.roles.is_known

    @property
    def has_heard_roles(self) -> bool:
        """Whether a node has told lately which roles there are: what is proven by them holds without a server's word then."""
        return self._loop.time() - self._rolefeed.heard_at <= VOUCHES_FOR_S

    def secret_at_once(self, user: str, address: str) -> Secret | None:
        """Return what the proof of *user* is checked against, if nothing has to be waited for: it is familiar, and can prove
        itself. A role that was dropped may have been made anew a moment ago.
        """
        roles = self._rolefeed.roles
        if not roles.is_known or not self._familiar.knows(address, user, self._loop.time()):
            return None
        return roles.find_known(user)

    async def secret(self, user: str, address: str, deadline: float) -> Secret | None:
        """Return what the proof of *user* is checked against; None if at *deadline* of the loop's clock no role is known."""
        feed, now = self._rolefeed, self._loop.time()
        if not feed.roles.is_known:
            return feed.roles.find(user) if await feed.wait_until_known(deadline) else None
        known = self.secret_at_once(user, address)
        if known is not None:
            return known
        patience = max(now + LOOK_S, feed.heard_at + ANSWERS_WITHIN_S)
        await feed.refresh(min(deadline, patience), since=feed.roles.version)
        return feed.roles.find(user)

    async def vouches_for(self, user: str, deadline: float) -> bool | None:
        """Return whether *user* may come in by our word; None if at *deadline* nobody has told the roles for VOUCHES_FOR_S."""
        is_told = await self._rolefeed.wait_until_heard(deadline, within_s=VOUCHES_FOR_S)
        return self.is_vouchable(user) if is_told else None

    def is_vouchable(self, user: str) -> bool:
        """Return whether *user* may come in by our word, by what is known at this moment."""
        return self._rolefeed.roles.is_vouchable(user)

    def is_outdated(self, user: str, secret: Secret) -> bool:
        """Return whether a proof of *user* would not be checked against *secret* any more; have the roles looked at, too."""
        self._rolefeed.look()
        return self._rolefeed.roles.find(user).verifier != secret.verifier

    def succeeded(self, user: str, address: str) -> None:
        """*user* has logged in from *address*."""
        self._familiar.succeeded(address, user, self._loop.time())

    def failed(self, user: str, address: str) -> float:
        """Note a wrong password, have the roles looked at, and return for how many seconds the answer is to be held back."""
        self._rolefeed.look()
        self._familiar.failed(address, user)
        return self._slowdown.failed(address, self._loop.time())
