"""Who has a place, of all processes of a proxy, and how many sessions each node has. Pure; bounded by their number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from endpointd.session.places import take_place
from endpointd.session.quota import Place, Quota
from endpointd.settings import LimitSettings


class Ledger:
    """Kept by the main process, which has the number 0 itself."""

    def __init__(self, quota: Quota) -> None:
        """*quota* counts the main process's own sessions too."""
        self._quota = quota
        self._taken: dict[int, set[int]] = {}
        """Sessions by worker, whether they were given a place or not."""
        self._loads: dict[int, Mapping[str, int]] = {}

    def take(self, worker: int, session: int, user: str, database: str, limits: LimitSettings) -> Place:
        """Give *session* of *worker* a place, or say why there is none."""
        self._taken.setdefault(worker, set()).add(session)
        return take_place(self._quota, session, user, database, limits)

    def give_back(self, worker: int, session: int) -> None:
        """*session* of *worker* has ended."""
        self._taken.get(worker, set()).discard(session)
        self._quota.give_back(session)

    def lose(self, worker: int) -> None:
        """*worker* has ended, with all its sessions."""
        for session in self._taken.pop(worker, set()):
            self._quota.give_back(session)
        self._loads.pop(worker, None)

    def count(self, worker: int, load: Mapping[str, int]) -> None:
        """*worker* has so many sessions at each node."""
        self._loads[worker] = load

    def load_beside(self, worker: int) -> dict[str, int]:
        """Return how many sessions each node has, those of *worker* left out."""
        total: Counter[str] = Counter()
        for other, load in self._loads.items():
            if other != worker:
                total.update(load)
        return dict(total)
