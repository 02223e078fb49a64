"""What the loop decides by, as values that can be exchanged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cluster_manager.decision import plan as plans
from cluster_manager.decision import refusal as refusals
from cluster_manager.decision.plan import Plan
from cluster_manager.decision.request import Request
from cluster_manager.decision.view import View
from pgtopology import succession
from pgtopology.document import Topology


@dataclass(frozen=True, slots=True)
class Rules:
    """The functions that the loop goes by. The simulator takes one away at a time, and looks who notices."""

    decide: Callable[[View], Plan] = plans.decide
    refusal: Callable[[View, Request], str | None] = refusals.refusal
    may_follow: Callable[[Topology, Topology], str | None] = succession.may_follow
