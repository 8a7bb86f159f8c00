"""Traffic for a long time: nothing grows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from bench.measure.soak import Soak
from bench.report.plots import Axis, Chart, Plot, Series
from bench.rows.case import Case
from bench.rows.found import Found, ratio
from bench.rows.goal import Goal
from bench.rows.row import Row
from bench.rows.single import BASE

__all__ = ["SOAK"]

MIB = 2**20

_CASE = Case("soak", Soak(replace(BASE, rate=1000), churn=50.0, slow=10), ("wsd",))


def _goals(found: Found) -> Iterator[Goal]:
    work = "traffic while clients come and go"
    for result in found.of(_CASE, "wsd")[:1]:
        work = f"{result['load']['seconds']:g} s of traffic, {result['churned']:,} clients came and went"
    memory = ratio(found.median(_CASE, "wsd", "memory_growth"), MIB)
    yield Goal(work, "growth of memory", memory, 1.0, "MiB", note=found.notes(_CASE, "wsd"))
    # Clients come and go all the while, so the numbers waver by some.
    for name, limit in (("descriptors", 10), ("tasks", 10), ("threads", 1)):
        yield Goal(work, f"growth of {name}", found.median(_CASE, "wsd", f"{name}_growth"), limit)
    yield Goal(work, "messages lost, duplicated or out of order", found.bad(_CASE), 0, exact=True)


def _plots(found: Found) -> Iterator[Plot]:
    for result in found.of(_CASE, "wsd"):
        samples = result["samples"]
        memory = [(sample["at"], sample["memory"] / MIB) for sample in samples]
        held = [(sample["at"], float(sample["descriptors"])) for sample in samples]
        yield Chart("Memory while clients come and go", Axis("s"), Axis("MiB"), [Series("PSS", memory)])
        yield Chart("Descriptors meanwhile", Axis("s"), Axis("open"), [Series("descriptors", held, 1)])
        counts = [
            Series(name, [(each["at"], float(each[name])) for each in samples if each.get(name) is not None], colour)
            for colour, name in ((2, "threads"), (3, "tasks"))
        ]
        yield Chart("Tasks and threads meanwhile", Axis("s"), Axis("alive"), counts)


SOAK = Row(
    "soak",
    "traffic while clients come and go and some read slowly; ten minutes in the full suite",
    (_CASE,),
    _goals,
    _plots,
)
