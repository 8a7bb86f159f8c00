"""Mostly one frame per write: what Python's part of a delivery costs beside the floor."""

from __future__ import annotations

from collections.abc import Iterator

from bench.measure.fan_out import FanOut
from bench.measure.work import Load
from bench.report.plots import Plot
from bench.rows.case import Case
from bench.rows.draw import distribution
from bench.rows.found import Found, ratio
from bench.rows.goal import Goal
from bench.rows.row import Row

__all__ = ["BASE", "SINGLE"]

BASE = Load(warm_up=0.2, drain=3.0)
"""The load of most rows: 1,000 subscribers of one topic, 100 messages of 100 bytes a second."""

_CASE = Case(
    "single",
    FanOut(BASE),
    ("wsd", "floor", "naive", "node", "nats", "nchan"),
    more=("floor-transport",),
    # The ratio to the floor is the tightest goal.
    repetitions=3,
    repeated=("wsd", "floor"),
)

_TRIED = (
    "one buffer for all, written in one loop: Python's part is 0.15 to 0.2 µs (python -m bench.micro --only pass). The "
    "rest is uvloop's write and send(2), which takes 8 µs if it has to wake the reader up, and 3 µs if not. A "
    "floor that is a little faster finds its reader awake, so this ratio is anything from 1.0 to 1.7 on a small "
    "virtual machine."
)


def _goals(found: Found) -> Iterator[Goal]:
    cost, least = (found.median(_CASE, server, "cpu_per_delivery_us") for server in ("wsd", "floor"))
    note = "" if cost is None or least is None else f"{cost:.2f} against {least:.2f} µs. "
    work = "1,000 subscribers, 100 B, 100 messages/s"
    yield Goal(
        work,
        "CPU per delivery over the floor's",
        ratio(cost, least),
        1.35,
        "x",
        note=note + found.notes(_CASE, "wsd", "floor"),
        attempts=_TRIED,
    )
    yield Goal(work, "messages lost, duplicated or out of order", found.bad(_CASE), 0, exact=True)


def _plots(found: Found) -> Iterator[Plot]:
    yield distribution("1,000 subscribers, 100 messages per second", found.all_of(_CASE))


SINGLE = Row("single", "1,000 subscribers, 100 messages a second: mostly one frame per write", (_CASE,), _goals, _plots)
