"""Many messages at once, each on another topic than the one before.

A client is due 0.8 MiB: what is more than ``max_backlog`` and doesn't fit into the kernel's buffers would cut off those
who read no faster than the machine lets them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from bench.measure.burst import Burst
from bench.measure.work import Load, Result
from bench.report.plots import Bars, Plot
from bench.rows.case import Case
from bench.rows.draw import bars
from bench.rows.found import Found, ratio
from bench.rows.goal import Goal
from bench.rows.row import Row

__all__ = ["BURST", "STALLED"]

MIB = 2**20

STOP_LIMIT = 20
"""Milliseconds that the loop may stand still."""

MEMORY_LIMIT = 64
"""MiB that a burst may take."""


def _load(connections: int, topics: int, each: int) -> Load:
    return Load(connections=connections, topics=topics, topics_each=each, size=150, drain=60.0)


_BURSTS = tuple(
    Case(f"burst-{topics}", Burst(_load(1000, topics, each), messages), ("wsd",), more=("naive", "nats"))
    for topics, each, messages in ((2, 2, 4000), (10, 10, 4000), (500, 100, 20_000))
)
_STALLED = (Case("stalled", Burst(_load(10, 2, 2), 30_000, stalled=300), ("wsd",)),)

_TRIED = (
    "reading, sorting and writing are cut into slices of 2 ms. What comes on top is one step of each (a write of 64 "
    "KiB takes 20 to 50 µs, and there are at most 9 of them between two looks at the clock), the requests of clients, "
    "and whoever else uses the server's core."
)


def _goals(cases: Sequence[Case], found: Found) -> Iterator[Goal]:
    for case in cases:
        work = str(case.work)
        stop = found.median(case, "wsd", "stops", "longest")
        stop = None if stop is None else 1000 * stop
        note = "" if stop is None else f"the loop answered after {stop:.1f} ms at the most"
        yield Goal(work, "longest stop of the loop", stop, STOP_LIMIT, "ms", note=note, attempts=_TRIED)
        growth = ratio(found.median(case, "wsd", "memory_growth"), MIB)
        yield Goal(work, "memory at the most", growth, MEMORY_LIMIT, "MiB", exact=True)
        yield Goal(work, "messages lost, duplicated or out of order", found.bad(case), 0, exact=True)


def _plots(cases: Sequence[Case], found: Found) -> Iterator[Plot]:
    for case in cases:
        results = found.all_of(case)
        yield Bars(f"{case.work}: longest stop", "ms", bars(results, _stop), STOP_LIMIT)
        yield Bars(f"{case.work}: memory", "MiB", bars(results, _growth), MEMORY_LIMIT)


def _stop(result: Result) -> float:
    return 1000 * float(result["stops"]["longest"])


def _growth(result: Result) -> float:
    return float(result["memory_growth"]) / MIB


BURST = Row(
    "burst",
    "thousands of messages at once over 2, 10 and 500 topics in turn: the longest stop of the loop, the most memory, "
    "nothing lost",
    _BURSTS,
    partial(_goals, _BURSTS),
    partial(_plots, _BURSTS),
)

STALLED = Row(
    "stalled",
    "30,000 messages at once to 10 clients, beside 300 that don't read: what those cost, and whom",
    _STALLED,
    partial(_goals, _STALLED),
    partial(_plots, _STALLED),
)
