"""Sets two results side by side: what changed, and whether that is more than noise.

Noise is judged from the repetitions: by the exact permutation test on the sums of ranks (Wilcoxon's, Mann and
Whitney's). All ways to deal the measured values out to the two results are counted, and the chance is the share of
those that tell the two as far apart as they are. It needs no assumption about how noise is distributed, and it is right
for few values: with three repetitions of each no chance is below 10 %, so it takes four (3 %).

The repetitions should alternate (``--against``), so that a machine that gets slower meanwhile gets slower for both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from random import Random
from statistics import median
from typing import Any

__all__ = ["Comparison", "Difference", "chance"]

BY_CHANCE = 0.05
"""The chance from which on a difference may be noise."""

COUNTED = 20_000
"""Ways to deal values out up to which all are counted. Of more, as many are drawn."""


@dataclass(frozen=True, slots=True)
class Measure:
    """What is compared."""

    title: str
    path: tuple[str, ...]  # where it is in a result
    divisor: float = 1.0
    more_is_better: bool = False


MEASURES = (
    Measure("CPU/delivery µs", ("cpu_per_delivery_us",)),
    Measure("deliveries/s", ("rate",), more_is_better=True),
    Measure("p50 ms", ("latency_us", "p50"), 1000),
    Measure("p99 ms", ("latency_us", "p99"), 1000),
    Measure("CPU/session µs", ("setup", "cpu_per_session_us")),
    Measure("CPU/moved µs", ("cpu_per_moved_us",)),
    Measure("Redis/message µs", ("cpu_per_message_us",)),
    Measure("KiB/connection", ("memory", "per_connection"), 1024),
    Measure("longest stop ms", ("stops", "longest"), 0.001),
)


@dataclass(frozen=True, slots=True)
class Difference:
    """One measure of one load on one server, in both results."""

    where: str  # the load and the server
    measure: Measure
    before: Sequence[float]  # the repetitions
    after: Sequence[float]

    @property
    def change(self) -> float:
        """How much more it is after, as a share of what it was."""
        return median(self.after) / median(self.before) - 1

    @property
    def worse(self) -> float:
        """How much worse it is, as a share of what it was; below zero: better."""
        return -self.change if self.measure.more_is_better else self.change

    @property
    def chance(self) -> float:
        """See :func:`chance`."""
        return chance(self.before, self.after)

    @property
    def tellable(self) -> bool:
        """Whether there are enough repetitions to tell a difference from noise at all."""
        return 2 / comb(len(self.before) + len(self.after), len(self.before)) <= BY_CHANCE

    @property
    def is_real(self) -> bool:
        """Whether the difference is more than noise."""
        return self.tellable and self.chance <= BY_CHANCE

    def __str__(self) -> str:
        sides = (f"{median(values):12,.2f} {_spread(values):>6}" for values in (self.before, self.after))
        said = f"within noise (chance {self.chance:.0%})"
        if not self.tellable:
            said = "too few repetitions to tell"
        elif self.is_real:
            said = f"{'WORSE' if self.worse > 0 else 'better'}, more than noise (chance {self.chance:.1%})"
        return f"{self.measure.title:16} {' '.join(sides)} {100 * self.change:+7.1f} %  {said}"


class Comparison:
    """Two results, side by side.

    Args:
        before: the JSON that a run left.
        after: that of another.
    """

    def __init__(self, before: dict[str, Any], after: dict[str, Any]) -> None:
        self._documents = (before, after)
        old, new = _values(before), _values(after)
        self.differences = [
            Difference(where, measure, old[where, measure], new[where, measure])
            for where, measure in old
            if (where, measure) in new and median(old[where, measure])
        ]

    def worse(self, threshold: float) -> list[Difference]:
        """What got worse by more than a share, and by more than noise."""
        return [each for each in self.differences if each.worse > threshold and each.is_real]

    def status(self, threshold: float) -> int:
        """The exit status: 1 if something got worse by more than a share, 2 if nothing could be told, else 0."""
        if self.worse(threshold):
            return 1
        return 0 if any(each.tellable for each in self.differences) else 2

    def text(self, threshold: float) -> str:
        """The comparison, for the terminal."""
        return "\n".join([*self._runs(), "", *self._table(), "", self._verdict(threshold)])

    def _runs(self) -> Iterator[str]:
        before, after = self._documents
        for title, document in (("before", before), ("after", after)):
            machine = document["machine"]
            yield f"{title:6}: {document['began']} {machine['revision']} {machine['cpu']} {machine['kernel']}"
            yield f"        {_disturbance(document)}"
        for name in ("cpu", "cores", "kernel", "python", "libraries"):
            if before["machine"][name] != after["machine"][name]:
                yield f"NOT THE SAME {name.upper()}: only the ratios to the floor can be compared"

    def _table(self) -> Iterator[str]:
        if not self.differences:
            yield "Nothing was measured in both: the rows, servers and loads differ."
            return
        yield f"    {'':16} {'before':>12} {'spread':>6} {'after':>12} {'spread':>6} {'change':>9}"
        last = ""
        for each in self.differences:
            if each.where != last:
                yield each.where
                last = each.where
            yield f"    {each}"

    def _verdict(self, threshold: float) -> str:
        worse, told = self.worse(threshold), sum(each.tellable for each in self.differences)
        if self.differences and not told:
            return "Nothing can be told from noise: that takes four repetitions of both (--repeat 4)."
        by_chance = BY_CHANCE * told / 2
        return (
            f"{len(self.differences)} compared, {told} of them with repetitions enough: {len(worse)} worse by more than"
            f" {threshold:.0%} and by more than noise. By chance alone, up to {by_chance:.1f} would look worse."
        )


def chance(before: Sequence[float], after: Sequence[float]) -> float:
    """How likely values that don't differ but by noise are as far apart as these: 1 for the same, 0 for never.

    Args:
        before: some values.
        after: others.
    """
    ranks, count = _ranks([*before, *after]), len(before)
    middle = sum(ranks) * count / len(ranks)
    apart = abs(sum(ranks[:count]) - middle) - 1e-9
    if comb(len(ranks), count) <= COUNTED:
        sums = [sum(chosen) for chosen in combinations(ranks, count)]
    else:
        random = Random(0)  # the same answer each time
        sums = [sum(random.sample(ranks, count)) for _ in range(COUNTED)]
    return sum(abs(each - middle) >= apart for each in sums) / len(sums)


def _ranks(values: Sequence[float]) -> list[float]:
    """The place of each in the order of all; of equal ones, the middle of their places."""
    ordered = sorted(values)
    return [ordered.index(value) + (ordered.count(value) - 1) / 2 for value in values]


def _spread(values: Sequence[float]) -> str:
    """From the least to the most, as a share of the median."""
    if len(values) == 1:
        return "once"
    return f"{(max(values) - min(values)) / median(values):.0%}" if median(values) else "?"


def _disturbance(document: dict[str, Any]) -> str:
    """How busy the machine was with other things."""
    results = document["results"]
    others = [result["disturbance"] for result in results if "disturbance" in result]
    stolen = [result["stolen"] for result in results if "stolen" in result]
    disturbed = sum("disturbed" in result["verdicts"] for result in results)
    said = f"{disturbed} of {len(results)} measurements disturbed"
    if others:
        said += f"; others took {median(others):.0%} of a core, at most {max(others):.0%}"
    if stolen:
        said += f", of which other machines of the host {median(stolen):.0%}, at most {max(stolen):.0%}"
    return said


def _values(document: dict[str, Any]) -> dict[tuple[str, Measure], list[float]]:
    values: dict[tuple[str, Measure], list[float]] = {}
    for result in document["results"]:
        load = result["load"]
        where = (
            f"{result['row']}: {result['server']}, {load['connections']} connections, "
            f"{load['topics']} topics, {load['rate']:g}/s, {load['size']} B"
        )
        for measure in MEASURES:
            value: Any = result
            for name in measure.path:
                value = None if value is None else value.get(name)
            if value is not None:
                values.setdefault((where, measure), []).append(value / measure.divisor)
    return values
