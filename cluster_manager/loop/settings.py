"""What operators wrote down, as far as the loop goes by it."""

from __future__ import annotations

from dataclasses import dataclass, field

from cluster_manager.decision.flapping import AntiFlap
from cluster_manager.decision.nodeview import NodeSpec
from cluster_manager.decision.timings import Timings
from pgtopology.document import Durability, Endpoints


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopSettings:
    """One cluster's."""

    cluster: str
    specs: tuple[NodeSpec, ...]
    endpoints: Endpoints
    durability: Durability
    bootstrap_ordered: bool = False
    anti_flap: AntiFlap = field(default_factory=AntiFlap)
    reader_lag_max_ms: int = 0
    timings: Timings = field(default_factory=Timings)
