"""One, two and four workers on the same cores: what a delivery costs, how many there are at most, and the storm.

Where there are more than four cores, workers and load have their own. Else all share all, and a core that the load
uses is none for a worker. So what is told of two cores is not "twice as fast":

- CPU per delivery and per session at the same load, of all processes: what the splitting itself costs.
- The storm's wall time over what the cores allow. They allow it when all of them are busy all the time: the CPU seconds
  of everybody, generator and Redis among them, over the number of cores; or, if that is longer, the server's over the
  number of its workers.
- The most deliveries per second, with the share of the cores that the load took, and what so many workers could do
  on cores of their own: that is computed from CPU per delivery, and not measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from statistics import median

from bench.measure.fan_out import FanOut
from bench.measure.storm import Storm
from bench.measure.work import Load, Result
from bench.report.plots import Bars, Plot
from bench.rows.case import Case
from bench.rows.draw import bars, cost, rate
from bench.rows.found import Found, ratio
from bench.rows.goal import Goal
from bench.rows.row import Row
from bench.rows.single import BASE

__all__ = ["WORKERS"]

_COUNTS = {"wsd": 1, "wsd-2": 2, "wsd-4": 4}
"""Workers by server."""

_MOST = max(_COUNTS.values())

_SERVERS = tuple(_COUNTS)

_SAME = Case("workers-same", FanOut(BASE), _SERVERS, enough=("wsd-2", "wsd-4"), workers=_MOST, repetitions=2)

# Twice what one worker was seen to deliver: beyond it, what is still owed isn't waited for.
_FULL = Case(
    "workers-full",
    FanOut(replace(BASE, rate=10_000, drain=0.3)),
    _SERVERS,
    enough=("wsd-2",),
    workers=_MOST,
    repetitions=2,
)

_STORM = Case(
    "workers-storm", Storm(Load(connections=10_000)), _SERVERS, enough=("wsd-2",), workers=_MOST, repetitions=2
)

SPLIT_LIMIT = 1.25
"""What a delivery, or a session, may cost two workers, over what it costs one."""

WALL_LIMIT = 1.4
"""The storm's wall time over what the cores allow. Connections come as the kernel spreads them, and one worker is the
last."""


def _goals(found: Found) -> Iterator[Goal]:
    work = str(_SAME.work)
    one, two = (found.median(_SAME, server, "cpu_per_delivery_us") for server in ("wsd", "wsd-2"))
    note = found.notes(_SAME, "wsd", "wsd-2")
    yield Goal(work, "CPU per delivery of 2 workers over that of one", ratio(two, one), SPLIT_LIMIT, "x", note=note)
    for server in ("wsd-2", "wsd-4"):
        measure = f"messages lost, duplicated or out of order, {_COUNTS[server]} workers"
        yield Goal(work, measure, found.bad(_SAME, server), 0, exact=True)

    work = f"{_STORM.work}"
    one, two = (found.median(_STORM, server, "setup", "cpu_per_session_us") for server in ("wsd", "wsd-2"))
    note = found.notes(_STORM, "wsd", "wsd-2")
    yield Goal(work, "CPU per session of 2 workers over that of one", ratio(two, one), SPLIT_LIMIT, "x", note=note)
    over = [_seconds(each) / _allowed(each) for each in found.of(_STORM, "wsd-2")]
    yield Goal(
        work,
        "wall time of 2 workers over what the cores allow",
        median(over) if over else None,
        WALL_LIMIT,
        "x",
        note=_walls(found),
    )
    yield Goal(work, "failures with 2 workers", found.failures(_STORM, "wsd-2"), 0, exact=True)

    held = [found.median(_FULL, server, "rate") for server in ("wsd", "wsd-2")]
    yield Goal(
        f"{_FULL.work}, more than one worker can do",
        "deliveries per second of 2 workers over those of one",
        ratio(held[1], held[0]),
        1.0,
        "x",
        at_least=True,
        note=_rates(found),
    )


def _seconds(result: Result) -> float:
    return float(result["setup"]["seconds"])


def _allowed(result: Result) -> float:
    """Seconds of a storm that leaves no core idle."""
    server, load = result["server_share"], sum(result["shares"].values())
    workers, cores = _COUNTS[result["server"]], int(result["cores"])
    return float(max((server + load) / cores, server / workers)) * _seconds(result)


def _walls(found: Found) -> str:
    """The wall times, and how much of the cores was the generator's."""
    said = []
    for server, workers in _COUNTS.items():
        seconds = found.median(_STORM, server, "setup", "seconds")
        generator = found.median(_STORM, server, "shares", "generator")
        if seconds is not None and generator is not None:
            pace = found.median(_STORM, server, "load", "connections")
            told = "" if pace is None else f"{pace / seconds:,.0f} sessions/s, "
            said.append(f"{workers}: {seconds:.2f} s, {told}generator {generator:.0%} of a core")
    one, two = (found.median(_STORM, server, "setup", "seconds") for server in ("wsd", "wsd-2"))
    gain = ratio(one, two)
    return "; ".join(said) + ("" if gain is None else f". 2 workers take 1/{gain:.2f} of the time")


def _rates(found: Found) -> str:
    """The rates, what the load took, and what the workers could do without it."""
    said = []
    for server, workers in _COUNTS.items():
        each, most = found.median(_FULL, server, "cpu_per_delivery_us"), found.median(_FULL, server, "rate")
        generator = found.median(_FULL, server, "shares", "generator")
        if each and most is not None and generator is not None:
            said.append(
                f"{workers}: {most / 1e6:.2f} million/s at {each:.2f} µs, generator {generator:.0%} of a core, alone "
                f"{workers / each:.1f} million/s (computed)"
            )
    return "; ".join(said)


def _plots(found: Found) -> Iterator[Plot]:
    same, full, storms = (found.all_of(case) for case in (_SAME, _FULL, _STORM))
    yield Bars(f"{_SAME.work}: CPU per delivery, all processes", "µs", bars(same, cost))
    yield Bars("The most deliveries per second, beside the load on the same cores", "/s", bars(full, rate))
    yield Bars("Wall time of a storm of 10,000, beside the load on the same cores", "s", bars(storms, _seconds))
    sessions = bars(storms, lambda result: result["setup"]["cpu_per_session_us"])
    yield Bars("CPU per session of a storm of 10,000, all processes", "µs", sessions)


WORKERS = Row(
    "workers",
    "1, 2 and 4 workers: CPU per delivery at the same load, the most that they can deliver, and how long a storm of "
    "10,000 takes",
    (_SAME, _FULL, _STORM),
    _goals,
    _plots,
)
