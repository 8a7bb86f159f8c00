"""Several messages per pass, so that a write may take them together."""

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

__all__ = ["JOINED"]

# A rate that the naive server can't hold: its cost is what is asked for, so what it still owes isn't waited for.
_BEYOND = {"naive": {"drain": 0.3}, "node": {"drain": 0.3}}

_2000 = Case(
    "joined-2000",
    FanOut(replace(BASE, rate=2000)),
    ("wsd", "nats", "naive"),
    enough=("wsd",),
    # wsd and nats-server are within some per cent here.
    repetitions=2,
    repeated=("wsd", "nats"),
    changes=_BEYOND,
)
_5000 = Case(
    "joined-5000",
    FanOut(replace(BASE, rate=5000)),
    ("wsd", "nats"),
    enough=("wsd",),
    more=("floor-joined", "naive", "node"),
    changes=_BEYOND,
)

_TRIED = (
    "one joined write per connection and pass. What is left at 2,000/s is mostly the system call of a write, shared by "
    "the few messages that one pass brings; at 5,000/s passes bring more, and the ratio doubles. Waiting for more "
    "messages would save writes, but delay everyone: not done."
)


def _goals(found: Found) -> Iterator[Goal]:
    for case in (_2000, _5000):
        work = f"1,000 subscribers, 100 B, {case.work.load.rate:,.0f} messages/s"
        cost = found.median(case, "wsd", "cpu_per_delivery_us")
        note = found.notes(case, "wsd")
        yield Goal(work, "messages lost, duplicated or out of order", found.bad(case), 0, note=note, exact=True)
        held = ratio(found.median(case, "wsd", "rate"), found.median(case, "wsd", "offered"))
        yield Goal(work, "rate held", None if held is None else 100 * held, 98, "%", at_least=True)
        nats = found.median(case, "nats", "cpu_per_delivery_us")
        yield Goal(work, "CPU per delivery over nats-server's", ratio(cost, nats), 1.0, "x", attempts=_TRIED)
        # A naive server costs the same per delivery at any rate, because it never joins. So any rate will do.
        naive = found.median(case, "naive", "cpu_per_delivery_us") or found.median(
            _2000, "naive", "cpu_per_delivery_us"
        )
        measure = "naive server's CPU per delivery over ours"
        yield Goal(work, measure, ratio(naive, cost), 20, "x", at_least=True, attempts=_TRIED)


def _plots(found: Found) -> Iterator[Plot]:
    for case in (_2000, _5000):
        title = f"1,000 subscribers, {case.work.load.rate:,.0f} messages per second"
        yield distribution(title, found.all_of(case))


JOINED = Row(
    "joined", "1,000 subscribers, 2,000 and 5,000 messages a second: frames are joined", (_2000, _5000), _goals, _plots
)
