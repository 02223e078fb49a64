"""Whom proxies may vouch for: the lines of pg_hba.conf and pg_ident.conf by which a proxy's own certificate logs in. Pure.

A rule `cert` or `trust` of an endpoint gives the proxy nothing of the client's to log in with.  So the servers take its word,
and as little as will do of it: from the addresses that proxies use for nothing else, with a certificate of one name, for the
databases and users of those rules, and never for whoever could become more than an ordinary user.  Names are written out, one
by one: PostgreSQL 15 has no patterns, and no keyword means ordinary users.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pgtopology.hba import Field, Token, fields, matches, spelled
from pgtopology.node import PROXY_COMMON_NAME

MAP = "endpointd_proxy"
ROLES_MAX = 5_000
"""Written out. Beyond it the eldest are, so that a flood of new ones takes nobody's login away."""

MIGHTY = ("pg_execute_server_program", "pg_read_server_files", "pg_write_server_files")
"""Predefined roles whose members can become superusers."""

WITH_MIGHTY = f"""
WITH RECURSIVE mighty(oid) AS (
  SELECT oid FROM pg_catalog.pg_authid
   WHERE rolsuper OR rolcreaterole OR rolreplication OR rolname IN {MIGHTY}
  UNION
  SELECT member FROM pg_catalog.pg_auth_members JOIN mighty ON roleid OPERATOR(pg_catalog.=) mighty.oid)
"""  # noqa: S608 - constants of ours
IS_ORDINARY = "oid NOT IN (SELECT oid FROM mighty)"
"""Of a row of pg_authid, behind WITH_MIGHTY: who is no superuser and cannot become one by SET ROLE, by a predefined role, or by
giving itself one (CREATEROLE before PostgreSQL 16); nor replicates, which is to read everything. What is told to proxies and
what stands in this server's files both go by it, and by `present`."""

ORDINARY_ROLES = f"""{WITH_MIGHTY}
SELECT pg_catalog.textsend(rolname::pg_catalog.text) AS name FROM pg_catalog.pg_authid
 WHERE {IS_ORDINARY}
 ORDER BY oid
"""  # noqa: S608 - constants of ours

DATABASES = """
SELECT pg_catalog.textsend(datname::pg_catalog.text) AS name FROM pg_catalog.pg_database WHERE datallowconn ORDER BY oid
"""


class VouchingError(ValueError):
    """The settings cannot be used; the text says why."""


@dataclass(frozen=True, slots=True)
class Vouching:
    """What proxies may do."""

    sources: tuple[str, ...]
    """Networks."""
    logins: tuple[tuple[Field, Field], ...]
    """Databases and users of each."""


@dataclass(frozen=True, slots=True)
class Present:
    """Whom there is, as far as names can be written in those files."""

    roles: tuple[str, ...] = ()
    databases: tuple[str, ...] = ()


def read_sources(texts: Sequence[str]) -> tuple[str, ...]:
    """Return the networks in *texts*. Raises VouchingError."""
    try:
        return tuple(str(ipaddress.ip_network(text)) for text in texts)
    except ValueError as error:
        raise VouchingError(f"[vouching], sources: {error}") from error


def read_logins(lines: Sequence[str]) -> tuple[tuple[Field, Field], ...]:
    """Return what *lines* name, each databases and users as in pg_hba.conf. Raises VouchingError."""
    found: list[tuple[Field, Field]] = []
    for line in lines:
        parts = fields(line)
        if len(parts) != 2 or any(token.names_file for part in parts for token in part):
            raise VouchingError(f'[vouching], logins: "{line}": expected are databases and users')
        found.append((parts[0], parts[1]))
    return tuple(found)


def present(roles: Iterable[bytes], databases: Iterable[bytes]) -> Present:
    """Return those *roles* and *databases* that may be named: none of the cluster's own, and no predefined one."""
    ordinary = (name for name in _speakable(roles) if not name.startswith(("endpointd", "pg_")))
    ours = ("endpointd", "template0", "template1")
    return Present(tuple(ordinary)[:ROLES_MAX], tuple(name for name in _speakable(databases) if name not in ours))


def _speakable(names: Iterable[bytes]) -> Iterable[str]:
    """Yield those of *names* that stand for themselves in a quoted word, in every version, whatever else is in the line."""
    for name in names:
        try:
            text = name.decode()
        except UnicodeDecodeError:
            continue
        if text.isprintable() and text[0] not in '/+@"' and not set(text) & set('\\"'):
            yield text


def hba_lines(vouching: Vouching, there: Present) -> tuple[str, ...]:
    """Return the lines of pg_hba.conf: those who may, and a refusal of everybody else who comes from there."""
    lines: list[str] = []
    for databases, users in vouching.logins:
        named = _databases(databases, there.databases)
        roles = _named(users, there.roles)
        if named and roles:
            lines += [f"hostssl {named} {roles} {source} cert map={MAP}" for source in vouching.sources]
    for source in vouching.sources:
        lines += [f"host all all {source} reject", f"host replication all {source} reject"]
    return tuple(lines)


def ident_lines(vouching: Vouching, there: Present) -> tuple[str, ...]:
    """Return the lines of pg_ident.conf: the proxy's certificate is each role that any login of *vouching* names."""
    users = [users for _, users in vouching.logins]
    named = [name for name in there.roles if any(matches(token, name) for field in users for token in field)]
    return tuple(f'{MAP} "{PROXY_COMMON_NAME}" "{name}"' for name in named)


def _databases(field: Field, there: Sequence[str]) -> str:
    """Return *field* without its patterns, which PostgreSQL 15 has not; the keywords mean databases, and no replication."""
    keywords = [token for token in field if not token.quoted and token.text in ("all", "sameuser")]
    return ",".join(filter(None, (spelled(tuple(keywords)), _named(_without(field, keywords), there))))


def _without(field: Field, left_out: Sequence[Token]) -> Field:
    return tuple(token for token in field if token not in left_out)


def _named(field: Field, there: Sequence[str]) -> str:
    """Return those of *there* that *field* is for, written out."""
    return ",".join(f'"{name}"' for name in there if any(matches(token, name) for token in field))
