"""A row of the bench: what is measured, and what is asked of it, in one place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from bench.measure.work import Result
from bench.report.plots import Plot
from bench.rows.case import Case, Cell, Suite
from bench.rows.found import Found
from bench.rows.goal import Goal

__all__ = ["Row"]


def _nothing(found: Found) -> Iterator[Goal]:
    yield from ()


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """A row of the bench.

    A goal whose measurement is missing (a server isn't installed, a row was left out) is neither met nor missed.
    """

    name: str
    words: str  # what the load is, and what it is for: one sentence
    cases: Sequence[Case]
    asked: Callable[[Found], Iterator[Goal]] = _nothing  # the goals; without results, their limits
    drawn: Callable[[Found], Iterator[Plot]] | None = None  # the plots; those without data are left out
    only_full: bool = False  # whether there is no room for it but in the full suite

    def cells(self, suite: Suite) -> list[Cell]:
        """What a suite measures of it."""
        if self.only_full and not suite.everything:
            return []
        return [cell for case in self.cases for cell in case.cells(self.name, suite)]

    def goals(self, results: Sequence[Result]) -> list[Goal]:
        """The goals, held to what was measured."""
        return list(self.asked(Found(results, self.cases)))

    def plots(self, results: Sequence[Result]) -> list[Plot]:
        """The plots of what was measured."""
        return [] if self.drawn is None else [plot for plot in self.drawn(Found(results, self.cases)) if plot]
