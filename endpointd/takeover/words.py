"""What proxies of one machine say to each other on their private socket: one line of JSON each, an order first.

    successor                      incumbent
    take_over            ->
                         <-        places, a descriptor for each, and how it stands
    ready                ->                                            it could serve as well as the incumbent
                         <-        go                                  the incumbent accepts nobody any more
    serving              ->                                            the incumbent lets go of the sockets, and drains

Whoever goes away before `serving` leaves the incumbent serving.  Each side says which versions of this exchange it speaks, from
the oldest to the newest, and the newest that both speak holds; unknown fields are ignored.
"""

from __future__ import annotations

from typing import Literal

import msgspec

SPEAKS_FROM, SPEAKS_TO = 1, 1
"""The versions of the exchange that this program speaks. N and N - 1 understand each other as long as these overlap."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a socket listens, as the settings name it."""

    host: str
    port: int


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """How a proxy stands, as far as another one that is to relieve it must stand too."""

    pid: int
    version: str
    epoch: int = 0
    revision: int = 0
    is_vouched: bool = False
    """Whether somebody vouches for the writer."""
    knows_roles: bool = False
    is_draining: bool = False
    sessions: int = 0


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What the asking side begins with."""

    do: Literal["look", "cancel", "take_over"]
    speaks_from: int = SPEAKS_FROM
    speaks_to: int = SPEAKS_TO
    pid: int
    version: str
    packet: bytes = b""
    """Of a cancel request, as the client sent it."""


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the answering side says."""

    error: str | None = None
    speaks: int = 0
    """The version that holds from now on."""
    standing: Standing | None = None
    places: tuple[Place, ...] = ()
    """Of the descriptors that come with this, in their order."""
    found: bool = False
    """Of a cancel request: whether a session had its key."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """How far a takeover is."""

    step: Literal["ready", "go", "serving"]


def agreed(order: Order) -> int | None:
    """Return the newest version of the exchange that the sender of *order* speaks too; None if there is none."""
    newest = min(order.speaks_to, SPEAKS_TO)
    return newest if newest >= max(order.speaks_from, SPEAKS_FROM) else None


def lacking(successor: Standing, incumbent: Standing) -> str | None:
    """Return what *successor* does not know yet and *incumbent* does; None if it could serve as well."""
    if (successor.epoch, successor.revision) < (incumbent.epoch, incumbent.revision):
        return f"the document of epoch {incumbent.epoch}, revision {incumbent.revision}"
    if incumbent.is_vouched and not successor.is_vouched:
        return "a word for the writer"
    if incumbent.knows_roles and not successor.knows_roles:
        return "the cluster's roles"
    return None
