"""The certificates of a local cluster, in its data directory: made by `up`, renewed by it or while the cluster runs.

tls/ca.pem      the authority with its key, 0600; nobody needs it but us
tls/ca.crt      whom clients trust: the authority, and former ones as long as they count
tls/server.pem  the endpoints' certificate with its key, 0600; the proxy reads it
tls/n1.pem ...  those of the nodes, likewise, where PostgreSQL was built with TLS; PostgreSQL reads them
tls/proxy.pem   the proxy's, by which it vouches for clients at those servers, likewise
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from deployment.certificates import names_of
from deployment.keyring import Keyring, Leaf, ends_soon, read_certificates, read_pair
from deployment.local.layout import Layout
from deployment.local.plan import HOST, Plan
from pgtopology.node import PROXY_COMMON_NAME
from pgwire.x509 import Certificate, read_pem


@dataclass(frozen=True, slots=True)
class Shown:
    """One certificate, for people."""

    name: str
    """authority, former authority, endpoints, proxy, or node and its name."""
    path: Path
    certificate: Certificate
    names: tuple[str, ...]
    """For which it counts; an authority's has none."""


def keyring(layout: Layout, plan: Plan) -> Keyring:
    """Return the cluster's authority."""
    return Keyring(plan.cluster, layout.authority, layout.trusted)


def leaves(layout: Layout, plan: Plan) -> tuple[Leaf, ...]:
    """Return what it certifies."""
    endpoints = Leaf(layout.server_pair, "endpoints", server_names(plan))
    if not plan.has_tls:
        return (endpoints,)
    nodes = (Leaf(layout.node_pair(name), f"node {name}", node_names(plan, name)) for name in plan.names)
    return (endpoints, *nodes, Leaf(layout.proxy_pair, "proxy", client=PROXY_COMMON_NAME))


def server_names(plan: Plan) -> tuple[str, ...]:
    """Return every name and address by which clients reach the endpoints, and nodes that were told to show the same."""
    hosts = (f"{name}.{plan.cluster}.{plan.zone}" for name in ("writer", "reader", *plan.names))
    return (*hosts, "localhost", HOST, "::1")


def node_names(plan: Plan, name: str) -> tuple[str, ...]:
    """Return every name and address by which proxies and clients reach the node called *name*."""
    return (f"{name}.{plan.cluster}.{plan.zone}", "localhost", HOST, "::1")


def make_certificates(layout: Layout, plan: Plan, now: datetime, *, anew: bool = False, authority_anew: bool = False) -> None:
    """Make what is missing, damaged, due or for other names; *anew*: all but the authority; *authority_anew*: all."""
    keyring(layout, plan).certify(leaves(layout, plan), now, anew=anew, authority_anew=authority_anew)


def is_any_due(layout: Layout, plan: Plan, now: datetime) -> bool:
    """Return whether one would be made anew because it ends soon. Cheap."""
    return any(ends_soon(path, now) for path in (layout.authority, *(leaf.path for leaf in leaves(layout, plan))))


def show_certificates(layout: Layout, plan: Plan) -> list[Shown]:
    """Return every certificate there is."""
    trusted = read_certificates(layout.trusted)
    shown = [
        Shown("former authority" if number else "authority", layout.trusted, read_pem(each), ())
        for number, each in enumerate(trusted)
    ]
    found = ((leaf, read_pair(leaf.path)) for leaf in leaves(layout, plan))
    shown += [Shown(leaf.title, leaf.path, pair.certificate, tuple(sorted(names_of(pair)))) for leaf, pair in found if pair]
    return shown
