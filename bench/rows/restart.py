"""The server restarts under its clients: what the documented wait before a client returns makes of the storm."""

from __future__ import annotations

from collections.abc import Iterator

from bench.measure.restart import Restart
from bench.measure.work import Load
from bench.report.plots import Bars, Plot
from bench.rows.case import Case
from bench.rows.draw import bars
from bench.rows.found import Found
from bench.rows.goal import Goal
from bench.rows.row import Row

__all__ = ["RESTART"]

_CASE = Case("restart", Restart(Load(connections=5000)), ("wsd",))


def _goals(found: Found) -> Iterator[Goal]:
    seconds = found.median(_CASE, "wsd", "seconds")
    note = "" if seconds is None else f"the last was back after {seconds:.1f} s. "
    yield Goal(
        str(_CASE.work),
        "clients that did not come back",
        found.median(_CASE, "wsd", "away"),
        0,
        note=note + found.notes(_CASE, "wsd"),
        exact=True,
    )


def _plots(found: Found) -> Iterator[Plot]:
    results = found.all_of(_CASE)
    yield Bars("From the end of the server until all are back", "s", bars(results, lambda result: result["seconds"]))
    costs = bars(results, lambda result: result["cpu_per_return_us"])
    yield Bars("CPU per client that comes back", "µs", costs)


RESTART = Row(
    "restart",
    "the server restarts under 5,000 clients, which come back as the protocol tells them: after a wait that grows",
    (_CASE,),
    _goals,
    _plots,
)
