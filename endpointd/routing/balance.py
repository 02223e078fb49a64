"""Which of several servers gets the next session: the one with fewer sessions, of two drawn at random.

Two draws are nearly as even as asking all, and do not send a crowd of newcomers to the one server that has just come back.
Source: M. Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing".  The draw is an argument.  Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from endpointd.routing.table import Backend


def choose(
    backends: Sequence[Backend],
    sessions: Mapping[str, int],
    draw: Callable[[int], int],
    *,
    avoid: Collection[str] = (),
) -> Backend | None:
    """Return the server for the next session, or None if all of *backends* are to be avoided.

    *sessions* counts those of each node; *draw(n)* returns a random number from 0 to n - 1.
    """
    open_to_choice = [backend for backend in backends if backend.node not in avoid]
    if len(open_to_choice) <= 1:
        return open_to_choice[0] if open_to_choice else None
    first = draw(len(open_to_choice))
    second = (first + 1 + draw(len(open_to_choice) - 1)) % len(open_to_choice)
    one, other = open_to_choice[first], open_to_choice[second]
    return other if sessions.get(other.node, 0) < sessions.get(one.node, 0) else one
