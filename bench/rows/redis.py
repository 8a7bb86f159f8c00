"""What a message costs the core of Redis, by the number of workers that it is sent to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from bench.measure.feeding import Feeding
from bench.measure.work import Load, Result
from bench.report.plots import Axis, Chart, Plot, Series
from bench.report.sizing import Feed
from bench.rows.case import Case
from bench.rows.found import Found
from bench.rows.goal import Goal
from bench.rows.row import Row
from bench.servers.baselines import LINKS

__all__ = ["REDIS"]

_LINKS = tuple(kind.name for kind in LINKS)
_ENDS = _LINKS[0], _LINKS[-1]  # two are enough for a line
_WSD = ("wsd", "wsd-2")

_ONE = Load(connections=16, rate=5000, warm_up=0.3)
_MANY = replace(_ONE, connections=160, topics=1000, topics_each=100)

_CASES = (
    Case("redis-1", Feeding(_ONE), _LINKS + _WSD, enough=("links-2",)),
    Case("redis-1000", Feeding(_MANY), _LINKS + _WSD, enough=("links-8", "wsd-2")),
    # A message is cheaper for a Redis that has more of them to do at a time.
    *(
        Case(f"redis-{name}", Feeding(replace(_ONE, rate=rate)), _ENDS, more=_LINKS[1:-1], enough=_ENDS[:1])
        for name, rate in (("slow", 500.0), ("fast", 20_000.0))
    ),
)

MODEL_LIMIT = 1.25
"""What wsd's workers may cost Redis, over what as many bare subscribers do: above it, the model of a fleet says too
little. They sleep and wake up at other times, so it isn't 1."""


def _goals(found: Found) -> Iterator[Goal]:
    for case in _CASES[:2]:
        cost = found.median(case, "wsd-2", "cpu_per_message_us")
        bare = found.median(case, "links-2", "cpu_per_message_us")
        note = "" if cost is None or bare is None else f"{cost:.1f} against {bare:.1f} µs per message. "
        yield Goal(
            str(case.work),
            "2 workers over 2 bare subscribers",
            None if cost is None or not bare else cost / bare,
            MODEL_LIMIT,
            "x",
            note=note + found.notes(case, "wsd-2", "links-2"),
        )
        yield Goal(str(case.work), "subscribers that a topic lacks", _missing(found, case), 0, exact=True)


def _missing(found: Found, case: Case) -> float | None:
    """How far Redis was from having as many subscribers of each topic as there were, in the worst case."""
    counts = [abs(kind.links - result["subscribers"]) for kind in LINKS for result in found.of(case, kind.name)]
    return max(counts, default=None)


def _plots(found: Found) -> Iterator[Plot]:
    subscribers = Axis("subscribers of each topic")
    lines = []
    for colour, case in enumerate(_CASES):
        bare = [result for name in _LINKS for result in found.of(case, name)]
        lines.append(Series(_over(case), sorted(map(_point, bare)), colour))
        if case.measures("wsd"):
            ours = [result for name in _WSD for result in found.of(case, name)]
            lines.append(Series(f"{_over(case)}: wsd", sorted(map(_point, ours)), colour, dashed=True))
    yield Chart("CPU of Redis per message", subscribers, Axis("µs"), lines)
    feed = Feed.fit(found.results)
    if feed is not None:
        rates = [float(rate) for rate in (500, 1000, 2000, 5000, 10_000, 20_000)]
        points = [(rate, float(feed.workers(rate))) for rate in rates]
        yield Chart(
            "Workers that one Redis feeds, half full, each of which wants all topics",
            Axis("messages published per second", log=True),
            Axis("workers", log=True),
            [Series("workers", points)],
        )


def _over(case: Case) -> str:
    load = case.work.load
    topics = "1 topic" if load.topics == 1 else f"{load.topics:,} topics"
    return f"{topics}, {load.rate:,g}/s"


def _point(result: Result) -> tuple[float, float]:
    return float(result["subscribers"]), float(result["cpu_per_message_us"])


REDIS = Row(
    "redis",
    "500 to 20,000 messages a second to 1, 2, 4 and 8 subscribers of Redis, bare ones and wsd's workers: what the core "
    "of Redis pays for a message",
    _CASES,
    _goals,
    _plots,
)
