"""What our metrics are called in Datadog.

One rule: `okuru.`, then the Prometheus name without its own `okuru_` and without `_total`. The
Agent's OpenMetrics check adds what the type asks for: `.count` to a counter; `.count`, `.sum` and
`.bucket` (with the tag `upper_bound`) to a histogram; nothing to a gauge.
"""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client.metrics import MetricWrapperBase

from app.observability import metrics

NAMESPACE = "okuru"
SUFFIXES = {"counter": (".count",), "histogram": (".count", ".sum", ".bucket"), "gauge": ("",)}


@dataclass(frozen=True)
class Metric:
    """One of app/observability/metrics.py."""

    prometheus: str
    """As it is exposed: a counter's ends in `_total`."""
    type: str
    tags: frozenset[str]
    upper_bounds: tuple[float, ...] = ()

    @property
    def family(self) -> str:
        """What the OpenMetrics check calls it: without `_total`."""
        return self.prometheus.removesuffix("_total")

    @property
    def name(self) -> str:
        """What stands behind the namespace."""
        return self.family.removeprefix(f"{NAMESPACE}_")

    @property
    def datadog(self) -> tuple[str, ...]:
        """Every name under which Datadog knows it."""
        return tuple(f"{NAMESPACE}.{self.name}{suffix}" for suffix in SUFFIXES[self.type])


def ours() -> list[Metric]:
    """Every metric that a process of ours exposes."""
    return [
        Metric(
            prometheus=each._name + ("_total" if each._type == "counter" else ""),
            type=str(each._type),
            tags=frozenset(each._labelnames),
            upper_bounds=tuple(getattr(each, "_upper_bounds", ())),
        )
        for each in vars(metrics).values()
        if isinstance(each, MetricWrapperBase)
    ]


def by_datadog_name() -> dict[str, Metric]:
    """Datadog's name of each series to the metric that it comes from."""
    return {name: metric for metric in ours() for name in metric.datadog}
