"""What the daemon counts, and what it can look up: each declared once, with the text that Prometheus shows.

The hot path adds to plain integers; names, labels and texts matter only when somebody scrapes, and that is
:mod:`wsd.admin.exposition`. A field's type says what kind of metric it is::

    in Metrics   | int             | a counter
                 | Counter[str]    | a counter for each value of a label
                 | Histogram       | a histogram
    in Gauges    | int or float    | a gauge
                 | dict[str, int]  | a gauge for each value of a label

Its annotation holds the text, and behind the text the names of the labels, if there are any. That of a gauge says, too,
what becomes of the gauges of several workers; counters and histograms are added up.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from enum import Enum
from functools import partial
from typing import Annotated, Any, NamedTuple, get_type_hints

from wsd.codes import UNAUTHORIZED, Close, ErrorCode, HandshakeReason, Move, Restart

__all__ = ["Across", "Family", "Gauges", "Histogram", "Metrics", "families"]

# Seconds. A pass over a few connections takes microseconds, one over 20,000 takes 0.1 s; a loop that is 0.25 s late is
# in trouble.
_FINE = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
# Seconds from accepting a connection to its greeting: a round trip of the client's network and its request.
_HANDSHAKE = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Histogram:
    """Counts observations by size.

    Args:
        bounds: the upper bounds of the buckets, in ascending order; one bucket more takes what is larger.
    """

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def buckets(self) -> list[tuple[str, float]]:
        """The cumulative counts as Prometheus wants them."""
        total = 0
        rows: list[tuple[str, float]] = []
        for bound, count in self._rows():
            total += count
            rows.append((bound, total))
        return rows

    def dump(self) -> dict[str, Any]:
        """Return what was counted, in values that JSON knows."""
        return {"counts": dict(self._rows()), "sum": self.sum}

    def add(self, dump: Mapping[str, Any]) -> None:
        """Add what another has counted, perhaps with other bounds: then its observations count for what they were at
        the most.

        Args:
            dump: what :meth:`dump` has returned there.
        """
        counts, total = dump.get("counts"), dump.get("sum")
        for bound, count in _whole(counts).items():
            with suppress(ValueError):  # a bound that is no number
                self.counts[bisect_left(self._bounds, float(bound))] += count
        if isinstance(total, (int, float)):
            self.sum += total

    def _rows(self) -> Iterator[tuple[str, int]]:
        """The bounds, and the counts between them."""
        return zip((*map(str, self._bounds), "+Inf"), self.counts, strict=True)


def _counters(*labels: str) -> Callable[[], Counter[str]]:
    """Known labels begin with 0, so that the first of a kind is a change that an alert can see."""
    return partial(Counter, dict.fromkeys(labels, 0))


@dataclass(slots=True)
class Metrics:
    """The counters of one process. Each counts from the start of the process; the supervisor has those of its own."""

    messages: Annotated[int, "messages received from Redis"] = 0
    deliveries: Annotated[int, "messages handed to connections"] = 0
    writes: Annotated[
        int, "joined writes of messages to connections; deliveries / writes tells how many frames one write joins"
    ] = 0
    bytes_out: Annotated[int, "bytes of messages written to connections"] = 0
    large_messages: Annotated[
        int, "messages longer than a quarter of max_backlog; a client that is a few of them behind is closed"
    ] = 0
    gap_notices: Annotated[int, "gap messages handed to connections"] = 0
    gaps: Annotated[int, "channels on which messages may have been missed, counted each time"] = 0
    link_connects: Annotated[int, "times that the link to Redis was made"] = 0
    link_failures: Annotated[int, "times that the link to Redis could not be made, or was lost"] = 0
    link_overruns: Annotated[
        int, "times that Redis cut off the link because its output buffer passed the limit for Pub/Sub"
    ] = 0
    probes_lost: Annotated[int, "delivery probes that did not come back in time, so that the link was given up"] = 0
    dead_subscriptions: Annotated[int, "subscriptions that Redis had confirmed and then had forgotten"] = 0
    internal_errors: Annotated[int, "things that could not be handled, because of a bug; the log has it"] = 0
    connections: Annotated[int, "connections accepted"] = 0
    handshakes: Annotated[int, "opening handshakes completed"] = 0
    dropped_bytes: Annotated[int, "bytes that waited for slow consumers when they were given up"] = 0
    ping_timeouts: Annotated[int, "connections aborted because a ping was not answered"] = 0
    log_lines_lost: Annotated[int, "lines of the log that were lost, because nobody read it or the disk was full"] = 0
    slow_consumers: Annotated[Counter[str], "connections given up because their backlog passed a bound", "bound"] = (
        field(default_factory=_counters("bytes", "age"))
    )
    close_codes: Annotated[
        Counter[str],
        "connections closed, by close code; 1006: without a close frame, other: with a code of the client's own",
        "code",
    ] = field(default_factory=_counters(*map(str, Close), "1006"))
    refused_requests: Annotated[Counter[str], "requests refused, by the error's code", "code"] = field(
        default_factory=_counters(*ErrorCode, UNAUTHORIZED)
    )
    reloads: Annotated[
        Counter[str],
        "times that SIGHUP made the daemon read its settings again, by result: done or failed",
        "result",
    ] = field(default_factory=_counters("done", "failed"))
    moves: Annotated[
        Counter[str],
        "connections that moved to another process of this host, or could not, by result",
        "result",
    ] = field(default_factory=_counters(*Move))
    refused_handshakes: Annotated[
        Counter[str],
        "opening handshakes refused, by reason, with the HTTP status of the answer, or none",
        "reason",
        "status",  # which follows from the reason
    ] = field(default_factory=_counters(*HandshakeReason))
    worker_restarts: Annotated[
        Counter[str], "workers that were started in the place of one that nobody had sent away, by reason", "reason"
    ] = field(default_factory=_counters(*Restart))
    handshake_seconds: Annotated[Histogram, "seconds from accepting a connection to its greeting"] = field(
        default_factory=partial(Histogram, _HANDSHAKE)
    )
    pass_seconds: Annotated[
        Histogram, "seconds from a pass's first write to its last, slices of long passes included"
    ] = field(default_factory=partial(Histogram, _FINE))
    loop_lag_seconds: Annotated[Histogram, "seconds by which a timer of the event loop ran late"] = field(
        default_factory=partial(Histogram, _FINE)
    )

    def dump(self) -> dict[str, Any]:
        """Return everything that was counted, in values that JSON knows."""
        return {counted.name: _plain(getattr(self, counted.name)) for counted in fields(self)}

    def add(self, dump: Mapping[str, Any]) -> None:
        """Add what another process has counted, perhaps one of another version: what is not known here is left out.

        Args:
            dump: what :meth:`dump` has returned there.
        """
        for name in dump.keys() & {counted.name for counted in fields(self)}:
            match getattr(self, name), dump[name]:
                case Counter() as counts, Mapping() as more:
                    counts.update(_whole(more))
                case Histogram() as histogram, Mapping() as more:
                    histogram.add(more)
                case int() as count, int() as more:
                    setattr(self, name, count + more)


def _whole(counts: object) -> dict[str, int]:
    """The whole numbers among what another process has told."""
    given = counts if isinstance(counts, Mapping) else {}
    return {label: count for label, count in given.items() if isinstance(count, int)}


def _plain(counted: object) -> object:
    match counted:
        case Mapping() as counts:
            return {str(label): count for label, count in counts.items()}
        case Histogram() as histogram:
            return histogram.dump()
        case float() as value:
            return value if math.isfinite(value) else None  # JSON has no NaN
        case count:
            return count


class Across(Enum):
    """What is shown of the gauges of several workers."""

    SUM = "sum"
    """They are added up, those of a worker that is being replaced included: it still has clients."""

    SHARE = "share"
    """They are added up; of a worker that is being replaced and the one in its place, one counts."""

    EACH = "each"
    """A sum would say nothing: each is shown, with the label ``worker``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauges:
    """What a worker looks up when somebody asks."""

    sessions: Annotated[Mapping[str, int], "sessions now, by state", Across.SUM, "state"]
    open_connections: Annotated[int, "connections now, handshakes in progress included", Across.SUM]
    max_connections: Annotated[
        int, "connections that are let in at a time: max_connections, or what the descriptors allow", Across.SHARE
    ]
    topics: Annotated[int, "topics that the clients of a worker are interested in now", Across.EACH]
    lagging_connections: Annotated[
        int, "connections that can't take what is due to them as fast as it comes, now", Across.SUM
    ]
    backlog_bytes: Annotated[
        int,
        "bytes that wait because sockets have not taken them; what several connections share counts for each",
        Across.SUM,
    ]
    redis_link_up: Annotated[
        bool, "1 if the link to Redis is up; for a Cluster, if every link that is needed is up", Across.EACH
    ]
    redis_links: Annotated[
        int,
        "links to Redis that are up: of each worker one, or one for each node of a cluster that is needed",
        Across.SUM,
    ]
    redis_links_unprobed: Annotated[
        int, "links on which delivery can't be probed, because Redis refuses it; /readyz says why", Across.SUM
    ]
    redis_probe_age_seconds: Annotated[
        float, "time since the last delivery probe came back, of the link where it is longest", Across.EACH
    ]
    redis_probe_round_trip_seconds: Annotated[
        float, "time that the last delivery probe took, of the link where it took longest", Across.EACH
    ]
    redis_channels_wanted: Annotated[int, "channels that should be subscribed at Redis", Across.SUM]
    redis_channels_confirmed: Annotated[int, "channels that Redis has confirmed", Across.SUM]
    tasks: Annotated[int, "asyncio tasks; a few, however many clients there are", Across.EACH]
    draining: Annotated[bool, "1 while the daemon is draining, else 0", Across.EACH]

    def dump(self) -> dict[str, Any]:
        """Return everything that was looked up, in values that JSON knows."""
        return {gauge.name: _plain(getattr(self, gauge.name)) for gauge in fields(self)}


class Family(NamedTuple):
    """How a field is shown: what Prometheus calls a metric family."""

    name: str  # the field's, and with ``wsd_`` before it the metric's
    text: str
    labels: tuple[str, ...]
    across: Across  # what is shown of several workers


def families(declared: type[Metrics | Gauges]) -> list[Family]:
    """Return what is declared, in its order."""
    hints = get_type_hints(declared, include_extras=True)
    return [_family(name, *hint.__metadata__) for name, hint in hints.items()]


def _family(name: str, text: str, *more: str | Across) -> Family:
    labels = tuple(label for label in more if isinstance(label, str))
    return Family(name, text, labels, next((across for across in more if isinstance(across, Across)), Across.SUM))
