"""What the daemon counts.

The hot path adds to plain integers; everything that Prometheus wants (names, labels, text) is made when somebody
scrapes. Values that can be looked up then, such as the number of topics, are asked for then.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry

from wsd import __version__, logs
from wsd.protocol.codes import UNAUTHORIZED, Close, ErrorCode, HandshakeReason

__all__ = ["Gauges", "Histogram", "Metrics", "registry"]

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
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self.counts, strict=True):
            total += count
            rows.append((bound, total))
        return rows


class Metrics:
    """The counters of one worker. Each counts from the start of the process."""

    def __init__(self) -> None:
        self.messages = 0  # received from Redis
        self.deliveries = 0  # messages handed to connections
        self.writes = 0  # joined writes that carried them
        self.bytes_out = 0  # bytes of those writes
        self.large_messages = 0  # longer than a quarter of max_backlog
        self.gap_notices = 0  # gap messages handed to connections
        self.gaps = 0  # times that the link to Redis was lost with channels subscribed
        self.link_connects = 0  # times that the link to Redis was made
        self.link_failures = 0  # times that it could not be made, or was lost
        self.link_overruns = 0  # times that Redis cut the link off for its output buffer
        self.probes_lost = 0  # probes that did not come back, so that the link was given up
        self.dead_subscriptions = 0  # subscriptions that Redis had confirmed and did not have any more
        self.internal_errors = 0  # what could not be handled: a bug, see the log
        self.connections = 0  # accepted
        self.handshakes = 0  # completed
        # Known labels begin with 0, so that the first of a kind is a change that an alert can see.
        self.slow_consumers = Counter({"bytes": 0, "age": 0})  # by the bound that was passed
        self.dropped_bytes = 0  # what waited for slow consumers when they were given up
        self.ping_timeouts = 0
        self.close_codes = Counter(dict.fromkeys(map(str, (*Close, 1006)), 0))  # of connections that had a session
        self.refused_requests = Counter[str](dict.fromkeys((*ErrorCode, UNAUTHORIZED), 0))  # by code
        self.refused_handshakes = Counter[str](dict.fromkeys(HandshakeReason, 0))  # by reason
        self.reloads = Counter({"done": 0, "failed": 0})  # by result
        self.handshake_seconds = Histogram(_HANDSHAKE)
        self.pass_seconds = Histogram(_FINE)
        self.loop_lag_seconds = Histogram(_FINE)

    @property
    def log_lines_lost(self) -> int:
        """Lines of the log that could not be written."""
        return logs.lost()


Gauges = Callable[[], dict[str, float]]
"""Returns what can be looked up at scrape time, by the names in :data:`_GAUGES`, sessions as ``sessions_STATE``."""

_COUNTERS = {
    "messages": "messages received from Redis",
    "deliveries": "messages handed to connections",
    "writes": "joined writes of messages to connections; deliveries / writes tells how many frames one write joins",
    "bytes_out": "bytes of those writes",
    "large_messages": "messages longer than a quarter of max_backlog, of which a client may be only a few behind",
    "gap_notices": "gap messages handed to connections",
    "gaps": "channels on which messages may have been missed, counted each time",
    "link_connects": "times that the link to Redis was made",
    "link_failures": "times that the link to Redis could not be made, or was lost",
    "link_overruns": "times that Redis cut off the link because its output buffer passed the limit for Pub/Sub",
    "probes_lost": "delivery probes that did not come back in time, so that the link was given up",
    "dead_subscriptions": "subscriptions that Redis had confirmed and was found not to have any more",
    "internal_errors": "things that could not be handled, because of a bug; the log has it",
    "connections": "connections accepted",
    "handshakes": "opening handshakes completed",
    "dropped_bytes": "bytes that waited for slow consumers when they were given up",
    "ping_timeouts": "connections aborted because a ping was not answered",
    "log_lines_lost": "lines of the log that were lost, because nobody read it or the disk was full",
}

_LABELLED = {
    "slow_consumers": ("bound", "connections given up because their backlog passed a bound"),
    "close_codes": (
        "code",
        "connections closed, by close code; 1006: without a close frame, other: with a code of the client's own",
    ),
    "refused_requests": ("code", "requests refused, by the error's code"),
    "reloads": ("result", "times that SIGHUP made the daemon read its settings anew, by result: done or failed"),
}

_HISTOGRAMS = {
    "handshake_seconds": "from accepting a connection to its greeting",
    "pass_seconds": "from a pass's first write to its last; slices of long passes included",
    "loop_lag_seconds": "how late a timer of the event loop ran",
}

_GAUGES = {
    "open_connections": "connections now, handshakes in progress included",
    "max_connections": "connections that are let in at a time: max_connections, or what the descriptors allow",
    "topics": "topics that somebody is interested in now",
    "lagging_connections": "connections that can't take what is due to them as fast as it comes, now",
    "backlog_bytes": "bytes that sockets have not taken yet; a buffer that several connections share counts for each",
    "redis_link_up": "1 if the link to Redis is up; of a cluster, every link that is needed",
    "redis_links": "links to Redis that are up: one, or one for each node of a cluster that is needed",
    "redis_links_unprobed": "links on which delivery can't be probed, because Redis refuses it; /readyz says why",
    "redis_probe_age_seconds": "time since the last delivery probe came back, of the link where it is longest",
    "redis_probe_round_trip_seconds": "time that the last delivery probe took, of the link where it took longest",
    "redis_channels_wanted": "channels that should be subscribed at Redis",
    "redis_channels_confirmed": "channels that Redis has confirmed",
    "tasks": "asyncio tasks; a few, however many clients there are",
    "draining": "1 if the daemon is draining",
}


class _Scrape(Collector):
    def __init__(self, metrics: Metrics, gauges: Gauges) -> None:
        self._metrics = metrics
        self._gauges = gauges

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]:
        metrics = self._metrics
        for name, text in _COUNTERS.items():
            yield CounterMetricFamily(f"wsd_{name}", text, value=getattr(metrics, name))
        for name, (label, text) in _LABELLED.items():
            family = CounterMetricFamily(f"wsd_{name}", text, labels=[label])
            for value, count in sorted(getattr(metrics, name).items()):
                family.add_metric([str(value)], count)
            yield family
        yield self._refused_handshakes()
        for name, text in _HISTOGRAMS.items():
            histogram = getattr(metrics, name)
            yield HistogramMetricFamily(f"wsd_{name}", text, buckets=histogram.buckets(), sum_value=histogram.sum)
        gauges = self._gauges()
        sessions = GaugeMetricFamily("wsd_sessions", "sessions now, by state", labels=["state"])
        for state in ("anonymous", "authenticated"):
            sessions.add_metric([state], gauges[f"sessions_{state}"])
        yield sessions
        for name, text in _GAUGES.items():
            yield GaugeMetricFamily(f"wsd_{name}", text, value=gauges[name])
        info = GaugeMetricFamily("wsd_info", "the version that runs", labels=["version"])
        info.add_metric([__version__], 1)
        yield info

    def _refused_handshakes(self) -> CounterMetricFamily:
        text = "opening handshakes refused, by reason, with the HTTP status of the answer, or none"
        family = CounterMetricFamily("wsd_refused_handshakes", text, labels=["reason", "status"])
        for reason in HandshakeReason:
            family.add_metric([reason, str(reason.status or "none")], self._metrics.refused_handshakes[reason])
        return family


def registry(metrics: Metrics, gauges: Gauges) -> CollectorRegistry:
    """Make the registry that a scrape reads."""
    registry = CollectorRegistry()
    registry.register(_Scrape(metrics, gauges))
    ProcessCollector(registry=registry)  # CPU, memory and descriptors of the process
    return registry
