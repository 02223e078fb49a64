"""Which roles a certificate's common name may log in as: the user maps that rules with the method `cert` name. Pure.

Written as lines of pg_ident.conf (PostgreSQL documentation, "User Name Maps") and read by the same tokens: map, common name,
role.  A common name may be a regular expression (`/...`), whose first group stands for `\\1` in the role.  What is put there is
a name and nothing else, whatever it looks like (check_ident_usermap in hba.c).  Without a map the common name is the role.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pgtopology.hba import INCLUDES, Token, fields, is_pattern, matches, pattern


class UserMapError(ValueError):
    """A line cannot be used; the text says why."""


_GROUP = "\\1"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a map."""

    name: Token
    """The certificate's."""
    role: Token

    def allows(self, name: str, role: str) -> bool:
        """Return whether who is called *name* may be *role*."""
        if not is_pattern(self.name):
            return self.name.text == name and matches(self.role, role)
        found = re.search(pattern(self.name), name)
        if found is None:
            return False
        if _GROUP not in self.role.text:
            return matches(self.role, role)
        group = found[1]
        return group is not None and self.role.text.replace(_GROUP, group, 1) == role


UserMaps = Mapping[str, tuple[Entry, ...]]


def may_be(maps: UserMaps, used: str | None, name: str, role: str) -> bool:
    """Return whether the certificate of *name* proves that a client is *role*, by the map called *used*, if any."""
    if used is None:
        return name == role
    return any(entry.allows(name, role) for entry in maps.get(used, ()))


def read_user_maps(lines: Sequence[str]) -> UserMaps:
    """Return the maps in *lines*; comments are none. Raises UserMapError, which counts lines from 1."""
    found: dict[str, tuple[Entry, ...]] = {}
    for number, line in enumerate(lines, 1):
        try:
            read = _read(line)
        except UserMapError as error:
            raise UserMapError(f'user map line {number}, "{line}": {error}') from error
        if read is not None:
            name, entry = read
            found[name] = (*found.get(name, ()), entry)
    return found


def _read(line: str) -> tuple[str, Entry] | None:
    if "\n" in line or "\0" in line or line.rstrip("\r").endswith("\\"):
        raise UserMapError("it must be one line")
    parts = fields(line)
    if not parts:
        return None
    if parts[0][0].text in INCLUDES or any(token.names_file for part in parts for token in part):
        raise UserMapError("it reads no files")
    if len(parts) != 3 or any(len(part) != 1 for part in parts):
        raise UserMapError("expected are a map, a common name and a role")
    (called,), (name,), (role,) = parts
    if not role.quoted and role.text.startswith("+"):
        raise UserMapError(f'"{role.text}": members of a role are not known at an endpoint; name the roles')
    for token in (name, role):
        if is_pattern(token):
            try:
                compiled = re.compile(pattern(token))
            except re.error as error:
                raise UserMapError(f'"{token.text}" is no regular expression: {error}') from error
            if token is name and _GROUP in role.text and not compiled.groups:
                raise UserMapError(f'"{token.text}" has no group for the {_GROUP} in "{role.text}"')
    return called.text, Entry(name, role)
