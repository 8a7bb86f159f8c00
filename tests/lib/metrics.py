"""Metrics with a number of its own in every place."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields

from wsd.metrics import Gauges, Histogram, Metrics

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
