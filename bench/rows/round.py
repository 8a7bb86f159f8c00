"""So many subscribers that one round of writes takes as long as the time between two messages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from bench.measure.fan_out import FanOut
from bench.report.plots import Plot
from bench.rows.case import Case
from bench.rows.draw import distribution
from bench.rows.found import Found, ratio
from bench.rows.goal import Goal
from bench.rows.row import Row
from bench.rows.single import BASE

__all__ = ["ROUND"]

_CASES = tuple(
    Case(
        f"round-{connections}",
        FanOut(replace(BASE, connections=connections, rate=20)),
        ("wsd", "floor", "nats", "nchan"),
        enough=("wsd",),
    )
    for connections in (5000, 10_000)
)

_TRIED = (
    "slices of a pass yield to the loop, and a pass that is late joins frames. With 10,000 subscribers a round of "
    "writes takes longer than the 50 ms between two messages: the floor doesn't hold this rate either, so part of "
    "every latency is the message before."
)


def _goals(found: Found) -> Iterator[Goal]:
    for case in _CASES:
        connections = case.work.load.connections
        work = f"{connections:,} subscribers, 20 messages/s"
        p99 = found.median(case, "wsd", "latency_us", "p99")
        for other, title in (("nats", "nats-server's"), ("nchan", "nchan's")):
            theirs = found.median(case, other, "latency_us", "p99")
            yield Goal(work, f"p99 latency over {title}", ratio(p99, theirs), 1.0, "x", note=found.notes(case, "wsd"))
        cost = found.median(case, "floor", "cpu_per_delivery_us")
        once = None if cost is None else cost * connections
        note = "" if p99 is None or once is None else f"{p99 / 1000:.1f} ms; one round of writes {once / 1000:.1f} ms"
        yield Goal(
            work,
            "p99 latency over the floor's round of writes",
            ratio(p99, once),
            2.3,
            "x",
            note=note,
            attempts=_TRIED if connections == 10_000 else "",
        )


def _plots(found: Found) -> Iterator[Plot]:
    for case in _CASES:
        title = f"{case.work.load.connections:,} subscribers, 20 messages per second"
        yield distribution(title, found.all_of(case))


ROUND = Row(
    "round",
    "5,000 and 10,000 subscribers, 20 messages a second: how long one round of writes takes",
    _CASES,
    _goals,
    _plots,
)
