"""What all sessions of a proxy share."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from endpointd.auth.gate import Gate
from endpointd.pooling.pools import Pools
from endpointd.relay.engine import Engine, KeepingEngine
from endpointd.routing.switchboard import Switchboard
from endpointd.servers.cancelrequest import CANCELS_MAX
from endpointd.servers.connector import Connector
from endpointd.servers.warm import WarmServers
from endpointd.session.cancelkeys import CancelKeys
from endpointd.session.longkeys import PROCESS_ID_BYTES, KeyMint, Origin
from endpointd.session.quota import Places
from endpointd.session.tickets import Tickets
from endpointd.wire.keeper import TlsKeeper
from pgtopology.cancels import PROXY_ID_BYTES
from pgwire.messages import BackendKey


async def nobody_else(_key: BackendKey, _packet: bytes) -> bool:
    """Know nobody else who could have the session of a cancel request."""
    return False


def mint_of_nobody() -> KeyMint:
    """Return a mint whose keys nobody else knows."""
    return KeyMint.of_cluster(secrets.token_hex(16), Origin(bytes(PROXY_ID_BYTES), bytes(PROCESS_ID_BYTES)))


@dataclass(frozen=True, slots=True)
class Shared:
    """One for the process."""

    board: Switchboard
    connector: Connector
    engine: Engine
    tls: TlsKeeper
    gate: Gate
    places: Places
    warm: WarmServers
    keeper: KeepingEngine | None = None
    """The engine, if it can give servers' ends back."""
    pools: Pools | None = None
    """Of the pooled endpoints, if there are any."""
    tickets: Tickets = field(default_factory=Tickets)
    keys: CancelKeys = field(default_factory=CancelKeys)
    mint: KeyMint = field(default_factory=mint_of_nobody)
    cancel_elsewhere: Callable[[BackendKey, bytes], Awaitable[bool]] = nobody_else
    """Has a cancel request carried out whose key is none of ours; returns whether anybody knew it."""
    cancels: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(CANCELS_MAX))
