"""Measures one load on one server: a fresh server, a fresh generator, one result.

How a fan-out is measured:

1. The server starts, all clients subscribe (which is timed), and memory is read while they are idle.
2. The publisher starts. After the warm-up the counters of all processes are read: the clock runs.
3. The publisher ends, and everything is waited for that was published. Only then does the clock stop, at the last
   message, so a server doesn't look faster for what it has still to send. One that is far behind is cut off.
4. Messages on all connections are compared with what was published; every message of the sampled connections is
   checked.

The server has a core for itself; Redis, publisher and generator share the others. CPU per delivery is the server's own
CPU time (all its processes, user and system mode) over the deliveries in the window: it is what a noisy machine
disturbs least. A run is *disturbed* when others used more than 15 % of a core. It is *generator-bound*, and its rates
and latencies are no statement about the server, when the generator used more than 85 % of its core or the cores of the
load were more than 95 % busy.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bench.load.control import Publisher, Shard, Stops
from bench.load.histogram import Histogram
from bench.load.publisher import Order
from bench.load.shard import Plan
from bench.servers.process import RedisServer
from bench.servers.server import KEY, Server

__all__ = ["GENERATOR_LIMIT", "Cores", "Load", "Result", "burst", "fan_out", "soak", "storm", "verdicts"]

GENERATOR_LIMIT = 0.85
"""Share of its core above which the generator's numbers are its own limits."""

LOAD_LIMIT = 0.95
"""Share of the cores of the load above which its processes wait for each other."""

DISTURBED = 0.15
"""Share of a core that others may use: the system's own housekeeping is some per cent of it."""

SETTLE = 0.1
"""Seconds in which a server may tidy up what the handshakes left, before its memory is read."""

SAMPLES = 60
"""Looks at what a soaking server holds: a short soak is looked at often enough to have a trend, and a long one not so
often that looking (PSS of a large process takes milliseconds of its core's kernel time) becomes a load."""

HELD = 0.98
"""Share of the offered rate from which on it counts as held: starting and draining cost a little."""

Result = dict[str, Any]
"""What one measurement found: JSON."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Which cores are for whom. Empty: any."""

    server: tuple[int, ...]
    load: tuple[int, ...]

    @classmethod
    def split(cls) -> Cores:
        """The first core for the server, the others for the load; if there is only one, all for all."""
        first, *others = sorted(os.sched_getaffinity(0))
        return cls((first,), tuple(others)) if others else cls((), ())


@dataclass(frozen=True, slots=True)
class Load:
    """What a server is asked to do."""

    connections: int = 1000
    topics: int = 1
    topics_each: int = 1  # topics per connection
    rate: float = 100.0  # messages per second, over all topics
    size: int = 100  # bytes of a payload
    seconds: float = 5.0  # that are measured
    warm_up: float = 0.5  # seconds before
    drain: float = 10.0  # seconds after, at most

    @property
    def deliveries_per_second(self) -> float:
        """What is asked of the server."""
        return self.rate * self.connections * self.topics_each / self.topics


@dataclass(slots=True)
class _Reading:
    """The counters of all processes at one time."""

    at: int  # nanoseconds
    server: float  # CPU seconds
    redis: float
    busy: tuple[float, float]  # CPU seconds of the server's core and of the load's, whoever used them
    shard: Result


class Bench:
    """A server, a Redis and a generator that belong together."""

    def __init__(self, kind: type[Server], cores: Cores) -> None:
        self.cores = cores
        self.redis = RedisServer(cores.load)
        self.server = kind(self.redis, cores.server)
        self.shard: Shard | None = None

    def __enter__(self) -> Bench:
        try:
            self.shard = Shard(self.cores.load)  # it starts on its own core meanwhile
            self.redis.start()
            self.server.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        if self.shard is not None:
            self.shard.stop()
        self.server.stop()
        self.redis.stop()

    def plan(self, load: Load, group: str = "listeners", **changes: Any) -> Plan:
        """A group of listeners to the server."""
        per_connection = max(load.rate * load.topics_each / load.topics, 0.001)
        plan = Plan(
            group=group,
            count=load.connections,
            addresses=[("127.0.0.1", self.server.port)],
            dialect=self.server.dialect,
            topics=load.topics,
            topics_each=load.topics_each,
            key=KEY if self.server.dialect == "wsd" else "",
            # Looking at a message costs 2 µs: a few per cent of a core are for that.
            sampled=int(min(max(20_000 / per_connection, 4), 50, load.connections)),
        )
        return replace(plan, **changes)

    def publisher(self, load: Load, seconds: float) -> Publisher:
        """A publisher that is ready."""
        order = Order(self.server.feed, self.server.feed_port, load.rate, load.topics, load.size, seconds)
        return Publisher(order, self.cores.load)

    def read(self) -> _Reading:
        """Read all counters."""
        assert self.shard is not None
        shard = self.shard.stats()
        return self._reading(shard)

    def _reading(self, shard: Result) -> _Reading:
        busy = _core_busy(self.cores.server), _core_busy(self.cores.load)
        return _Reading(shard["at"], self.server.cpu(), self.redis.cpu(), busy, shard)


def fan_out(kind: type[Server], load: Load, cores: Cores) -> Result:
    """Measure a fan-out.

    Raises:
        ServerError: if the server doesn't start.
        GeneratorError: if a generator fails.
    """
    with Bench(kind, cores) as bench:
        assert bench.shard is not None
        empty, cpu = bench.server.memory(), bench.server.cpu()
        opened = bench.shard.open(bench.plan(load))
        result: Result = {"server": kind.name, "kind": "fan-out", "load": asdict(load)}
        result["setup"] = _setup(opened, bench.server.cpu() - cpu, load.connections)
        time.sleep(SETTLE)
        result["memory"] = _memory(bench.server, empty, load.connections)
        with bench.publisher(load, load.warm_up + load.seconds) as publisher:
            publisher.start()
            time.sleep(load.warm_up)
            before = bench.read()
            published = publisher.result()
            drained = bench.shard.drain(published["published"], load.topics, timeout=load.drain)
            after = bench._reading(drained)
        result |= _window(load, before, after, published)
        result["checks"] = _checks(drained)
        result["checks"]["complete"] = drained["groups"]["listeners"]["messages"] == drained["expected"]
        return result


def _setup(opened: Result, cpu: float, count: int) -> Result:
    setups = Histogram(opened["setups"])
    return {
        "connections": count,
        "subscribed": opened["subscribed"],
        "failures": opened["failures"],
        "seconds": opened["seconds"],
        "cpu_per_session_us": cpu / max(opened["subscribed"], 1) * 1e6,
        "generator_share": opened["cpu"] / opened["seconds"] if opened["seconds"] else 0.0,
        "latency_us": percentiles(setups),
        "histogram": setups.dump(),
    }


def _memory(server: Server, empty: int, connections: int) -> Result:
    full = server.memory()
    return {"empty": empty, "full": full, "per_connection": (full - empty) / max(connections, 1)}


def _window(load: Load, before: _Reading, after: _Reading, published: Result) -> Result:
    """What happened between two readings."""
    old, new = before.shard["groups"]["listeners"], after.shard["groups"]["listeners"]
    deliveries, reads = new["messages"] - old["messages"], new["reads"] - old["reads"]
    last = max(new["last_message"], before.at + 1)
    seconds = (last - before.at) / 1e9
    elapsed = (after.at - before.at) / 1e9
    latencies = Histogram(new["latencies"]).since(Histogram(old["latencies"]))
    server = after.server - before.server
    generator = (after.shard["cpu"] - before.shard["cpu"]) / elapsed
    publisher = published["cpu"] / published["seconds"]
    redis = (after.redis - before.redis) / elapsed
    behind = Histogram(published["behind"])
    return {
        "deliveries": deliveries,
        "seconds": seconds,
        "rate": deliveries / seconds,
        "offered": load.deliveries_per_second,
        "held": deliveries / seconds >= HELD * load.deliveries_per_second,
        "cpu_per_delivery_us": server / deliveries * 1e6 if deliveries else None,
        "server_share": server / elapsed,
        "joined": deliveries / reads if reads else None,
        "bytes_per_delivery": (new["bytes"] - old["bytes"]) / deliveries if deliveries else None,
        "latency_us": percentiles(latencies),
        "histogram": latencies.dump(),
        "shares": {"generator": generator, "publisher": publisher, "redis": redis},
        "publisher_late_us": percentiles(behind),
        "disturbance": _disturbance(before, after, (generator + publisher) * elapsed),
    }


def _disturbance(before: _Reading, after: _Reading, generators: float) -> float:
    """Share of a core that others used: of the server's core, or of the load's, whichever is more.

    Args:
        before: one reading.
        after: the next.
        generators: CPU seconds that publisher and generators used in between.
    """
    server = after.busy[0] - before.busy[0] - (after.server - before.server)
    load = after.busy[1] - before.busy[1] - (after.redis - before.redis) - generators
    return max(server, load, 0.0) / (after.at - before.at) * 1e9


def _checks(stats: Result) -> Result:
    listeners = stats["groups"]["listeners"]
    names = (
        "sampled",
        "checked",
        "lost",
        "duplicated",
        "out_of_order",
        "broken",
        "closes",
        "notes",
        "failures",
        "messages",
    )
    return {name: listeners[name] for name in names} | {"expected": stats.get("expected")}


def verdicts(result: Result, cores: Cores) -> list[str]:
    """What a reader must know before believing a result; empty if nothing."""
    said = []
    if shares := result.get("shares"):
        cores_of_load = len(cores.load) or os.cpu_count() or 1
        if shares["generator"] > GENERATOR_LIMIT or sum(shares.values()) > LOAD_LIMIT * cores_of_load:
            said.append("generator-bound")
    if result.get("setup", {}).get("generator_share", 0.0) > GENERATOR_LIMIT and result["kind"] == "storm":
        said.append("generator-bound")
    if result.get("disturbance", 0.0) > DISTURBED:
        said.append("disturbed")
    if checks := result.get("checks"):
        if checks["duplicated"] or checks["out_of_order"]:
            said.append("out of sequence")
        if checks["lost"] and checks["complete"]:
            said.append("a sampled connection lost messages")
        if not checks["complete"]:
            lost = (checks["expected"] or 0) - checks["messages"]
            said.append(f"{lost} not delivered in time" if lost > 0 else f"{-lost} delivered twice")
        if checks["broken"]:
            said.append("connections broke")
    if result.get("setup", {}).get("failures"):
        said.append("clients could not subscribe")
    if result.get("held") is False:
        said.append("rate not held")
    return said


def storm(kind: type[Server], load: Load, standing: Load | None, cores: Cores) -> Result:
    """Let everyone come at once.

    Args:
        kind: the server.
        load: ``connections`` is who comes.
        standing: clients that are there already, and their traffic; their latency before and meanwhile is compared.
        cores: which cores are for whom.
    """
    with Bench(kind, cores) as bench:
        assert bench.shard is not None
        result: Result = {"server": kind.name, "kind": "storm", "load": asdict(load)}
        if standing is None:
            empty, cpu = bench.server.memory(), bench.server.cpu()
            opened = bench.shard.open(bench.plan(load, "storm", from_start=False, sampled=0))
            result["setup"] = _setup(opened, bench.server.cpu() - cpu, load.connections)
            time.sleep(SETTLE)
            result["memory"] = _memory(bench.server, empty, load.connections)
            return result
        result["standing"] = asdict(standing)
        bench.shard.open(bench.plan(standing, timeout=60.0))
        # A generator of its own: those who come mustn't delay the eyes of those who are there.
        with bench.publisher(standing, 600) as publisher, Shard(cores.load) as crowd:
            publisher.start()
            time.sleep(standing.warm_up)
            start = bench.read()
            time.sleep(standing.seconds)
            calm = bench.read()
            # On a topic of their own, on which nothing is published: their coming is measured, not their traffic.
            changes = {"from_start": False, "sampled": 0, "topics": 1, "topics_each": 1, "first_topic": standing.topics}
            opened = crowd.open(bench.plan(load, "storm", **changes))
            rough = bench.read()
            publisher.halt()
            published = publisher.result()
            drained = bench.shard.drain(published["published"], standing.topics)
        seconds = (rough.at - calm.at) / 1e9
        result["setup"] = _setup(opened, 0.0, load.connections)
        result["setup"]["cpu_per_session_us"] = None  # can't be told from that of the traffic
        histograms = [Histogram(reading.shard["groups"]["listeners"]["latencies"]) for reading in (start, calm, rough)]
        result["calm_us"] = percentiles(histograms[1].since(histograms[0]))
        result["storm_us"] = percentiles(histograms[2].since(histograms[1]))
        result["shares"] = {
            "generator": (rough.shard["cpu"] - calm.shard["cpu"] + opened["cpu"]) / seconds,
            "publisher": published["cpu"] / published["seconds"],
            "redis": (rough.redis - calm.redis) / seconds,
        }
        generators = (result["shares"]["generator"] + result["shares"]["publisher"]) * seconds
        result["disturbance"] = _disturbance(calm, rough, generators)
        result["checks"] = _checks(drained)
        result["checks"]["complete"] = drained["groups"]["listeners"]["messages"] == drained["expected"]
        return result


BURST_SECONDS = 0.001
"""Seconds over which the messages of a burst are due: at once, as nothing takes less."""


def burst(kind: type[Server], load: Load, cores: Cores, *, messages: int, stalled: int) -> Result:
    """Publish many messages at once, over topics in turn: what does that cost in time, in memory, and in messages?

    Args:
        kind: the server.
        load: who listens.
        cores: which cores are for whom.
        messages: how many.
        stalled: clients that listen to the same, and read nothing while it lasts.
    """
    with Bench(kind, cores) as bench:
        assert bench.shard is not None
        shard, server = bench.shard, bench.server
        shard.open(bench.plan(load))
        if stalled:
            changes = {"slow": 1, "receive_buffer": 4096}
            shard.open(bench.plan(load, "stalled", count=stalled, from_start=False, sampled=0, **changes))
        time.sleep(SETTLE)
        with Stops(server.port, cores.load) as stops:
            server.forget_peak()
            before, cpu = server.peak(), server.cpu()
            hurry = replace(load, rate=messages / BURST_SECONDS)
            with bench.publisher(hurry, BURST_SECONDS) as publisher:
                began = time.monotonic_ns()
                publisher.start()
                published = publisher.result()
                drained = shard.drain(published["published"], load.topics, quiet=5.0, timeout=load.drain)
            found = stops.result()
        result: Result = {"server": kind.name, "kind": "burst", "load": asdict(load)}
        result |= {"messages": messages, "stalled": stalled, "stops": found, "cpu": server.cpu() - cpu}
        result["memory_growth"] = server.peak() - before
        listeners = drained["groups"]["listeners"]
        result["seconds"] = max(listeners["last_message"] - began, 0) / 1e9
        result["checks"] = _checks(drained)
        result["checks"]["complete"] = listeners["messages"] == drained["expected"]
        return result


def soak(kind: type[Server], load: Load, cores: Cores, *, churn: float, slow: int) -> Result:
    """Traffic for a long time, while clients come and go, and some don't keep up.

    Args:
        kind: the server.
        load: who listens, and for how long.
        cores: which cores are for whom.
        churn: clients that come and go per second; a tenth of the connections are such.
        slow: clients that read only a trickle.
    """
    with Bench(kind, cores) as bench:
        assert bench.shard is not None
        shard, server = bench.shard, bench.server
        shard.open(bench.plan(load))
        visitors = max(load.connections // 10, 1)
        shard.open(bench.plan(load, "churners", count=visitors, from_start=False, sampled=0))
        shard.ask("churn", group="churners", rate=churn)
        if slow:
            changes = {"slow": 2000, "receive_buffer": 4096}
            shard.open(bench.plan(load, "slow", count=slow, from_start=False, sampled=0, **changes))
        samples: list[Result] = []
        with bench.publisher(load, load.warm_up + load.seconds) as publisher:
            publisher.start()
            time.sleep(load.warm_up)
            before = bench.read()
            begin, every = time.monotonic(), load.seconds / SAMPLES
            while (passed := time.monotonic() - begin) < load.seconds - every:
                samples.append({"at": passed} | _held(server))
                time.sleep(every)
            published = publisher.result()
            drained = shard.drain(published["published"], load.topics, timeout=load.drain)
            after = bench._reading(drained)
        result: Result = {"server": kind.name, "kind": "soak", "load": asdict(load), "samples": samples}
        result |= _window(load, before, after, published)
        result["checks"] = _checks(drained)
        result["checks"]["complete"] = drained["groups"]["listeners"]["messages"] == drained["expected"]
        result["churned"] = drained["groups"]["churners"]["left"]
        result["churn_failures"] = drained["groups"]["churners"]["failures"]
        if slow:
            result["slow"] = {name: drained["groups"]["slow"][name] for name in ("broken", "closes", "connections")}
        # What the traffic beside the listeners costs is in the CPU, not in the deliveries.
        for name in ("memory", "descriptors", "threads", "tasks"):
            result[f"{name}_growth"] = _growth([sample[name] for sample in samples if sample[name] is not None])
        return result


def _held(server: Server) -> Result:
    """What a server holds now."""
    return {
        "memory": server.memory(),
        "descriptors": server.descriptors(),
        "threads": server.threads(),
        "tasks": server.tasks(),
    }


def _growth(values: Sequence[float]) -> float | None:
    """How much the last fifth is above the second fifth: the first is warm-up. None if there are too few values."""
    fifth = len(values) // 5
    if not fifth:
        return None
    return sum(values[-fifth:]) / fifth - sum(values[fifth : 2 * fifth]) / fifth


def percentiles(histogram: Histogram) -> dict[str, float | None]:
    """The percentiles that are reported, in microseconds."""
    return {name: histogram.percentile(float(name[1:])) for name in ("p50", "p90", "p99", "p99.9", "p100")}


def _core_busy(cores: Sequence[int]) -> float:
    """CPU seconds, of whoever, that these cores have spent since the machine started."""
    total = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *columns = line.split()
        if name in {f"cpu{core}" for core in cores}:
            # proc_stat(5): user nice system idle iowait irq softirq steal
            total += sum(map(int, columns[:3] + columns[5:8]))
    return total / os.sysconf("SC_CLK_TCK")
