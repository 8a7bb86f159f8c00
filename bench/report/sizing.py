"""How many cores and how much memory a fleet needs, from what a run measured.

The model has three parts, each measured at one connection count and taken to hold at others:

- CPU per delivery falls with the messages that *one subscriber* gets per second, because a busy daemon joins them in
  one write. It is interpolated between the measured rates, on logarithmic axes.
- A larger payload costs more by a factor, which is interpolated between the measured sizes in the same way.
- Memory is that of the empty worker and that of each connection.

A worker is planned half full, so that a storm of reconnects and a replica's failure find room. How far the model is off
is told by the runs that it was not made from: other connection counts.

Beside it stands the core of Redis, which no worker adds to: a message costs it something once, and something for each
worker that wants it (:class:`Feed`). That is a line through what was measured with bare subscribers, for each rate of
publishing, as a Redis that has more to do at a time joins it, too. The runs with real workers tell how far it is off.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, exp, floor, log
from statistics import linear_regression, median

from bench.measure.verdicts import UNRELIABLE
from bench.measure.work import Result

__all__ = ["HALF", "Check", "Feed", "Model", "table"]

HALF = 0.5
"""Share of a core that a worker is planned to use."""

FULL = 0.9
"""Share of a core from which on a worker is full."""

BASE = 1000
"""Connections of the runs that the model is made from."""

LEAST = 0.01
"""Microseconds that a message costs at least: noise may draw a line of few points below the axis."""

PUBLISHED = (500.0, 1_000.0, 2_000.0, 5_000.0, 10_000.0, 20_000.0)
"""Messages per second, over all topics, for which it is told how many workers one Redis feeds."""

FLEETS = (
    (1_000, 100.0, 100),
    (10_000, 1.0, 100),
    (10_000, 20.0, 100),
    (10_000, 20.0, 10_000),
    (50_000, 1.0, 1_000),
    (50_000, 100.0, 100),
    (100_000, 1.0, 100),
    (100_000, 20.0, 100),
    (1_000_000, 0.1, 100),
)
"""Rows of the table: connections, messages per second that each gets, bytes of a payload."""


@dataclass(frozen=True, slots=True)
class Check:
    """A run that the model was not made from."""

    connections: int
    rate: float  # messages per second
    size: int  # bytes
    predicted: float  # cores
    measured: float  # cores


@dataclass(frozen=True, slots=True)
class Model:
    """What the run tells about one server.

    Raises:
        ValueError: from :meth:`fit`, if too little was measured.
    """

    costs: Mapping[float, float]  # by messages per second and subscriber: µs per delivery of 100 bytes
    sizes: Mapping[float, float]  # by bytes of payload: how much more a delivery costs than one of 100 bytes
    empty: float  # bytes of a worker without connections
    per_connection: float  # bytes

    @classmethod
    def fit(cls, results: Sequence[Result], server: str = "wsd") -> Model:
        """Make the model from a run's results."""
        plain = [result for result in _plain(results, server) if result["load"]["connections"] == BASE]
        costs = _medians([result for result in plain if result["load"]["size"] == 100], "rate")
        if len(costs) < 2:
            raise ValueError(
                f"a fleet is sized from a run that measured {server} with 1,000 subscribers of 100 bytes at two rates,"
                f" and this one has {len(costs)}: run the suite without --rows, or with --rows single,joined"
            )
        by_size: dict[float, float] = {100.0: 1.0}
        for size in {result["load"]["size"] for result in plain} - {100}:
            same = _medians([result for result in plain if result["load"]["size"] == size], "rate")
            if same:
                by_size[size] = median(cost / _interpolated(costs, rate) for rate, cost in same.items())
        held = [result for result in results if result["server"] == server and "memory" in result]
        # Of few connections it would be the rounding of the allocator.
        most = max(result["load"]["connections"] for result in held)
        crowded = [result for result in held if result["load"]["connections"] == most]
        return cls(
            costs,
            by_size,
            median(result["memory"]["empty"] for result in held),
            median(result["memory"]["per_connection"] for result in crowded),
        )

    def cores(self, connections: int, rate: float, size: int) -> float:
        """Cores that are busy with so many connections, each with so many messages of a size per second."""
        return connections * rate * _interpolated(self.costs, rate) * _interpolated(self.sizes, size) / 1e6

    def workers(self, connections: int, rate: float, size: int) -> int:
        """Workers, each with a core of its own, so that they are half full."""
        return max(ceil(self.cores(connections, rate, size) / HALF), 1)

    def memory(self, connections: int, workers: int) -> float:
        """Bytes of memory of all workers."""
        return workers * self.empty + connections * self.per_connection

    def checks(self, results: Sequence[Result], server: str = "wsd") -> list[Check]:
        """The model against the runs that it was not made from."""
        found = []
        for result in _plain(results, server):
            load = result["load"]
            # A full worker joins more, so it can't be compared with one that is half full.
            if load["connections"] != BASE and result["cpu_per_delivery_us"] and result["server_share"] < FULL:
                shape = load["connections"], load["rate"], load["size"]
                measured = result["cpu_per_delivery_us"] * load["connections"] * load["rate"] / 1e6
                found.append(Check(*shape, self.cores(*shape), measured))
        return found


@dataclass(frozen=True, slots=True)
class Feed:
    """What a message costs the core of Redis, in microseconds, by the messages that are published per second."""

    once: Mapping[float, float]  # however many subscribers it has
    each: Mapping[float, float]  # for each of them

    @classmethod
    def fit(cls, results: Sequence[Result]) -> Feed | None:
        """Make the model from a run's results; None if it has measured no rate with two numbers of subscribers."""
        bare = [result for result in _fed(results) if result["server"].startswith("links-")]
        once, each = {}, {}
        for rate in {float(result["load"]["rate"]) for result in bare}:
            costs = _by_subscribers([result for result in bare if result["load"]["rate"] == rate])
            if len(costs) > 1:
                line = linear_regression(list(costs), list(costs.values()))
                once[rate], each[rate] = max(line.intercept, LEAST), max(line.slope, LEAST)
        return cls(once, each) if once else None

    def cost(self, workers: float, rate: float) -> float:
        """Microseconds of Redis's core for a message that so many workers want, of so many messages per second."""
        return _interpolated(self.once, rate) + _interpolated(self.each, rate) * workers

    def workers(self, rate: float, share: float = HALF) -> int:
        """How many workers, each of which wants every message, keep a core of Redis as busy as a share of it.

        Args:
            rate: messages per second that are published, over all topics.
            share: of the core.
        """
        left = share * 1e6 / rate - _interpolated(self.once, rate)
        return max(floor(left / _interpolated(self.each, rate)), 0)


def _by_subscribers(results: Sequence[Result]) -> dict[float, float]:
    """The cost of a message, by the number of its subscribers: of the reliable runs, if there are any."""
    found: dict[float, list[float]] = {}
    for result in [each for each in results if not UNRELIABLE & set(each["verdicts"])] or results:
        found.setdefault(float(result["subscribers"]), []).append(result["cpu_per_message_us"])
    return {subscribers: median(costs) for subscribers, costs in found.items()}


def table(results: Sequence[Result]) -> str:
    """The table and the checks, in Markdown.

    Raises:
        ValueError: if too little was measured.
    """
    model = Model.fit(results)
    used = _plain(results, "wsd")
    disturbed = sum("disturbed" in result["verdicts"] for result in used)
    lines = [
        f"From {len(used)} runs, {disturbed} of them disturbed by other work on the machine.",
        "",
        "| connections | messages/s to each | payload | deliveries/s | cores busy | workers, half full | memory |",
        "| --: | --: | --: | --: | --: | --: | --: |",
    ]
    for connections, rate, size in FLEETS:
        workers = model.workers(connections, rate, size)
        lines.append(
            f"| {connections:,} | {rate:g} | {size:,} B | {connections * rate:,.0f} "
            f"| {model.cores(connections, rate, size):.2f} | {workers} "
            f"| {model.memory(connections, workers) / 2**20:,.0f} MiB |"
        )
    lines += ["", "| checked on a run of | predicted cores | measured | off by |", "| --- | --: | --: | --: |"]
    lines += [
        f"| {check.connections:,} connections, {check.rate:g}/s of {check.size:,} B | {check.predicted:.2f} "
        f"| {check.measured:.2f} | {check.predicted / check.measured - 1:+.0%} |"
        for check in model.checks(results)
    ]
    return "\n".join([*lines, "", *_redis_table(results)])


def _redis_table(results: Sequence[Result]) -> Iterator[str]:
    feed = Feed.fit(results)
    if feed is None:
        yield "What one Redis feeds is not in this result: it is measured by --rows redis."
        return
    yield "What the core of Redis pays for a message, and how many workers it feeds that want every message:"
    yield ""
    yield "| messages/s published | µs once | µs for each worker | workers, half full | workers that fill its core |"
    yield "| --: | --: | --: | --: | --: |"
    for rate in PUBLISHED:
        each = feed.cost(1, rate) - feed.cost(0, rate)
        yield (
            f"| {rate:,.0f} | {feed.cost(0, rate):.1f} | {each:.1f} "
            f"| {feed.workers(rate):,} | {feed.workers(rate, 1.0):,} |"
        )
    yield ""
    yield "| checked on | predicted µs per message | measured | off by |"
    yield "| --- | --: | --: | --: |"
    real = [result for result in _fed(results) if not result["server"].startswith("links-")]
    for server, topics, rate in dict.fromkeys(map(_where, real)):
        same = [result for result in real if _where(result) == (server, topics, rate)]
        for subscribers, measured in _by_subscribers(same).items():
            predicted = feed.cost(subscribers, rate)
            yield (
                f"| {server}, {topics:,} topics, {rate:,g}/s | {predicted:.1f} | {measured:.1f} "
                f"| {predicted / measured - 1:+.0%} |"
            )


def _where(result: Result) -> tuple[str, int, float]:
    return result["server"], result["load"]["topics"], float(result["load"]["rate"])


def _fed(results: Sequence[Result]) -> list[Result]:
    return [result for result in results if result["kind"] == "feeding"]


def _plain(results: Sequence[Result], server: str) -> list[Result]:
    return [
        result
        for result in results
        if result["server"] == server and result["kind"] == "fan-out" and result["load"]["topics"] == 1
    ]


def _medians(results: Sequence[Result], by: str) -> dict[float, float]:
    found: dict[float, list[float]] = {}
    for result in results:
        if result["cpu_per_delivery_us"]:
            found.setdefault(float(result["load"][by]), []).append(result["cpu_per_delivery_us"])
    return {at: median(values) for at, values in found.items()}


def _interpolated(points: Mapping[float, float], at: float) -> float:
    """Between the neighbours on logarithmic axes; beyond the ends, the value at the end."""
    known = sorted(points)
    at = min(max(at, known[0]), known[-1])
    below = max(each for each in known if each <= at)
    above = min(each for each in known if each >= at)
    if above == below:
        return points[below]
    part = log(at / below) / log(above / below)
    return exp(log(points[below]) * (1 - part) + log(points[above]) * part)
