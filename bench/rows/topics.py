"""Many topics: the most that wsd can do, over the most that the naive server can do.

Each server gets a rate near the most that it can do. At the same rate for both, the ratio couldn't exceed that rate
over what the naive server can do; and a naive server that is offered twice what it can do delivers half.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from bench.measure.fan_out import FanOut
from bench.report.plots import Bars, Plot
from bench.rows.case import Case
from bench.rows.draw import bars, cost, rate
from bench.rows.found import Found, ratio
from bench.rows.goal import Goal
from bench.rows.row import Row
from bench.rows.single import BASE

__all__ = ["TOPICS"]


def _case(connections: int, topics: int, each: int, ours: float, theirs: float) -> Case:
    load = replace(BASE, connections=connections, topics=topics, topics_each=each, rate=ours)
    return Case(
        f"topics-{topics}x{each}", FanOut(load), ("wsd", "naive"), enough=("wsd",), changes={"naive": {"rate": theirs}}
    )


_ONE_EACH = _case(10_000, 10_000, 1, 180_000, 28_000)
_TEN_EACH = _case(10_000, 1000, 1, 45_000, 5_500)
_FIFTY = _case(500, 500, 50, 20_000, 2_000)

_WORK = {
    _ONE_EACH: "10,000 topics with one subscriber each",
    _TEN_EACH: "1,000 topics with 10 subscribers each",
    _FIFTY: "500 clients on 50 of 500 busy topics",
}

_TRIED = (
    "frames of one connection are joined across all topics of a pass. A client of one topic has nothing to join until "
    "its topic has several messages in a pass; from then on the limit is what taking and framing one message costs."
)


def _goals(found: Found) -> Iterator[Goal]:
    for case, work in _WORK.items():
        yield Goal(
            work,
            "deliveries per second over the most that the naive server can do",
            ratio(_delivered(found, case), _capacity(found, case)),
            5,
            "x",
            at_least=True,
            note=_note(found, case),
            attempts=_TRIED,
        )
        yield Goal(work, "messages lost, duplicated or out of order", found.bad(case), 0, exact=True)
        note = "joined across topics" if case is _FIFTY else "joined within the one topic of each"
        joined = found.median(case, "wsd", "joined")
        yield Goal(work, "messages per read at the client", joined, 1.05, at_least=True, note=note)


def _delivered(found: Found, case: Case) -> float | None:
    """Deliveries per second of wsd. What was published in the warm-up and came in the window may not count for more
    than was offered, and what was lost doesn't make a rate."""
    held, offered = found.median(case, "wsd", "rate"), found.median(case, "wsd", "offered")
    return None if held is None or offered is None or found.bad(case) else min(held, offered)


def _capacity(found: Found, case: Case) -> float | None:
    """The most deliveries per second of the naive server. It joins nothing, so each costs the same at any rate: what it
    delivered, or could in a second of CPU, whichever is more."""
    delivered, each = found.median(case, "naive", "rate"), found.median(case, "naive", "cpu_per_delivery_us")
    return None if delivered is None or not each else max(delivered, 1e6 / each)


def _note(found: Found, case: Case) -> str:
    said = []
    for server, most in (("wsd", _delivered(found, case)), ("naive", _capacity(found, case))):
        each, p50 = found.median(case, server, "cpu_per_delivery_us"), found.median(case, server, "latency_us", "p50")
        if most is not None and each is not None and p50 is not None:
            said.append(f"{server} {most:,.0f}/s at {each:.2f} µs, p50 {p50 / 1000:,.0f} ms")
    return "; ".join([*said, *filter(None, [found.notes(case, "wsd")])])


def _plots(found: Found) -> Iterator[Plot]:
    for case, work in _WORK.items():
        yield Bars(f"{work}: CPU per delivery", "µs", bars(found.all_of(case), cost))
        yield Bars(f"{work}: deliveries per second", "/s", bars(found.all_of(case), rate))


TOPICS = Row(
    "topics",
    "10,000 topics with a subscriber each; 1,000 with ten; 500 clients on 50 of 500 topics; each server near the most "
    "that it can do",
    tuple(_WORK),
    _goals,
    _plots,
)
