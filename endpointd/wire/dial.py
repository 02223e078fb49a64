"""Connecting to a server, under one deadline; what went wrong is a value."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from enum import StrEnum

from daemonkit.descriptors import FOR_OWN_WORK, TOO_MANY, is_reserved
from endpointd.wire.keeper import TlsKeeper
from endpointd.wire.link import Inbox, Link
from endpointd.wire.tls import Facts, Failure
from pgtopology.node import Address
from pgwire.startup import ACCEPTED, REFUSED, SSL_REQUEST


class DialFailure(StrEnum):
    """Why there is no connection."""

    REFUSED = "refused"
    """The machine lives, and nothing listens there."""
    TIMEOUT = "timeout"
    """No answer, or nobody wants one any longer."""
    UNREACHABLE = "unreachable"
    TLS = "tls"
    """It answers, and no TLS as it is wanted could be agreed on."""
    EXHAUSTED = "exhausted"
    """This program has no descriptors left for clients: that says nothing of the server."""
    SOURCE = "source"
    """The address from which the proxy vouches for clients is not this machine's: nor does that."""


async def dial(
    address: Address,
    deadline: asyncio.Timeout,
    tls: TlsKeeper | None = None,
    *,
    vouches: bool = False,
    unix_socket: str | None = None,
) -> Link | DialFailure:
    """Return a connection to *address*, which speaks TLS if *tls* says so, or why there is none.

    Whoever holds *deadline* may bring it forward.  *vouches*: our own certificate is to stand for a client.  *unix_socket*: if
    there is a socket at this path, that is connected to instead, without TLS, which PostgreSQL does not speak there.
    """
    servers = tls.servers if tls is not None else None
    source = (servers.source, 0) if vouches and servers is not None and servers.source is not None else None
    link: Link | None = None
    failure: DialFailure | None = DialFailure.TIMEOUT
    try:
        async with deadline:
            link = await _dial_unix(unix_socket) if unix_socket is not None else None
            if link is not None:
                tls = None
            else:
                loop = asyncio.get_running_loop()
                _, link = await loop.create_connection(Link, address.host, address.port, local_addr=source)
            if is_reserved(link.descriptor, FOR_OWN_WORK):
                failure = DialFailure.EXHAUSTED
            else:
                failure = await _encrypt(link, address, tls, vouches=vouches) if tls is not None else None
    except TimeoutError:
        failure = DialFailure.TIMEOUT
    except ConnectionRefusedError:
        failure = DialFailure.REFUSED
    except OSError as error:
        failure = DialFailure.EXHAUSTED if error.errno in TOO_MANY else DialFailure.UNREACHABLE
        if source is not None and error.errno == errno.EADDRNOTAVAIL:
            failure = DialFailure.SOURCE
    finally:
        if failure is not None and link is not None:
            link.abort()
    if failure is not None:
        return failure
    assert link is not None
    return link


async def _dial_unix(path: str) -> Link | None:
    """Return a connection to the Unix socket at *path*; None if there is none. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        _, link = await asyncio.get_running_loop().create_unix_connection(Link, path)
        return link
    return None


async def _encrypt(link: Link, address: Address, keeper: TlsKeeper, *, vouches: bool) -> DialFailure | None:
    """Agree on TLS with the server at *address* as far as *keeper* wants it; return why that failed, if it did."""
    tls = keeper.servers
    if tls is None:
        return None
    heard = asyncio.Event()
    inbox = Inbox(link, heard.set)
    link.receiver = inbox
    link.write(SSL_REQUEST)
    while not len(inbox):
        if inbox.has_ended:
            return DialFailure.UNREACHABLE
        await heard.wait()
        heard.clear()
    answer = inbox.take()
    if answer == REFUSED and tls.is_optional:
        return None
    if answer != ACCEPTED:
        # More than one byte may have been put there by somebody between; an error is a server's that cannot serve now.
        why = "the server does not support TLS" if answer == REFUSED else "the server answered neither S nor N"
        keeper.note_failure(address, why)
        return DialFailure.TLS
    outcome: asyncio.Future[Facts | Failure] = asyncio.get_running_loop().create_future()
    link.start_tls(tls.channel(address.host, vouches=vouches), outcome.set_result)
    agreed = await outcome
    if isinstance(agreed, Failure):
        keeper.note_failure(address, agreed.reason)
        return DialFailure.TLS
    return None
