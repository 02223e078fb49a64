"""All that clients come in by, together: the doors, and the HTTP server's port."""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from daemonkit.reception import Reception, bind
from daemonkit.unixsockets import bind_unix, place_of
from endpointd.settings import Settings
from endpointd.takeover.predecessor import Predecessor
from endpointd.takeover.words import Place, Standing
from endpointd.workers.crew import Crew

HTTP = "HTTP"
"""The purpose of the sockets that are no endpoint's."""


class ListenError(Exception):
    """A port cannot be listened on; the text says which and why."""


@dataclass(slots=True)
class Entrances:
    """What is handed over to a successor (takeover.incumbent.Estate)."""

    standing: Callable[[], Standing]
    carry_cancel: Callable[[bytes], Awaitable[bool]]
    crew: Crew | None = None
    """Who accepts at the same sockets."""
    receptions: Sequence[tuple[Place, Reception]] = ()

    def opened(self, settings: Settings, receptions: Sequence[Reception]) -> None:
        """Take note of what is open, in the order of `places`."""
        self.receptions = [(place, one) for (_, place), one in zip(places(settings), receptions, strict=True)]

    def sockets(self) -> Sequence[tuple[Place, socket.socket]]:
        """Return what is listened on."""
        return [(place, each) for place, reception in self.receptions for each in reception.sockets]

    def cancel(self, packet: bytes, /) -> Awaitable[bool]:
        """Carry a cancel request to the server of one of our own sessions; return whether there is one."""
        return self.carry_cancel(packet)

    def pause(self) -> None:
        """Accept nobody for the moment."""
        for _, reception in self.receptions:
            reception.pause()
        if self.crew is not None:
            self.crew.wait()

    def resume(self) -> None:
        """Accept again."""
        for _, reception in self.receptions:
            reception.resume()
        if self.crew is not None:
            self.crew.accept()

    def cede(self) -> None:
        """Let go of the sockets; whoever is in stays."""
        for _, reception in self.receptions:
            reception.cede()


def places(settings: Settings) -> Iterator[tuple[str, Place]]:
    """Return where *settings* want to be listened, and for what."""
    for name, endpoint in settings.endpoints:
        yield f"endpoint {name}", Place(host=endpoint.host, port=endpoint.port)
    yield HTTP, Place(host=settings.http.host, port=settings.http.port)


async def claim(settings: Settings, predecessor: Predecessor | None) -> Mapping[str, list[socket.socket]]:
    """Return, by purpose, sockets for all that *settings* want: what *predecessor* lends, else new ones. Raises ListenError.

    A Unix socket of an endpoint stands behind those of its addresses.
    """
    claimed: dict[str, list[socket.socket]] = {}
    for purpose, place in places(settings):
        lent = predecessor.take(place) if predecessor is not None else []
        local = [each for each in lent if each.family == socket.AF_UNIX]
        found = claimed[purpose] = [each for each in lent if each not in local]
        try:
            found += [] if lent else await bind(place.host, place.port)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno is not None else str(error)
            raise ListenError(f"cannot listen on {place.host}:{place.port} for {purpose}: {reason}") from error
        if purpose != HTTP:
            found += _local(settings, int(found[0].getsockname()[1]), local, purpose)
    return claimed


def _local(settings: Settings, port: int, lent: list[socket.socket], purpose: str) -> list[socket.socket]:
    """Return the Unix socket that *settings* want beside *port*: what was *lent*, if that is there. Raises ListenError."""
    directory = settings.proxy.unix_socket_directory
    # Where libpq looks for it in a directory.
    wanted = directory / f".s.PGSQL.{port}" if directory is not None else None
    kept = [each for each in lent if place_of(each) == wanted]
    for each in lent:
        if each not in kept:
            place_of(each).unlink(missing_ok=True)
            each.close()
    if wanted is None or kept:
        return kept
    try:
        return [bind_unix(wanted, int(settings.proxy.unix_socket_permissions, 8))]
    except OSError as error:
        raise ListenError(f"{error.strerror} for {purpose}") from error


def remove_unix_sockets(sockets: Iterable[socket.socket]) -> None:
    """Leave nothing at the paths of *sockets*, at which nobody listens from now on."""
    for each in sockets:
        if each.family == socket.AF_UNIX:
            place_of(each).unlink(missing_ok=True)
