"""Certificates for tests: made once a process by the code that makes a cluster's own."""

from __future__ import annotations

import datetime as dt
import functools
import ssl
import tempfile
from pathlib import Path

from deployment.certificates import KeyPair, new_authority, new_client, new_server
from endpointd.wire.tls import Channel, Role, client_context, server_context

NAMES = ("writer.local.endpointd.internal", "localhost", "127.0.0.1", "::1")
NAME = NAMES[0]


def authority(name: str = "test") -> KeyPair:
    return _authority(name)


@functools.cache
def _authority(name: str) -> KeyPair:
    return new_authority(name, dt.datetime.now(dt.UTC))


@functools.cache
def server(names: tuple[str, ...] = NAMES, of: str = "test", age_days: int = 0) -> KeyPair:
    return new_server(authority(of), names, dt.datetime.now(dt.UTC) - dt.timedelta(days=age_days))


@functools.cache
def client(role: str) -> KeyPair:
    return new_client(_authority("test"), role, dt.datetime.now(dt.UTC))


def load(context: ssl.SSLContext, pair: KeyPair) -> ssl.SSLContext:
    """Give *context* a certificate."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "pair.pem")
        path.write_text(pair.pem)
        context.load_cert_chain(path)
    return context


def serving() -> ssl.SSLContext:
    """Return a context of a server."""
    return load(server_context(), server())


def trusting(of: str = "test") -> ssl.SSLContext:
    """Return a context of a client that trusts the authority called *of*."""
    context = client_context()
    context.load_verify_locations(cadata=authority(of).certificate_pem)
    return context


def channels(
    server_side: ssl.SSLContext | None = None, client_side: ssl.SSLContext | None = None, *, must_name_protocol: bool = False
) -> tuple[Channel, Channel]:
    """Return a client's channel and its server's."""
    client = Channel(client_side or trusting(), Role.CLIENT, server_name=NAME)
    return client, Channel(
        server_side or serving(), Role.SERVER, binding=server().certificate.binding, must_name_protocol=must_name_protocol
    )


def shake_hands(client: Channel, served: Channel) -> None:
    """Carry what both say until neither says anything."""
    to_server = client.begin()
    while to_server:
        _, to_client = served.received(to_server)
        _, to_server = client.received(to_client)
