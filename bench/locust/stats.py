"""From what a shard counted to Locust's statistics, in bulk, and to the charts, by the second.

A shard counts up, and Locust wants what is new. :class:`Watch` makes the difference of two looks, a :class:`Change`.
:func:`record` puts a change into Locust's statistics the way Locust's own master does with a worker's report: as a
ready :class:`StatsEntry` that extends the one that is there. So a million deliveries cost what one costs.

Locust's percentiles are over all requests with a response time. A shard takes the times of sampled connections only.
The other deliveries count as requests without a response time, and Locust leaves these out of percentiles and averages.

Locust's total is what its page draws, and its rates count from the start to the end of the total. Here the total is the
deliveries, because a session is no message and the time that it takes is no latency. Sessions count in rows of their
own; only their failures count in the total.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any, cast

from locust.stats import RequestStats, StatsEntry, StatsError, bucket_response_time

from bench.load.histogram import Histogram, middle
from bench.measure.window import TAIL

__all__ = ["MESSAGE", "NOT_SUBSCRIBED", "SESSION", "Change", "Second", "Timeline", "Watch", "record"]

MESSAGE, SESSION = "message", "session"
"""How the names of the rows in Locust's statistics end: what was delivered, and connections up to the subscription."""

LONGEST_TIMELINE = 6 * 3600
"""Seconds that the charts remember."""

NOT_SUBSCRIBED = "could not subscribe"
"""Begins the text of a fault of a session. The other faults are of messages."""

NORMAL_CODES = {1000, 1005}
"""Close codes that answer a client's own (RFC 6455, section 7.4.1)."""


@dataclass(slots=True)
class Change:
    """What happened in a shard between two looks."""

    connections: int = 0  # that are subscribed now
    deliveries: int = 0
    bytes: int = 0
    latencies: Histogram = field(default_factory=Histogram)  # publish to receive, of the sampled deliveries
    setups: Histogram = field(default_factory=Histogram)  # connect to subscribed
    left: int = 0  # connections that ended as asked
    returned: int = 0  # connections that had ended unasked, or failed, and are subscribed again
    began: float = 0.0  # seconds since 1970: when the first of the two looks was
    looked: float = 0.0  # the same: when the second look was
    last_message: float = 0.0  # the same: when the last message came; when the second look was, if none came
    faults: Counter[str] = field(default_factory=Counter)  # what should not have happened
    share: float = 0.0  # of a core, that the shard used


class Watch:
    """Looks at one group of a shard, again and again.

    Args:
        group: the name of the group.
    """

    def __init__(self, group: str) -> None:
        self._group = group
        self._before: dict[str, Any] = {}  # the last answer's part about the group
        self._at = 0  # the time of the last answer, in the shard's nanoseconds
        self._cpu = 0.0  # seconds that the shard had used by then
        self._looked = time.time()  # seconds since 1970: when the last answer came

    def reconnected(self) -> None:
        """All connections were opened anew: the shard has begun its histogram of setups again."""
        self._before.pop("setups", None)

    def look(self, answer: dict[str, Any]) -> Change:
        """Take an answer to ``stats`` or ``drain``; return what is new."""
        now, before, looked = answer["groups"][self._group], self._before, time.time()
        seconds, cpu = (answer["at"] - self._at) / 1e9, answer["cpu"] - self._cpu

        def new(name: str) -> int:
            return int(now[name]) - int(before.get(name, 0))

        def counted(name: str) -> Counter[str]:
            return Counter(now[name]) - Counter(before.get(name, {}))

        change = Change(
            connections=now["connections"],
            deliveries=new("messages"),
            bytes=new("bytes"),
            latencies=Histogram(now["latencies"]).since(Histogram(before.get("latencies"))),
            setups=Histogram(now["setups"]).since(Histogram(before.get("setups"))),
            left=new("left"),
            returned=new("returned"),
            began=self._looked,
            looked=looked,
            last_message=looked - (answer["at"] - now["last_message"]) / 1e9 if new("last_message") else looked,
            share=cpu / seconds if self._at and seconds else 0.0,
        )
        # A message that comes late was lost for a while, and then is out of order. That takes something that is broken,
        # because Redis and wsd keep the order.
        lost = now["lost"] - before.get("lost", 0)
        for name, count in (("lost", lost), ("duplicated", new("duplicated")), ("out of order", new("out_of_order"))):
            if count > 0:
                change.faults[f"{name} (on sampled connections)"] = count
        for reason, count in counted("failures").items():
            change.faults[f"{NOT_SUBSCRIBED}: {reason}"] = count
        change.faults.update(_endings(counted("closes"), counted("broken")))
        for text, count in counted("notes").items():
            change.faults[f"unexpected message: {text}"] = count
        self._before, self._at, self._cpu, self._looked = now, answer["at"], answer["cpu"], looked
        return change


def _endings(closes: Counter[str], broken: Counter[str]) -> Counter[str]:
    """Why connections ended: what the server's close code was, or what the socket said if no close frame came."""
    reasons = Counter({f"closed with {code}": count for code, count in closes.items() if int(code) not in NORMAL_CODES})
    rest = sum(broken.values()) - sum(reasons.values())
    for reason, count in broken.most_common():
        if rest > 0:
            reasons[f"connection ended: {reason}"] = min(count, rest)
            rest -= count
    return reasons


def record(
    stats: RequestStats,
    name: str,
    *,
    count: int,
    times: Histogram,
    ended: float,
    began: float = 0.0,
    size: int = 0,
    faults: Counter[str] | None = None,
    total: bool = True,
) -> None:
    """Add many requests to Locust's statistics.

    Args:
        stats: the environment's.
        name: of the row.
        count: requests.
        times: response times of some of them, of all, or of none.
        ended: seconds since 1970: when the last one was.
        began: the same: since when. A row's rate counts from there, but that of messages from the first message.
        size: bytes of all responses.
        faults: failures, by their text.
        total: whether the requests count in Locust's total. Failures always do.
    """
    faults = faults or Counter()
    requests, failures = StatsEntry(stats, name, METHOD), StatsEntry(stats, name, METHOD)
    requests.start_time = began or ended
    if count:
        requests.num_requests = count
        requests.num_none_requests = count - len(times)
        requests.num_reqs_per_sec[int(ended)] = count
        requests.last_request_timestamp = ended
        requests.total_content_length = size
    if times.counts:
        buckets = sorted((middle(number) / 1000, each) for number, each in times.counts.items())
        # Locust's types say int, and it computes with fractions all the same.
        requests.total_response_time = cast(int, sum(value * each for value, each in buckets))
        requests.min_response_time = cast(int, round(buckets[0][0], 2))
        requests.max_response_time = cast(int, round(buckets[-1][0], 2))
        for value, each in buckets:
            requests.response_times[_rounded(value)] += each
    if failed := sum(faults.values()):
        failures.num_failures = failed
        failures.num_fail_per_sec[int(time.time())] = failed
    if count or failed:
        for entry in (stats.get(name, METHOD), stats.total):
            entry.extend(failures)
            if total or entry is not stats.total:
                entry.extend(requests)
    for text, each in faults.items():
        error = stats.errors.setdefault(StatsError.create_key(METHOD, name, text), StatsError(METHOD, name, text))
        error.occurred()
        error.occurrences += each - 1


METHOD = "WS"
"""What stands in Locust's column for the method."""


def _rounded(milliseconds: float) -> int:
    """Where Locust counts a response time: below 10 ms in steps of 0.1 ms, because steps of 1 ms would tell nothing."""
    if milliseconds < 10:
        return cast(int, round(milliseconds, 1))
    return bucket_response_time(milliseconds)


@dataclass(slots=True)
class Second:
    """What one generator saw in one second, or all of them together."""

    reported: bool = False  # whether any generator has said what it saw; else the counts aren't measured
    deliveries: int = 0
    latencies: Histogram = field(default_factory=Histogram)
    setups: Histogram = field(default_factory=Histogram)
    faults: int = 0
    returned: int = 0  # connections that are subscribed again
    connections: int = 0
    generator: float = 0.0  # share of its core that the busiest shard used
    machine: float = 0.0  # share of all cores that were busy, on the busiest machine
    cpu: dict[str, float] = field(default_factory=dict)  # cores used, by whom: wsd, shards, locust, publisher
    memory: dict[str, int] = field(default_factory=dict)  # bytes, by whom
    workers: dict[str, int] = field(default_factory=dict)  # connections, by the worker of wsd

    def add(self, change: Change) -> None:
        """Add what a shard saw."""
        self.deliveries += change.deliveries
        self.latencies.merge(change.latencies)
        self.setups.merge(change.setups)
        self.faults += sum(change.faults.values())
        self.returned += change.returned
        self.generator = max(self.generator, change.share)

    def merge(self, other: Second) -> None:
        """Add what another generator saw."""
        self.reported |= other.reported
        self.deliveries += other.deliveries
        self.latencies.merge(other.latencies)
        self.setups.merge(other.setups)
        self.faults += other.faults
        self.returned += other.returned
        self.connections += other.connections
        self.generator = max(self.generator, other.generator)
        self.machine = max(self.machine, other.machine)
        for who, cores in other.cpu.items():
            self.cpu[who] = self.cpu.get(who, 0.0) + cores
        for who, size in other.memory.items():
            self.memory[who] = self.memory.get(who, 0) + size
        self.workers |= other.workers

    def dump(self) -> dict[str, Any]:
        """For a message to the master."""
        plain = {each.name: getattr(self, each.name) for each in fields(self)}
        return plain | {"latencies": self.latencies.dump(), "setups": self.setups.dump()}

    @classmethod
    def load(cls, dumped: dict[str, Any]) -> Second:
        """The inverse of :meth:`dump`."""
        histograms = {name: Histogram(dumped[name]) for name in ("latencies", "setups")}
        return cls(**(dumped | histograms))

    def chart(self) -> dict[str, Any]:
        """For the charts: percentiles instead of histograms, and nothing that wasn't measured."""
        counts = ("deliveries", "faults", "returned", "connections", "generator", "machine")
        return {
            **({name: getattr(self, name) for name in counts} if self.reported else {}),
            "cpu": self.cpu,
            "memory": self.memory,
            "workers": self.workers,
            "latency": _percentiles(self.latencies),
            "setup": _percentiles(self.setups),
        }


def _percentiles(histogram: Histogram) -> dict[str, float]:
    """In milliseconds; without those that rest on too few values."""
    found = {name: histogram.percentile(float(name[1:]), above=TAIL) for name in ("p50", "p99", "p99.9")}
    return {name: value / 1000 for name, value in found.items() if value is not None}


class Timeline:
    """The seconds of a run, by the time since 1970 that each began."""

    def __init__(self) -> None:
        self.seconds: dict[int, Second] = {}
        self.latencies = Histogram()  # of the whole run
        self.deliveries = 0
        self.returned = 0  # connections that were subscribed again after they had ended unasked, or failed
        self._charts: dict[int, dict[str, Any]] = {}  # of seconds to which nothing was added since

    def at(self, second: int) -> Second:
        """The given second, to be added to; new if nothing is known of it."""
        self._charts.pop(second, None)
        if second not in self.seconds:
            while len(self.seconds) >= LONGEST_TIMELINE:
                del self.seconds[min(self.seconds)]
            self.seconds[second] = Second()
        return self.seconds[second]

    def merge(self, second: int, other: Second) -> None:
        """Add what a generator saw in a second."""
        self.at(second).merge(other)
        self.latencies.merge(other.latencies)
        self.deliveries += other.deliveries
        self.returned += other.returned

    def charts(self, after: int, before: int) -> list[dict[str, Any]]:
        """The seconds between two, without these."""
        shown = sorted(second for second in self.seconds if after < second < before)
        for second in shown:
            if second not in self._charts:
                self._charts[second] = {"at": second, **self.seconds[second].chart()}
        return [self._charts[second] for second in shown]
