"""What a scrape gets: the metrics, with the names, labels and texts that Prometheus wants."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry

from wsd import __version__
from wsd.codes import HandshakeReason
from wsd.metrics import Gauges, Histogram, Metrics, families

__all__ = ["registry"]

_Filled = TypeVar("_Filled", CounterMetricFamily, GaugeMetricFamily)

_METRICS, _GAUGES = families(Metrics), families(Gauges)


def registry(read: Callable[[], tuple[Metrics, Gauges]]) -> CollectorRegistry:
    """Make the registry that a scrape reads.

    Args:
        read: returns what has been counted, and what is so now.
    """
    registry = CollectorRegistry()
    registry.register(_Scrape(read))
    ProcessCollector(registry=registry)  # CPU, memory and descriptors of the process
    return registry


class _Scrape(Collector):
    def __init__(self, read: Callable[[], tuple[Metrics, Gauges]]) -> None:
        self._read = read

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]:
        metrics, gauges = self._read()
        for name, text, labels in _METRICS:
            counted = getattr(metrics, name)
            if isinstance(counted, Histogram):
                yield HistogramMetricFamily(f"wsd_{name}", text, buckets=counted.buckets(), sum_value=counted.sum)
            else:
                yield _fill(CounterMetricFamily(f"wsd_{name}", text, labels=labels), counted)
        for name, text, labels in _GAUGES:
            yield _fill(GaugeMetricFamily(f"wsd_{name}", text, labels=labels), getattr(gauges, name))
        yield _fill(GaugeMetricFamily("wsd_info", "the version that runs", labels=["version"]), {__version__: 1})


def _fill(family: _Filled, value: float | Mapping[str, float]) -> _Filled:
    """Put a value into its family, or the value of each label."""
    if not isinstance(value, Mapping):
        family.add_metric([], value)
        return family
    for label, count in sorted(value.items()):
        family.add_metric(_labels(label), count)
    return family


def _labels(label: str) -> list[str]:
    """The values of a count's labels: of a refused handshake, the reason and the status that follows from it."""
    return [label, str(label.status or "none")] if isinstance(label, HandshakeReason) else [label]
