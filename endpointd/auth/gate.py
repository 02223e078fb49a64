"""What every login asks about its client: which rule is for it, what its proof is checked against, how long a failure waits."""

from __future__ import annotations

import secrets
from base64 import b64encode
from collections.abc import Mapping, Sequence

from endpointd.auth.rolefeed import RoleFeed
from endpointd.auth.roles import Secret
from endpointd.auth.slowdown import Slowdown
from endpointd.rules import Method, Rule, Visit, decide

NONCE_BYTES = 18
"""PostgreSQL's SCRAM_RAW_NONCE_LEN."""


def fresh_nonce() -> str:
    """Return a nonce that was never used before."""
    return b64encode(secrets.token_bytes(NONCE_BYTES)).decode("ascii")


class Gate:
    """One for the process; its rules may be replaced at any time."""

    def __init__(
        self, rules: Mapping[str, Sequence[Rule]], rolefeed: RoleFeed, tell_address: frozenset[str] = frozenset()
    ) -> None:
        """*rules* by endpoint's name; *tell_address*: the endpoints whose servers are given the client's address."""
        self.rules = rules
        self.tell_address = tell_address
        self._rolefeed = rolefeed
        self._slowdown = Slowdown()

    def method(self, endpoint: str, visit: Visit) -> Method | None:
        """Return how *visit* is to prove who it is; None if no rule is for it."""
        return decide(self.rules[endpoint], visit)

    async def secret(self, user: str, deadline: float) -> Secret | None:
        """Return what the proof of *user* is checked against; None if at *deadline* of the loop's clock no role is known."""
        known = self._rolefeed.roles.is_known or await self._rolefeed.wait_until_known(deadline)
        return self._rolefeed.roles.find(user) if known else None

    def failed(self, address: str, now: float) -> float:
        """Note a failure of *address*, and return for how many seconds its answer is to be held back."""
        return self._slowdown.failed(address, now)

    def look_again(self) -> None:
        """Have the roles looked at, so that the next login knows a password that has just been changed."""
        self._rolefeed.look()
