"""The server reloads under its clients, which must not notice: the hand-over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from bench.measure.handover import Handover
from bench.measure.work import Load
from bench.report.plots import Bar, Bars, Plot
from bench.rows.case import Case
from bench.rows.draw import bars
from bench.rows.found import Found
from bench.rows.goal import Goal
from bench.rows.row import Row

__all__ = ["HANDOVER"]

_SERVERS = {"wsd": "1 worker", "wsd-2": "2 workers"}

# A reload has twice as many workers as there are, for a moment.
_BASE = Load(warm_up=1.0, drain=20.0)

_CASES = tuple(
    Case(f"handover-{load.connections}", Handover(load), tuple(_SERVERS), enough=(server,), workers=2 * len(_SERVERS))
    for load, server in (
        (replace(_BASE, connections=10_000, rate=20), "wsd"),
        (replace(_BASE, connections=1000, rate=2000), "wsd-2"),
    )
)

PAUSE_LIMIT = 100
"""Milliseconds by which the longest pause may be longer than in the calm."""


def _goals(found: Found) -> Iterator[Goal]:
    for case in _CASES:
        for server, words in _SERVERS.items():
            work = f"{case.work}, {words}"
            lost, doubled, late = (_most(found, case, server, "checks", name) for name in _NUMBERS)
            yield Goal(work, "messages lost", lost, 0, exact=True)
            yield Goal(work, "messages doubled", doubled, 0, exact=True)
            yield Goal(work, "messages out of order", late, 0, exact=True)
            yield Goal(work, "connections closed", _most(found, case, server, "closed"), 0, exact=True)
            beyond = found.median(case, server, "pauses", "beyond_us")
            yield Goal(
                work,
                "longest pause of a client, beyond that before the reload",
                None if beyond is None else beyond / 1000,
                PAUSE_LIMIT,
                "ms",
                note=_note(found, case, server),
            )


_NUMBERS = ("lost", "duplicated", "out_of_order")


def _most(found: Found, case: Case, server: str, *path: str) -> float | None:
    """A number of the worst repetition."""
    counts = []
    for result in found.of(case, server):
        value = result
        for name in path:
            value = value[name]
        counts.append(float(value))  # type: ignore[arg-type]
    return max(counts, default=None)


def _note(found: Found, case: Case, server: str) -> str:
    """What the table of goals has no line for."""
    results = found.of(case, server)
    if not results:
        return ""
    told = {name: found.median(case, server, "pauses", *path.split(".")) for name, path in _PAUSES.items()}
    said = [f"{name} {value / 1000:,.0f} ms" for name, value in told.items() if value is not None]
    each = found.median(case, server, "cpu_per_moved_us")
    more = found.median(case, server, "cpu_per_moved_more_us")
    seconds = found.median(case, server, "seconds")
    if each is not None and more is not None and seconds is not None:
        said.append(f"{each:,.0f} µs CPU per moved connection, {more:,.0f} without what starts the workers")
        said.append(f"{seconds:.1f} s")
    if gaps := _most(found, case, server, "gaps"):
        said.append(f"{gaps:,.0f} gaps announced")
    return ", ".join([*said, *filter(None, [found.notes(case, server)])])


_PAUSES = {
    "longest before": "calm_us.longest",
    "longest": "reload_us.longest",
    "p99 before": "calm_us.p99",
    "p99": "reload_us.p99",
    "a client's own longest beyond its own before": "more_us.longest",
}
"""Where in a result they are."""


def _plots(found: Found) -> Iterator[Plot]:
    for case in _CASES:
        values = [
            Bar(f"{words}: {percentile} {when}", value / 1000, colour)
            for server, words in _SERVERS.items()
            for key, colour, when in (("calm_us", 2, "before"), ("reload_us", 1, "during the reload"))
            for percentile in ("p99", "longest")
            if (value := found.median(case, server, "pauses", key, percentile)) is not None
        ]
        yield Bars(f"{case.work}: the longest pauses of clients", "ms", values)
        cost = bars(found.all_of(case), lambda result: result["cpu_per_moved_us"])
        yield Bars(f"{case.work}: CPU per moved connection", "µs", cost)


HANDOVER = Row(
    "handover",
    "the server reloads under 10,000 clients at 20 messages a second, and 1,000 at 2,000: what they lose, how long "
    "they wait, and what that costs",
    _CASES,
    _goals,
    _plots,
)
