"""Makes the answers of several processes to GET /metrics one, as if there were one process. Pure.

What is counted is added up.  What a process knows (an epoch, how long the writer is vouched for) is told as the worst of them
knows it, because that is what an operator must see.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterable, Sequence

import msgspec
from prometheus_client.core import Metric
from prometheus_client.samples import Sample

_WORST: dict[str, Callable[[float, float], float]] = {
    "endpointd_epoch": min,
    "endpointd_revision": min,
    "endpointd_writer_vouched": min,
    "endpointd_writer_vouched_seconds": min,
    "endpointd_roles": min,
    "endpointd_roles_age_seconds": max,
    "endpointd_feed_age_seconds": max,
    "endpointd_certificate_end_seconds": min,
    "endpointd_loop_lag_seconds": max,
    "endpointd_pool_longest_wait_seconds": max,
    "endpointd_reloads": max,
    "process_start_time_seconds": min,
    "process_max_fds": min,
    "python_info": max,
}
"""Of the metrics that are no sums."""
_COUNTS = ("counter", "histogram", "summary")


class Family(msgspec.Struct, frozen=True):
    """One metric with its samples."""

    name: str
    help: str
    type: str
    samples: tuple[tuple[str, dict[str, str], float], ...]


def families_of(metrics: Iterable[Metric]) -> tuple[Family, ...]:
    """Return *metrics* as values."""
    return tuple(
        Family(
            one.name, one.documentation, one.type, tuple((each.name, each.labels, float(each.value)) for each in one.samples)
        )
        for one in metrics
    )


def gather(processes: Sequence[Iterable[Family]]) -> list[Metric]:
    """Return the metrics of all *processes* together."""
    found: dict[str, Family] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for families in processes:
        for family in families:
            found.setdefault(family.name, family)
            known = values.setdefault(family.name, {})
            for name, labels, value in family.samples:
                key = name, tuple(sorted(labels.items()))
                known[key] = _join(family.name, name)(known[key], value) if key in known else value
    metrics: list[Metric] = []
    for name, family in found.items():
        metric = Metric(name, family.help, family.type)
        metric.samples = [Sample(sample, dict(labels), value) for (sample, labels), value in values[name].items()]
        metrics.append(metric)
    return metrics


class Tally:
    """What each process has told last: a counter must not fall when one of them has ended, or does not answer in time."""

    def __init__(self) -> None:
        self._last: dict[int, tuple[Family, ...]] = {}
        self._ended: tuple[Family, ...] = ()
        """The counts of those that have ended."""

    def note(self, process: int, families: tuple[Family, ...]) -> None:
        """*process* tells *families*."""
        self._last[process] = families

    def gather(self, alive: Collection[int]) -> list[Metric]:
        """Return the metrics of all processes together, of which those *alive* are."""
        for process in [each for each in self._last if each not in alive]:
            counts = tuple(family for family in self._last.pop(process) if family.type in _COUNTS)
            self._ended = families_of(gather([self._ended, counts]))
        return gather([*self._last.values(), self._ended])


def _join(family: str, sample: str) -> Callable[[float, float], float]:
    if sample.endswith("_created"):
        return min
    return _WORST.get(family, operator.add)
