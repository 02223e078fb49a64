"""Which server connections are kept for the next client, which one it gets, and which have to go. Pure.

A *server session* is a login at a server that may outlive its client.  Only who would have come to an equal one by a login of
its own may have it: the same server in the same capacity and epoch, the same startup packet byte for byte, and the same proof.
Whoever left last is given out first, so that what is not needed grows old and goes.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from endpointd.routing.eviction import Assignment, evictions
from endpointd.routing.table import Backend, Table
from pgtopology.epoch import Epoch
from pgwire.messages import BackendKey
from pgwire.scram import Verifier

_Name = TypeVar("_Name", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Wish:
    """What a login at whatever server would be given."""

    packet: bytes
    """The startup packet, as the server is given it."""
    proof: bytes
    """What the client's proof was checked against, hashed; empty if our certificate vouches for it."""
    user: str
    database: str
    _hash: int = field(init=False, repr=False, compare=False)
    """Kept, because one is looked for several times in each login."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.packet, self.proof)))

    def __hash__(self) -> int:
        return self._hash

    @property
    def is_vouched(self) -> bool:
        """Whether our certificate vouches for the client."""
        return not self.proof


@functools.lru_cache(maxsize=256)
def fingerprint(verifier: Verifier) -> bytes:
    """Return what *verifier* is known by; nothing follows from it."""
    text = b"%d %b %b %b" % (verifier.iterations, verifier.salt, verifier.stored_key, verifier.server_key)
    return hashlib.sha256(text).digest()[:16]


@dataclass(frozen=True, slots=True)
class WarmKey:
    """What two server sessions have in common that can stand for one another."""

    wish: Wish
    backend: Backend
    epoch: Epoch
    """Of the table by which the server was given out."""
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.wish, self.backend.node, self.epoch)))

    def __hash__(self) -> int:
        return self._hash


@dataclass(frozen=True, slots=True)
class ServerSession:
    """A login at a server."""

    key: WarmKey
    names: tuple[str, ...]
    """Of the parameters that the server reported, in its order."""
    cancel_key: BackendKey
    began_at: float
    settings: bytes
    """Of its role and database, as it began with them."""


class WarmLimits(Protocol):
    """How many are kept, and for how long: [warm] of the settings."""

    @property
    def enabled(self) -> bool:
        """Whether any are."""
        ...

    @property
    def idle_min(self) -> int:
        """Of one key, for all of their lifetime."""
        ...

    @property
    def idle_max(self) -> int:
        """At one server."""
        ...

    @property
    def idle_max_per_login(self) -> int:
        """Of one key."""
        ...

    @property
    def idle_timeout_s(self) -> float:
        """Those beyond idle_min."""
        ...

    @property
    def lifetime_s(self) -> float:
        """Since the login."""
        ...


@dataclass(slots=True)
class _Resident:
    session: ServerSession
    idle_since: float
    is_ready: bool = False


class WarmPool:
    """The server sessions that no client has, by a number each."""

    def __init__(self) -> None:
        self._residents: dict[int, _Resident] = {}
        """Who came last is at the end, as in the two that follow."""
        self._by_key: dict[WarmKey, dict[int, _Resident]] = {}
        self._by_node: dict[str, dict[int, _Resident]] = {}
        self._full_until: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._residents)

    def __iter__(self) -> Iterator[tuple[int, ServerSession]]:
        """Return all, as of now."""
        return iter([(token, resident.session) for token, resident in self._residents.items()])

    def may_enter(self, session: ServerSession, now: float, limits: WarmLimits) -> bool:
        """Return whether *session* is worth keeping."""
        node = session.key.backend.node
        is_young = now - session.began_at < limits.lifetime_s
        return limits.enabled and is_young and now >= self._full_until.get(node, now) and limits.idle_max > 0

    def enter(self, token: int, session: ServerSession, now: float, limits: WarmLimits) -> tuple[int, ...]:
        """Take *session* in, which nobody can have before it is `ready`; return who has to go for it."""
        key, resident = session.key, _Resident(session, now)
        equals, neighbours = self._by_key.setdefault(key, {}), self._by_node.setdefault(key.backend.node, {})
        self._residents[token] = equals[token] = neighbours[token] = resident
        leaving = _first(equals, len(equals) - limits.idle_max_per_login)
        others = len(neighbours) - len(leaving) - limits.idle_max
        return (*leaving, *_first((each for each in neighbours if each not in leaving), others))

    def ready(self, token: int, *, is_ready: bool = True) -> None:
        """*token* can be given out, or cannot for a moment."""
        self._residents[token].is_ready = is_ready

    def has(self, key: WarmKey) -> bool:
        """Return whether there is one for *key*."""
        return any(resident.is_ready for resident in self._by_key.get(key, {}).values())

    def expects(self, key: WarmKey) -> bool:
        """Return whether there is one for *key*, or will be in a moment."""
        return key in self._by_key

    def take(self, key: WarmKey, now: float, limits: WarmLimits) -> int | None:
        """Return who is to serve whoever would have come to a session of *key*, and forget it; None: nobody can."""
        for token, resident in reversed(self._by_key.get(key, {}).items()):
            if resident.is_ready and now - resident.session.began_at < limits.lifetime_s:
                self.leave(token)
                return token
        return None

    def leave(self, token: int) -> None:
        """Forget *token*; nobody needs to have it."""
        resident = self._residents.pop(token, None)
        if resident is None:
            return
        key = resident.session.key
        _take_out(self._by_key, key, token)
        _take_out(self._by_node, key.backend.node, token)

    # Who has to go

    def unfit(self, table: Table) -> tuple[int, ...]:
        """Return whose servers *table* does not stand for as they were given out: as of the sessions of clients."""
        return tuple(
            token
            for token, each in self._residents.items()
            if not fits(each.session.key.backend, each.session.key.epoch, table)
        )

    def overdue(self, now: float, limits: WarmLimits) -> dict[int, str]:
        """Return who has been kept for long enough, and why: for their age, or because so many are not needed."""
        found: dict[int, str] = {}
        kept: dict[WarmKey, int] = {}
        for token, each in reversed(self._residents.items()):
            key = each.session.key
            kept[key] = kept.get(key, 0) + 1
            if now - each.session.began_at >= limits.lifetime_s:
                found[token] = "age"
            elif kept[key] > limits.idle_min and now - each.idle_since >= limits.idle_timeout_s:
                found[token] = "idle"
        return found

    def at(self, node: str) -> tuple[int, ...]:
        """Return whoever is at *node*."""
        return tuple(self._by_node.get(node, ()))

    def is_full(self, node: str, until: float) -> None:
        """*node* has no connection left for those who need one: keep none of them there *until* then."""
        self._full_until[node] = until

    def watchers(self, idle_since: float) -> tuple[int, ...]:
        """Return one of each server and database, who can look whether that is wanted by others; idle that long or longer."""
        found: dict[tuple[Backend, str], int] = {}
        for token, each in self._residents.items():
            if each.is_ready and each.idle_since <= idle_since:
                found.setdefault((each.session.key.backend, each.session.key.wish.database), token)
        return tuple(found.values())


def fits(backend: Backend, epoch: Epoch, table: Table) -> bool:
    """Return whether *table* stands for *backend* as it was given out in *epoch*, as strictly as for clients or more."""
    is_there = any(each.node == backend.node and each.address == backend.address for each in _backends(table))
    return is_there and epoch == table.epoch and not evictions(table, (Assignment(0, backend, epoch),))


def _first(tokens: Iterable[int], count: int) -> tuple[int, ...]:
    return tuple(itertools.islice(tokens, max(0, count)))


def _take_out(groups: dict[_Name, dict[int, _Resident]], name: _Name, token: int) -> None:
    """Take *token* out of the group called *name*, which is forgotten with its last one."""
    del groups[name][token]
    if not groups[name]:
        del groups[name]


def _backends(table: Table) -> Iterator[Backend]:
    yield from table.readers
    yield from table.others
    if table.writer is not None:
        yield table.writer
