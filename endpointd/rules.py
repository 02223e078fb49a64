"""The rules of an endpoint: who may come in, from where, and how they prove who they are. Pure.

Written as lines of pg_hba.conf (PostgreSQL documentation, "The pg_hba.conf File") and read by the same tokens: the first rule
that fits a connection decides, and whom none fits is refused.  One method is not PostgreSQL's: `relay` leaves the proof
to the server, whatever it asks for (LDAP, PAM, OAUTHBEARER ...), and what a proxy cannot check itself is refused when the rules
are read, not when somebody comes.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from endpointd.refusal import shown
from pgtopology.hba import INCLUDES, Field, Token, fields, is_pattern, matches, pattern, spelled


class Method(StrEnum):
    """How a client proves who it is."""

    SCRAM = "scram-sha-256"
    """To the proxy; a server is asked for a session only then."""
    RELAY = "relay"
    """To the server, through the proxy, by what the server's own pg_hba.conf says."""
    CERT = "cert"
    """By a certificate that the proxy verifies; the proxy vouches for the client to the server by a certificate of its own."""
    TRUST = "trust"
    """Not at all; the proxy vouches likewise."""
    REJECT = "reject"


VOUCHED = frozenset({Method.CERT, Method.TRUST})
"""They give nothing by which to log in at a server in the client's name."""


class Transport(StrEnum):
    """Which connections a rule is for: the first word of its line."""

    ANY = "host"
    ENCRYPTED = "hostssl"
    PLAINTEXT = "hostnossl"
    LOCAL = "local"
    """Those at a Unix socket, and none of the others is for them."""


class RuleError(ValueError):
    """A rule cannot be used; the text says why."""


Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Fits = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Visit:
    """What is known of a connection when its startup packet has come."""

    address: str
    """Of the client, without its port."""
    is_encrypted: bool
    database: str
    user: str
    is_physical_replication: bool = False
    """It asked for ``replication=true``: the word *replication* stands for those, and *all* does not."""
    is_local: bool = False
    """It came by a Unix socket, and has no address."""

    def __str__(self) -> str:
        database = "" if self.is_physical_replication else f', database "{shown(self.database)}"'
        encryption = "SSL encryption" if self.is_encrypted else "no encryption"
        what = "for replication from" if self.is_physical_replication else "from"
        host = "[local]" if self.is_local else self.address
        return f'{what} host "{host}", user "{shown(self.user)}"{database}, {encryption}'


@dataclass(frozen=True, slots=True)
class Rule:
    """One line."""

    line: str
    transport: Transport
    databases: Field
    users: Field
    networks: tuple[Network, ...] | None
    """None: every address, or none at all."""
    method: Method
    user_map: str | None = None
    """By which a certificate's common name stands for users; None: it is the user's."""

    def fits(self, visit: Visit) -> bool:
        """Return whether it is for *visit*."""
        wants = {Transport.ENCRYPTED: True, Transport.PLAINTEXT: False}.get(self.transport, visit.is_encrypted)
        return (
            wants is visit.is_encrypted
            and visit.is_local is (self.transport is Transport.LOCAL)
            and any(_is_database(token, visit) for token in self.databases)
            and any(matches(token, visit.user) for token in self.users)
            and (self.networks is None or is_inside(visit.address, self.networks))
        )


def decide(rules: Sequence[Rule], visit: Visit) -> Rule | None:
    """Return the first rule that fits, or None if none does."""
    return next((rule for rule in rules if rule.fits(visit)), None)


def vouched_logins(rules: Sequence[Rule]) -> tuple[str, ...]:
    """Return whom the proxy may vouch for by *rules*, each as databases and users of a line of pg_hba.conf."""
    lines = (f"{spelled(rule.databases)} {spelled(rule.users)}" for rule in rules if rule.method in VOUCHED)
    return tuple(dict.fromkeys(lines))


def read_rules(lines: Sequence[str]) -> tuple[Rule, ...]:
    """Return the rules in *lines*; comments are none. Raises RuleError, which counts lines from 1."""
    found: list[Rule] = []
    for number, line in enumerate(lines, 1):
        try:
            rule = _read(line)
        except RuleError as error:
            raise RuleError(f'rule {number}, "{line}": {error}') from error
        if rule is not None:
            found.append(rule)
    return tuple(found)


DEFAULT_LINES = (
    "host all all all scram-sha-256",
    "host replication all all scram-sha-256",
    "local all all scram-sha-256",
    "local replication all scram-sha-256",
)
"""Where an endpoint has none of its own."""


def _read(line: str) -> Rule | None:
    if "\n" in line or "\0" in line or line.rstrip("\r").endswith("\\"):
        raise RuleError("a rule must be one line")
    parts = fields(line)
    if not parts:
        return None
    kind = parts[0][0].text
    if kind in INCLUDES:
        raise RuleError("rules must be given one by one")
    if any(token.names_file for part in parts for token in part):
        raise RuleError("a rule reads no files")
    if kind not in set(Transport):
        raise RuleError(f'"{kind}" is no type of connection: host, hostssl, hostnossl or local is expected')
    if kind == Transport.LOCAL:
        if len(parts) < 4:
            raise RuleError("expected are local, databases, users and method")
        networks, after = None, parts[3:]
    else:
        if len(parts) < 5:
            raise RuleError("expected are type, databases, users, address and method")
        networks, after = _networks(parts)
    for token in parts[1]:
        if not token.quoted and token.text in ("samerole", "samegroup"):
            raise RuleError(f'"{token.text}" is not known at an endpoint, which does not know who is a member of what')
    for token in parts[2]:
        if not token.quoted and token.text.startswith("+"):
            raise RuleError(f'"{token.text}": members of a role are not known at an endpoint; name the users')
    for token in (*parts[1], *parts[2]):
        _check_pattern(token)
    words = [token.text for part in after for token in part]
    if not words:
        raise RuleError("expected is a method at the end")
    method = _method(words[0])
    rule = Rule(line, Transport(kind), parts[1], parts[2], networks, method, _user_map(method, words[1:]))
    _check_vouched(rule)
    return rule


def _check_vouched(rule: Rule) -> None:
    if rule.method is Method.CERT and rule.transport is not Transport.ENCRYPTED:
        raise RuleError('"cert" is for connections with TLS: the first word must be hostssl')
    if rule.method in VOUCHED and any(token.text == "replication" and not token.quoted for token in rule.databases):
        raise RuleError(f'nobody replicates by "{rule.method}": a copy of everything needs a password')


def _user_map(method: Method, options: Sequence[str]) -> str | None:
    if not options:
        return None
    if method is not Method.CERT:
        raise RuleError("expected is one method, without options, at the end")
    name = options[0].removeprefix("map=")
    if len(options) > 1 or not name or name == options[0]:
        raise RuleError('the only option of "cert" is map=NAME')
    return name


_BY_SERVER_ONLY = {"password", "md5", "gss", "sspi", "ldap", "pam", "radius", "bsd", "oauth", "ident", "peer"}


def _method(word: str) -> Method:
    if word in set(Method):
        return Method(word)
    if word in _BY_SERVER_ONLY:
        raise RuleError(f'"{word}" is not spoken by an endpoint; "relay" leaves the proof to the server')
    raise RuleError(f'"{word}" is no method: {", ".join(list(Method)[:-1])} or {Method.REJECT} is expected')


def _networks(parts: Sequence[Field]) -> tuple[tuple[Network, ...] | None, Sequence[Field]]:
    """Return what the address stands for, and the fields behind it."""
    address = parts[3]
    if len(address) != 1:
        raise RuleError("expected is one address")
    text = address[0].text
    if text == "all" and not address[0].quoted:
        return None, parts[4:]
    try:
        if "/" in text:
            return (ipaddress.ip_network(text, strict=False),), parts[4:]
        host = ipaddress.ip_address(text)
    except ValueError as error:
        raise RuleError(
            f'"{text}" is no address: all, an address with a mask (10.0.0.0/8, ::1/128) or an address and a mask is expected'
        ) from error
    try:
        mask = parts[4][0].text
        return (
            ipaddress.ip_network(f"{host}/{mask}" if host.version == 4 else f"{host}/{_length(mask)}", strict=False),
        ), parts[5:]
    except (ValueError, IndexError) as error:
        raise RuleError(f"behind the address {text} a mask is expected, as in {text}/{host.max_prefixlen}") from error


def _length(mask: str) -> int:
    """Return how many bits an IPv6 mask has. Raises ValueError."""
    bits = f"{int(ipaddress.IPv6Address(mask)):0128b}"
    length = len(bits.rstrip("0"))
    if "0" in bits[:length]:
        raise ValueError("the mask has holes")
    return length


def _check_pattern(token: Token) -> None:
    if is_pattern(token):
        try:
            re.compile(pattern(token))
        except re.error as error:
            raise RuleError(f'"{token.text}" is no regular expression: {error}') from error


def _is_database(token: Token, visit: Visit) -> bool:
    if not token.quoted and token.text == "replication":
        return visit.is_physical_replication
    if visit.is_physical_replication:
        return False
    if not token.quoted and token.text == "sameuser":
        return visit.database == visit.user
    return matches(token, visit.database)


def read_networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """Return the networks in *texts*, each as 10.0.0.0/8, ::1/128 or one address. Raises RuleError."""
    found: list[Network] = []
    for text in texts:
        try:
            found.append(ipaddress.ip_network(text, strict=False))
        except ValueError as error:
            raise RuleError(f'"{text}" is no network: one is written as 10.0.0.0/8, ::1/128 or 10.0.0.1') from error
    return tuple(found)


def is_inside(address: str, networks: Sequence[Network]) -> bool:
    """Return whether *address*, as a socket tells it, is in one of *networks*. IPv4 written as IPv6 is IPv4."""
    given = _address(address) if networks else None
    return given is not None and any(given in network for network in networks)


@functools.lru_cache(maxsize=1024)
def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        given = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = given.ipv4_mapped if isinstance(given, ipaddress.IPv6Address) else None
    return mapped or given
