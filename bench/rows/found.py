"""What a run found, asked by case and server.

Where several repetitions were measured, the median counts of those that were neither disturbed nor generator-bound, or
of all if there is none.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from statistics import median
from typing import Any

from bench.measure.verdicts import UNRELIABLE
from bench.measure.work import Result
from bench.rows.case import Case

__all__ = ["Found", "ratio"]


class Found:
    """The results of one run, as a row sees them.

    Args:
        results: of all rows.
        cases: of the row that asks.
    """

    def __init__(self, results: Sequence[Result], cases: Collection[Case]) -> None:
        self.results = results
        self._cases = cases

    def of(self, case: Case, server: str) -> list[Result]:
        """The repetitions of a case on a server.

        Raises:
            LookupError: if the row doesn't measure that: whoever asks has made a slip.
        """
        if case not in self._cases or not case.measures(server):
            raise LookupError(f"no suite measures {case.name} on {server} in this row")
        return [result for result in self.results if result.get("case") == case.name and result["server"] == server]

    def all_of(self, case: Case) -> list[Result]:
        """The results of a case, on whatever server."""
        return [result for server in case.servers + case.more for result in self.of(case, server)]

    def median(self, case: Case, server: str, *path: str) -> float | None:
        """Median of a number in each result; None if the case wasn't measured, or the number wasn't told.

        Raises:
            LookupError: if no suite measures that, or there is no such number.
        """
        results = self.of(case, server)
        values = []
        for result in [each for each in results if not UNRELIABLE & set(each["verdicts"])] or results:
            value: Any = result
            for name in path:
                value = value[name]
            if value is not None:
                values.append(float(value))
        return median(values) if values else None

    def bad(self, case: Case, server: str = "wsd") -> float | None:
        """Messages that were lost, duplicated or out of order in the worst of the repetitions."""
        counts = []
        for result in self.of(case, server):
            checks = result["checks"]
            missing = abs((checks["expected"] or 0) - checks["messages"])
            counts.append(float(max(missing, checks["lost"]) + checks["duplicated"] + checks["out_of_order"]))
        return max(counts, default=None)

    def failures(self, case: Case, server: str = "wsd") -> float | None:
        """Clients that could not subscribe in the worst of the repetitions."""
        return max((float(sum(each["setup"]["failures"].values())) for each in self.of(case, server)), default=None)

    def notes(self, case: Case, *servers: str) -> str:
        """The verdicts on these results."""
        said = {verdict for server in servers for each in self.of(case, server) for verdict in each["verdicts"]}
        return ", ".join(sorted(said))


def ratio(over: float | None, under: float | None) -> float | None:
    """One over the other; None if either is missing or there is nothing to divide by."""
    return None if over is None or not under else over / under
