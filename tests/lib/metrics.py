"""Metrics with a number of its own in every place, and reports and workers that have them."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from typing import Any

from wsd import __version__
from wsd.admin.standing import Standing, WorkerView
from wsd.metrics import Gauges, Histogram, Metrics
from wsd.report import Report

__all__ = ["COUNTED", "GAUGES", "alone", "busy", "report"]

GAUGES = Gauges(
    sessions={"anonymous": 2, "authenticated": 3},
    open_connections=1,
    max_connections=12,
    topics=4,
    lagging_connections=5,
    backlog_bytes=6,
    redis_link_up=True,
    redis_links=10,
    redis_links_unprobed=14,
    redis_probe_age_seconds=1.5,
    redis_probe_round_trip_seconds=0.25,
    redis_channels_wanted=8,
    redis_channels_confirmed=9,
    tasks=11,
    draining=False,
)

COUNTED = [counted.name for counted in fields(Metrics)]


def busy() -> Metrics:
    """Metrics in which every attribute has counted something, each a number of its own."""
    metrics = Metrics()
    for number, name in enumerate(COUNTED, start=101):
        value = getattr(metrics, name)
        if isinstance(value, Histogram):
            value.observe(number / 1_000)
        elif isinstance(value, Counter):
            value[next(iter(value))] = number
        else:
            setattr(metrics, name, number)
    return metrics


def report(metrics: Metrics | None = None, gauges: Gauges = GAUGES, **more: Any) -> Report:
    """A report of a worker that is ready, if nothing else is said.

    Args:
        metrics: what it has counted; nothing if not given.
        gauges: what it has looked up.
        more: the other fields of the report.
    """
    figures = {
        "cpu_seconds": 1.5,
        "start_time_seconds": 1_700_000_000.0,
        "virtual_memory_bytes": 4_000_000,
        "resident_memory_bytes": 2_000_000,
        "open_fds": 20,
        "max_fds": 1024,
    }
    fields: dict[str, Any] = {
        "version": __version__,
        "pid": 1,
        "unready": "",
        "metrics": (metrics or Metrics()).dump(),
        "gauges": gauges.dump(),
        "process": figures,
    }
    return Report(**(fields | more))


def alone(metrics: Metrics | None = None, gauges: Gauges = GAUGES, **more: Any) -> Standing:
    """A service of one worker, which has such a report."""
    return Standing(workers=(WorkerView(number=0, pid=1, report=report(metrics, gauges, **more)),))
