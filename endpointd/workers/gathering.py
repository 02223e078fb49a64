"""Makes the answers of several processes to GET /metrics one, as if there were one process. Pure.

What is counted is added up.  What a process knows (an epoch, how long the writer is vouched for) is told as the worst of them
knows it, because that is what an operator must see.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence

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
    "endpointd_reloads": max,
    "process_start_time_seconds": min,
    "process_max_fds": min,
    "python_info": max,
}
"""Of the metrics that are no sums."""


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


def _join(family: str, sample: str) -> Callable[[float, float], float]:
    if sample.endswith("_created"):
        return min
    return _WORST.get(family, operator.add)
