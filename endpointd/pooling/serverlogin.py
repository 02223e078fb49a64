"""Logs in at a server in the name of a pool's clients."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from endpointd.auth.gate import fresh_nonce
from endpointd.servers.serverlogin import LOGIN_BYTES_MAX, OtherMethod, ServerLogin, VouchedLogin
from endpointd.wire.link import Inbox, Link
from pgwire.errors import WireError
from pgwire.framing import read_message
from pgwire.messages import Backend as Kind
from pgwire.messages import BackendKey, Report, decode_authentication, decode_backend_key, decode_report, message
from pgwire.scram import Verifier


@dataclass(frozen=True, slots=True)
class Secret:
    """What a client's proof gave away: it opens every server that has the same verifier."""

    verifier: Verifier
    client_key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Admitted:
    """The server is ready."""

    reported: bytes
    """Its parameters, as messages."""
    key: BackendKey | None


@dataclass(frozen=True, slots=True)
class Denied:
    """The server, or our part of the login, says no."""

    report: Report | None
    """What the server said; None if it was not the server's doing."""
    why: str


class _LostError(Exception):
    pass


async def log_in(link: Link, packet: bytes, secret: Secret | None, answered: Callable[[], None]) -> Admitted | Denied | None:
    """Log in by *packet* and *secret*, or by our certificate if that is None; None: the server went away.

    *answered* is called when the server has said something that counts.
    """
    heard = asyncio.Event()
    inbox = Inbox(link, heard.set)
    link.receiver = inbox
    encrypted = link.encrypted
    binding = encrypted.binding if encrypted is not None else None
    login: ServerLogin | VouchedLogin = (
        ServerLogin(secret.verifier, secret.client_key, fresh_nonce(), binding=binding)
        if secret is not None
        else VouchedLogin()
    )
    link.write(packet)
    data, reported = bytearray(), bytearray()
    key: BackendKey | None = None
    is_first = True
    try:
        while True:
            found = read_message(data, 0, bytes_max=LOGIN_BYTES_MAX)
            if found is None:
                await _more(inbox, heard, data)
                continue
            del data[: found.end]
            if found.kind == Kind.ERROR_RESPONSE:
                report = decode_report(found.payload)
                return Denied(report, report.message)
            if is_first:
                is_first = False
                answered()
            if found.kind == Kind.AUTHENTICATION:
                answer = login.answer(decode_authentication(found.payload))
                if answer is not None:
                    link.write(answer)
            elif found.kind == Kind.PARAMETER_STATUS:
                reported += message(found.kind, found.payload)
            elif found.kind == Kind.BACKEND_KEY_DATA:
                key = decode_backend_key(found.payload)
            elif found.kind == Kind.READY_FOR_QUERY:
                return Admitted(bytes(reported), key)
    except OtherMethod as error:
        return Denied(None, f"the server asks for {error.method} authentication, which the endpoint cannot answer")
    except WireError as error:
        return Denied(None, str(error))
    except _LostError:
        return None


async def _more(inbox: Inbox, heard: asyncio.Event, data: bytearray) -> None:
    """Wait until the server has said more. Raises _LostError."""
    while not len(inbox):
        if inbox.has_ended:
            raise _LostError
        await heard.wait()
        heard.clear()
    data += inbox.take()
