"""What housekeeping has found out about this server: what observations tell besides what the reporter looks at itself."""

from __future__ import annotations

from dataclasses import dataclass

from pgtopology.observation import Horizon, UserSlot


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """As they are at one moment."""

    slots_kept: frozenset[str] = frozenset()
    slots_lacking: tuple[str, ...] = ()
    """Those that should be kept and cannot be."""
    user_slots: tuple[UserSlot, ...] = ()
    """Slots that are not the cluster's own."""
    horizon: Horizon | None = None
    """What keeps dead rows."""
    outside: tuple[str, ...] = ()
    """What lies outside the data directory."""
    relaxations: tuple[str, ...] = ()
    """What lets commits return early on the writer."""
    repairs: tuple[str, ...] = ()
    """What was put right lately of our roles, our database and members' slots."""
    login_problem: str | None = None
    login_spared: bool = False
    """What is wrong with fresh logins."""
    locked_elsewhere: str | None = None
    """What is wrong with logins to databases that ours are not in."""
    role_notes: tuple[str, ...] = ()
    """Who cannot log in through an endpoint."""


NO_FINDINGS = Findings()
