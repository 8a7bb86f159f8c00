"""What a scrape gets: the metrics of all processes, with the names, labels and texts that Prometheus wants.

A worker makes the page, also for the supervisor, which does without prometheus_client's 5 MiB.

Counters and histograms are added up, and what the workers that are gone had counted is among them: none ever falls. A
gauge says at its declaration what becomes of it (:class:`wsd.metrics.Across`). With one worker no gauge of its own has
the label ``worker``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TypeAlias, TypeVar

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition as openmetrics_exposition
from prometheus_client.registry import Collector

from wsd.admin.standing import Standing, State, WorkerView
from wsd.codes import HandshakeReason
from wsd.metrics import Across, Family, Gauges, Histogram, Metrics, families
from wsd.report import Numbers, Report, added

__all__ = ["collect", "render"]

_Filled = TypeVar("_Filled", CounterMetricFamily, GaugeMetricFamily)
_Views: TypeAlias = "Mapping[int, WorkerView]"

_METRICS, _GAUGES = families(Metrics), families(Gauges)

_STATUSES: dict[str, str] = {reason: str(reason.status or "none") for reason in HandshakeReason}

# The names and texts that all Prometheus clients have for these.
_PROCESS = (
    ("virtual_memory_bytes", "Virtual memory size in bytes, of all processes."),
    ("resident_memory_bytes", "Resident memory size in bytes, of all processes; what they share counts for each."),
    ("open_fds", "Number of open file descriptors, of all processes."),
    ("max_fds", "Maximum number of open file descriptors, of all processes."),
)


def render(standing: Standing, *, openmetrics: bool = False) -> str:
    """Make the page of the metrics.

    Args:
        standing: how the service stands.
        openmetrics: whether in OpenMetrics, and not in Prometheus's text format.
    """
    page = _Page(standing)
    if openmetrics:
        text: bytes = openmetrics_exposition.generate_latest(page)  # type: ignore[no-untyped-call]
    else:
        text = generate_latest(page)
    return text.decode()


class _Page(Collector):
    def __init__(self, standing: Standing) -> None:
        self._standing = standing

    def collect(self) -> Iterator[Metric]:
        return collect(self._standing)


def collect(standing: Standing) -> Iterator[Metric]:
    """The metrics of a page."""
    reports = [worker.report for worker in standing.workers if worker.report is not None]
    if standing.own is not None:
        reports.append(standing.own)
    yield from _counted(standing, reports)
    yield from _looked_up(standing)
    yield from _of_workers(standing)
    yield from _of_processes(standing, reports)
    info = {report.version: 1 for report in reports if report.version}
    yield _fill(GaugeMetricFamily("wsd_info", "the version that runs; several for a moment", labels=["version"]), info)


def _counted(standing: Standing, reports: list[Report]) -> Iterator[Metric]:
    """What is counted, of all processes that ever were."""
    metrics = Metrics()
    for counted in (standing.retired.metrics, *(report.metrics for report in reports)):
        metrics.add(counted)
    for name, text, labels, _ in _METRICS:
        counted = getattr(metrics, name)
        if isinstance(counted, Histogram):
            yield HistogramMetricFamily(f"wsd_{name}", text, buckets=counted.buckets(), sum_value=counted.sum)
        else:
            yield _fill(CounterMetricFamily(f"wsd_{name}", text, labels=labels), counted)


def _looked_up(standing: Standing) -> Iterator[Metric]:
    """What workers look up."""
    views = standing.by_number()
    for family in _GAUGES:
        if family.across is Across.EACH and standing.several:
            yield _each(family, views)
            continue
        counted = standing.workers if family.across is Across.SUM else views.values()
        found = [worker.report.gauges for worker in counted if worker.report is not None]
        total: Numbers = {}
        for gauges in found:
            total = added(total, {family.name: gauges.get(family.name)})
        yield _fill(GaugeMetricFamily(f"wsd_{family.name}", family.text, labels=family.labels), total.get(family.name))


def _each(family: Family, views: _Views) -> Metric:
    """A gauge of each worker."""
    filled = GaugeMetricFamily(f"wsd_{family.name}", family.text, labels=[*family.labels, "worker"])
    for number, worker in views.items():
        if worker.report is not None:
            filled.add_metric([str(number)], _value(worker.report.gauges.get(family.name)))
    return filled


def _of_workers(standing: Standing) -> Iterator[Metric]:
    """What is known of the workers themselves."""
    views = standing.by_number()
    up = [
        worker
        for worker in views.values()
        if worker.state is State.SERVING and worker.silence <= standing.worker_timeout
    ]
    yield GaugeMetricFamily("wsd_workers", "workers that there should be", value=standing.configured)
    yield GaugeMetricFamily(
        "wsd_workers_up", "workers that take new clients, and whose event loop turns", value=len(up)
    )
    connections = dict.fromkeys(views, 0.0)
    spent = {number: float(standing.retired.cpu_seconds.get(str(number), 0.0)) for number in views}
    for worker in standing.workers:
        if worker.report is not None:
            connections[worker.number] += _number(worker.report.gauges.get("open_connections"))
            spent[worker.number] += _number(worker.report.process.get("cpu_seconds"))
    silence = {number: worker.silence for number, worker in views.items()}
    yield _by_worker(GaugeMetricFamily, "connections", "connections of each worker now", connections)
    yield _by_worker(GaugeMetricFamily, "silence_seconds", "time since each worker was last heard of", silence)
    yield _by_worker(CounterMetricFamily, "cpu_seconds", "CPU time that each worker has spent", spent)


def _by_worker(kind: type[_Filled], name: str, text: str, values: Mapping[int, float]) -> _Filled:
    family = kind(f"wsd_worker_{name}", text, labels=["worker"])
    for number, value in values.items():
        family.add_metric([str(number)], value)
    return family


def _of_processes(standing: Standing, reports: list[Report]) -> Iterator[Metric]:
    """What all Prometheus clients tell of a process, for all processes of the service."""
    found = [report.process for report in reports]
    for name, text in _PROCESS:
        if values := [number for process in found if (number := _number(process.get(name)))]:
            yield GaugeMetricFamily(f"process_{name}", text, value=sum(values))
    if started := [number for process in found if (number := _number(process.get("start_time_seconds")))]:
        text = "Start time of the service, its oldest process, since unix epoch in seconds."
        yield GaugeMetricFamily("process_start_time_seconds", text, value=min(started))
    spent = [_number(process.get("cpu_seconds")) for process in found]
    yield CounterMetricFamily(
        "process_cpu_seconds",
        "Total user and system CPU time spent in seconds, of all processes, those that are gone included.",
        value=sum(spent) + sum(standing.retired.cpu_seconds.values()),
    )


def _fill(family: _Filled, value: float | Mapping[str, float] | None) -> _Filled:
    """Put a value into its family, or the value of each label."""
    if not isinstance(value, Mapping):
        family.add_metric([], _value(value))
        return family
    for label, count in sorted(value.items()):
        family.add_metric(_labels(family.name, label), _value(count))
    return family


def _value(value: object) -> float:
    """A number; what there isn't is NaN for Prometheus."""
    return float(value) if isinstance(value, (int, float)) else math.nan


def _number(value: object) -> float:
    """A number that is added up; what there isn't is nothing."""
    return float(value) if isinstance(value, (int, float)) else 0.0


def _labels(name: str, label: str) -> list[str]:
    """The values of a count's labels: of a refused handshake, the reason and the status that follows from it."""
    if name != "wsd_refused_handshakes":
        return [label]
    return [label, _STATUSES.get(label, "unknown")]  # unknown is what another version has counted
