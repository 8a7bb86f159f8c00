"""The grid for the plots: one thing is changed at a time. No goals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from bench.measure.fan_out import FanOut
from bench.measure.work import Result
from bench.report.plots import Axis, Chart, Plot
from bench.rows.case import Case
from bench.rows.draw import cost, p99, plain, rate, series, share
from bench.rows.found import Found
from bench.rows.row import Row
from bench.rows.single import BASE
from bench.servers.catalogue import SERVERS

__all__ = ["CLIENTS", "PAYLOAD", "RATE", "headline"]

ALL = tuple(name for name, kind in SERVERS.items() if kind.everywhere)

_BASE = replace(BASE, warm_up=0.3, drain=1.0)

# At the lower ones no core is full, so the shares tell servers apart; at the higher ones the latencies do.
_RATES = tuple(
    Case(f"rate-{each}", FanOut(replace(_BASE, rate=each)), ALL, repetitions=2)
    for each in (10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
)
_CLIENTS = tuple(
    Case(
        f"clients-{each}",
        FanOut(replace(_BASE, connections=each, rate=20)),
        ("wsd",) if each == 1000 else (),  # for the sizing of a fleet
        more=tuple(name for name in ALL if name != "wsd") if each == 1000 else ALL,
    )
    for each in (100, 1000, 2000, 5000, 10_000, 15_000)
)
_SIZES = tuple(
    Case(
        f"payload-{each}",
        FanOut(replace(_BASE, size=each, rate=20)),
        ("wsd",) if each == 10_000 else (),
        more=tuple(name for name in ALL if name != "wsd") if each == 10_000 else ALL,
    )
    for each in (1000, 10_000, 50_000)
)

_SHARE = Axis("share of a core", ticks=tuple((percent / 100, f"{percent} %") for percent in range(0, 101, 20)))
_COST = Axis("µs of CPU per delivery", log=True)


def headline(results: Sequence[Result]) -> list[Chart]:
    """How full a core is, and how late messages are, against the rate.

    What a delivery costs would say the same of all whose core is full. Without the floors, which drop what a client
    can't take: beyond their pace a "delivery" is something else there.
    """
    rates = plain([each for each in results if not each["server"].startswith("floor")], connections=1000, size=100)
    axis = Axis("messages per second to each of 1,000 subscribers", log=True)
    return [
        Chart("Share of a core that the server takes", axis, _SHARE, series(rates, "rate", share)),
        Chart("Latency, publish to receive: p99", axis, Axis("ms", log=True), series(rates, "rate", p99)),
    ]


def _rate_plots(found: Found) -> Iterator[Plot]:
    rates = plain(found.results, connections=1000, size=100)
    axis = Axis("messages per second, to 1,000 subscribers", log=True)
    deliveries = Axis("deliveries per second", log=True)
    yield Chart("Throughput against rate", axis, deliveries, series(rates, "rate", rate))
    yield Chart("CPU per delivery against rate", axis, _COST, series(rates, "rate", cost))


def _client_plots(found: Found) -> Iterator[Plot]:
    clients = plain(found.results, rate=20, size=100)
    axis = Axis("subscribers, 20 messages per second", log=True)
    if len({result["load"]["connections"] for result in clients}) > 1:
        yield Chart("Throughput", axis, Axis("deliveries per second", log=True), series(clients, "connections", rate))
        yield Chart("CPU per delivery", axis, _COST, series(clients, "connections", cost))
        yield Chart("p99 latency", axis, Axis("ms", log=True), series(clients, "connections", p99))


def _size_plots(found: Found) -> Iterator[Plot]:
    sizes = plain(found.results, connections=1000, rate=20)
    axis = Axis("bytes of payload, 20 messages per second to 1,000", log=True)
    if len({result["load"]["size"] for result in sizes}) > 1:
        yield Chart("CPU per delivery", axis, _COST, series(sizes, "size", cost))


RATE = Row(
    "rate",
    "1,000 subscribers, from 10 to 5,000 messages a second, all servers",
    _RATES,
    drawn=_rate_plots,
    only_full=True,
)
CLIENTS = Row("clients", "100 to 15,000 subscribers, 20 messages a second, all servers", _CLIENTS, drawn=_client_plots)
PAYLOAD = Row("payload", "1,000 to 50,000 bytes, 20 messages a second, all servers", _SIZES, drawn=_size_plots)
