"""The one door: what a command of a local cluster needs where no supervisor answers, or for one to begin.

Everything else it asks the supervisor for, on its socket, in the words of `pgtopology.supervision`.
"""

from __future__ import annotations

from supervisor.ports import conflicts
from supervisor.presence import find_supervisor, supervisor_ended, supervisor_lives
from supervisor.program import conflicts_with_others, find_program
from supervisor.starting import Started, Wishes, start_cluster
from supervisor.stopping import stop_leftovers
from supervisor.tokens import rotate_tokens

__all__ = [
    "Started",
    "Wishes",
    "conflicts",
    "conflicts_with_others",
    "find_program",
    "find_supervisor",
    "rotate_tokens",
    "start_cluster",
    "stop_leftovers",
    "supervisor_ended",
    "supervisor_lives",
]
