"""Everyone comes at once."""

from __future__ import annotations

from collections.abc import Iterator

from bench.load.histogram import Histogram
from bench.measure.storm import Standing, Storm
from bench.measure.work import Load, Result
from bench.report.plots import Bar, Bars, Plot
from bench.rows.case import Case
from bench.rows.draw import bars, percentiles
from bench.rows.found import Found, ratio
from bench.rows.goal import Goal
from bench.rows.row import Row

__all__ = ["RAMP", "STANDING", "STORM"]

KIB = 1024

CPU_LIMIT = 200
"""Microseconds of a session."""

MEMORY_LIMIT = 8
"""KiB of a subscribed connection that idles."""

_CROWD = Load(connections=10_000)

_ALONE = Case("storm", Storm(_CROWD), ("wsd",), more=("naive", "node", "nats", "nchan"))

# Half of what a server on one core can deliver one by one, so that there is time for the crowd at all.
_BESIDE = Case("standing", Standing(_CROWD, Load(connections=5000, rate=10)), ("wsd",))

# What a load balancer that sends clients over little by little makes of it: no queue, and a round trip per request.
_RAMP = Case("ramp", Storm(_CROWD, ramp=1000.0, think=0.5), (), more=("wsd",))

_TRIED = (
    "requests handled without a task, no keepalive task, the collector frozen. Of what is left, the library's "
    "handshake and frames are 30 %, PyJWT 20 to 28 %, write(2) 13 %, the collector 3 %, random numbers 2 %; without "
    "system calls (python -m bench.micro --only handshake) the libraries alone take 90 %. A jwt.PyJWK as the key saves "
    "less than 1 µs: PyJWT 2.15 prepares its key for every token too."
)


def _goals(found: Found) -> Iterator[Goal]:
    work = "10,000 clients connect, authorize and subscribe at once"
    cost = found.median(_ALONE, "wsd", "setup", "cpu_per_session_us")
    yield Goal(work, "CPU per session", cost, CPU_LIMIT, "µs", note=found.notes(_ALONE, "wsd"), attempts=_TRIED)
    yield Goal(work, "failures", found.failures(_ALONE), 0, exact=True)
    each = ratio(found.median(_ALONE, "wsd", "memory", "per_connection"), KIB)
    yield Goal("10,000 subscribed idle connections", "memory per connection", each, MEMORY_LIMIT, "KiB")


def _plots(found: Found) -> Iterator[Plot]:
    storms = found.all_of(_ALONE)
    yield Bars(
        "CPU per session of a storm of 10,000 (the line is the goal)",
        "µs",
        bars(storms, lambda result: result["setup"]["cpu_per_session_us"]),
        limit=CPU_LIMIT,
    )
    # Of few connections it would be the rounding of the allocator.
    many = [each for each in found.results if "memory" in each and each["load"]["connections"] >= 5000]
    yield Bars(
        "Memory per subscribed idle connection (PSS; the line is the goal)", "KiB", bars(many, _kib), limit=MEMORY_LIMIT
    )
    histograms = {result["server"]: Histogram(result["setup"]["histogram"]) for result in storms}
    yield percentiles("From connect to subscribed, of 10,000", histograms)


def _kib(result: Result) -> float:
    return float(result["memory"]["per_connection"]) / KIB


def _goals_beside(found: Found) -> Iterator[Goal]:
    calm, rough = (found.median(_BESIDE, "wsd", when, "p99") for when in ("calm_us", "storm_us"))
    note = "" if calm is None or rough is None else f"{calm / 1000:.1f} ms before, {rough / 1000:.1f} ms meanwhile. "
    work = "10,000 clients come at once, while 5,000 others get 10 messages/s"
    yield Goal(work, "failures", found.failures(_BESIDE), 0, exact=True)
    note += found.notes(_BESIDE, "wsd")
    yield Goal(work, "the others' p99 over that before", ratio(rough, calm), 2.0, "x", note=note)


def _plots_beside(found: Found) -> Iterator[Plot]:
    values = [
        Bar(f"{percentile} {when}", value / 1000, colour)
        for key, colour, when in (("calm_us", 2, "before"), ("storm_us", 1, "meanwhile"))
        for percentile in ("p50", "p99")
        if (value := found.median(_BESIDE, "wsd", key, percentile)) is not None
    ]
    yield Bars("Latency of 5,000 others before and during a storm", "ms", values)


def _goals_ramp(found: Found) -> Iterator[Goal]:
    cost = found.median(_RAMP, "wsd", "setup", "cpu_per_session_us")
    work, notes = str(_RAMP.work), found.notes(_RAMP, "wsd")
    yield Goal(work, "CPU per session", cost, CPU_LIMIT, "µs", note=notes, attempts=_TRIED)
    yield Goal(work, "failures", found.failures(_RAMP), 0, exact=True)


def _plots_ramp(found: Found) -> Iterator[Plot]:
    histograms = {result["server"]: Histogram(result["setup"]["histogram"]) for result in found.all_of(_RAMP)}
    yield percentiles("From connect to subscribed, without the thinking", histograms)


STORM = Row(
    "storm",
    "10,000 clients connect, authorize and subscribe at once; then the memory of those that idle",
    (_ALONE,),
    _goals,
    _plots,
)

STANDING = Row(
    "standing",
    "10,000 clients come at once, while 5,000 others get 10 messages a second",
    (_BESIDE,),
    _goals_beside,
    _plots_beside,
)

RAMP = Row(
    "ramp",
    "10,000 clients come at 1,000 a second and think half a second before each request (full suite)",
    (_RAMP,),
    _goals_ramp,
    _plots_ramp,
)
