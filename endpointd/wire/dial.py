"""Connecting to a server, under one deadline; what went wrong is a value."""

from __future__ import annotations

import asyncio
from enum import StrEnum

from daemonkit.descriptors import FOR_OWN_WORK, TOO_MANY, is_reserved
from endpointd.wire.link import Link
from pgtopology.node import Address


class DialFailure(StrEnum):
    """Why there is no connection."""

    REFUSED = "refused"
    """The machine lives, and nothing listens there."""
    TIMEOUT = "timeout"
    """No answer, or nobody wants one any longer."""
    UNREACHABLE = "unreachable"
    EXHAUSTED = "exhausted"
    """This program has no descriptors left for clients: that says nothing of the server."""


async def dial(address: Address, deadline: asyncio.Timeout) -> Link | DialFailure:
    """Return a connection to *address*, or why there is none. Whoever holds *deadline* may bring it forward."""
    try:
        async with deadline:
            _, link = await asyncio.get_running_loop().create_connection(Link, address.host, address.port)
    except TimeoutError:
        return DialFailure.TIMEOUT
    except ConnectionRefusedError:
        return DialFailure.REFUSED
    except OSError as error:
        return DialFailure.EXHAUSTED if error.errno in TOO_MANY else DialFailure.UNREACHABLE
    if is_reserved(link.descriptor, FOR_OWN_WORK):
        link.abort()
        return DialFailure.EXHAUSTED
    return link
