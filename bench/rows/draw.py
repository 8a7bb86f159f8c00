"""From results to what plots show: one series or bar per server, the median of its repetitions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

from bench.load.histogram import Histogram
from bench.measure.window import TAIL
from bench.measure.work import Result
from bench.report.plots import PERCENTILES, Axis, Bar, Chart, Series
from bench.servers.catalogue import SERVERS

__all__ = ["bars", "cost", "distribution", "p99", "percentiles", "plain", "rate", "series", "share"]

_ORDER = {name: number for number, name in enumerate(SERVERS)}

PERCENTS = (1, 10, 25, 50, 75, 90, 95, 99, 99.5, 99.9)

Number = Callable[[Result], float | None]
"""Takes a number out of a result."""


def plain(results: Sequence[Result], **load: object) -> list[Result]:
    """Fan-outs of one topic, of any row, whose load has these values."""
    fixed = {"topics": 1, **load}
    return [
        result
        for result in results
        if result["kind"] == "fan-out" and all(result["load"][name] == value for name, value in fixed.items())
    ]


def cost(result: Result) -> float | None:
    """CPU per delivery, in microseconds."""
    found: float | None = result["cpu_per_delivery_us"]
    return found


def share(result: Result) -> float | None:
    """Share of a core that the server used."""
    found: float = result["server_share"]
    return min(found, 1.0)  # the clocks of CPU and of time are read one after the other


def rate(result: Result) -> float | None:
    """Deliveries per second."""
    found: float = result["rate"]
    return found


def p99(result: Result) -> float | None:
    """The 99th percentile of latency, in milliseconds."""
    found: float | None = result["latency_us"]["p99"]
    return None if found is None else found / 1000


def series(results: Sequence[Result], by: str, number: Number) -> list[Series]:
    """A series per server, over a field of the load."""
    found: dict[str, dict[float, list[float]]] = {}
    for result in results:
        if (value := number(result)) is not None:
            found.setdefault(result["server"], {}).setdefault(result["load"][by], []).append(value)
    return [
        Series(_title(server), [(at, median(values)) for at, values in found[server].items()], _ORDER.get(server, 0))
        for server in sorted(found, key=lambda name: _ORDER.get(name, 99))
    ]


def bars(results: Sequence[Result], number: Number) -> list[Bar]:
    """A bar per server."""
    found: dict[str, list[float]] = {}
    for result in results:
        if (value := number(result)) is not None:
            found.setdefault(result["server"], []).append(value)
    return [Bar(_title(server), median(values), _ORDER.get(server, 0)) for server, values in found.items()]


def distribution(title: str, results: Sequence[Result]) -> Chart:
    """Percentiles of latency, of all repetitions together."""
    merged: dict[str, Histogram] = {}
    for result in results:
        merged.setdefault(result["server"], Histogram()).merge(Histogram(result["histogram"]))
    return percentiles(title, merged)


def percentiles(title: str, histograms: dict[str, Histogram]) -> Chart:
    """Percentiles by server. Those that rest on too few values are left out."""
    found = []
    for server, histogram in histograms.items():
        values = [(percent, histogram.percentile(percent, above=TAIL)) for percent in PERCENTS]
        points = [(100 / (100 - percent), value / 1000) for percent, value in values if value is not None]
        found.append(Series(_title(server), points, _ORDER.get(server, 0)))
    return Chart(title, PERCENTILES, Axis("ms", log=True), found)


def _title(server: str) -> str:
    return SERVERS[server].title if server in SERVERS else server
