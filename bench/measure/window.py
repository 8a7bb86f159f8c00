"""What happened between two readings, and how it is told."""

from __future__ import annotations

from bench.load.histogram import Histogram
from bench.measure.rig import Reading
from bench.measure.verdicts import HELD
from bench.measure.work import Load, Result
from bench.servers.server import Server

__all__ = ["TAIL", "checks", "disturbance", "memory", "percentiles", "setup", "window"]

TAIL = 10
"""Values that must lie above a percentile for it to be told: that of fewer is the luck of the day."""


def percentiles(histogram: Histogram) -> dict[str, float | None]:
    """The percentiles that are reported, in microseconds, and the most; None for those that rest on too few values."""
    told = {f"p{percent:g}": histogram.percentile(percent, above=TAIL) for percent in (50, 90, 99, 99.9)}
    return told | {"max": histogram.percentile(100)}


def setup(opened: Result, cpu: float, count: int) -> Result:
    """How clients came to be subscribed.

    Args:
        opened: what the generator answered.
        cpu: seconds that the server spent meanwhile.
        count: how many came.
    """
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


def memory(server: Server, empty: int, connections: int) -> Result:
    """What a server holds for its connections, in bytes.

    Args:
        server: the server, with all of them.
        empty: what it held before the first.
        connections: how many it has.
    """
    full = server.memory()
    return {"empty": empty, "full": full, "per_connection": (full - empty) / max(connections, 1)}


def window(load: Load, before: Reading, after: Reading, published: Result) -> Result:
    """What happened between two readings.

    Args:
        load: what was asked.
        before: the reading at which the clock began to run.
        after: the one when everything had come.
        published: what the publisher told.
    """
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
        "publisher_late_us": percentiles(Histogram(published["behind"])),
        **disturbance(before, after, (generator + publisher) * elapsed),
    }


def disturbance(before: Reading, after: Reading, generators: float) -> Result:
    """What others took meanwhile, as shares of a core: of the server's cores, or of the load's, whichever is more.

    Args:
        before: one reading.
        after: the next.
        generators: CPU seconds that publisher and generators used in between.
    """
    seconds = (after.at - before.at) / 1e9
    server, load = (
        (later.used - sooner.used, later.stolen - sooner.stolen)
        for sooner, later in ((before.server_cores, after.server_cores), (before.load_cores, after.load_cores))
    )
    others_at_server = server[0] - (after.server - before.server)
    others_at_load = load[0] - (after.redis - before.redis) - generators
    if before.shared:  # what one side used is no disturbance of the other
        others_at_server = others_at_load = others_at_load - (after.server - before.server)
    return {
        "disturbance": max(others_at_server, others_at_load, 0.0) / seconds,
        "stolen": max(server[1], load[1]) / seconds,  # the part of it that other machines of the host took
    }


def checks(stats: Result) -> Result:
    """What came, held against what was published.

    Args:
        stats: what the generator told when everything had come.
    """
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
    expected = stats.get("expected")
    return {name: listeners[name] for name in names} | {
        "expected": expected,
        "complete": listeners["messages"] == expected,
    }
