"""Locust's tables, in files and on the terminal, as this suite needs them.

Locust's own print whole milliseconds, of which wsd's latencies are a part; a 0 where nothing was timed; and into the
files only what was known at the last full second, though the end of a run is waited for after that. Its page and its
JSON have the fractions, and the page a 0 for what was not timed.
"""

# Locust is typed, but not all of it.
# mypy: untyped-calls-exclude=locust

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from locust import stats as locust_stats
from locust.env import Environment
from locust.stats import (
    PERCENTILES_TO_REPORT,
    RequestStats,
    StatsCSV,
    StatsCSVFileWriter,
    StatsEntry,
    get_readable_percentiles,
    sort_stats,
)

__all__ = ["install"]

UNTIMED = "N/A"
"""In a file, where nothing was timed: Locust's own word for percentiles of nothing."""

Cell = float | str


def install() -> None:
    """Take the place of Locust's own. To be called before Locust makes its writers: while it reads the locustfile."""
    # Locust looks these names up when it needs them; there is no hook for it.
    for name, ours in (
        ("StatsCSV", Tables),
        ("StatsCSVFileWriter", FileTables),
        ("get_stats_summary", summary),
        ("get_percentile_stats_summary", percentile_summary),
    ):
        assert hasattr(locust_stats, name), name
        setattr(locust_stats, name, ours)


def _timed(entry: StatsEntry) -> bool:
    return entry.num_requests > entry.num_none_requests


def _times(entry: StatsEntry) -> list[Cell]:
    """Median, average, least and most, in milliseconds."""
    if not _timed(entry):
        return [UNTIMED] * 4
    values = (
        entry.median_response_time,
        entry.avg_response_time,
        entry.min_response_time or 0,
        entry.max_response_time,
    )
    return [round(float(value), 2) for value in values]


def _percentiles(entry: StatsEntry, percentiles: Iterable[float], *, current: bool = False) -> list[Cell]:
    if not _timed(entry):
        return [UNTIMED for _ in percentiles]
    if current and entry.use_response_times_cache:
        found = [entry.get_current_response_time_percentile(each) for each in percentiles]
    else:
        found = [entry.get_response_time_percentile(each) for each in percentiles]
    return [UNTIMED if value is None else round(float(value), 2) for value in found]


# Files.


class Tables(StatsCSV):
    """The files that the page offers for download."""

    def _requests_data_rows(self, csv_writer: Any) -> None:
        stats = self.environment.stats
        for entry in chain(sort_stats(stats.entries), [stats.total]):
            counts = (entry.method or "", entry.name, entry.num_requests, entry.num_failures)
            rates = (entry.avg_content_length, entry.total_rps, entry.total_fail_per_sec)
            csv_writer.writerow(
                [*counts, *_times(entry), *rates, *_percentiles(entry, self.percentiles_to_report)],
            )


class FileTables(Tables, StatsCSVFileWriter):
    """The files of ``--csv``."""

    def __init__(self, environment: Environment, *arguments: Any) -> None:
        super().__init__(environment, *arguments)
        # Locust fires this event in reverse: the conductor, which comes later, has waited for the last numbers by then.
        # Later is too late: saving the JSON resets what is counted.
        environment.events.quitting.add_listener(self._finish)

    def _stats_history_data_rows(self, csv_writer: Any, now: float) -> None:
        stats, runner = self.environment.stats, self.environment.runner
        users = runner.user_count if runner is not None else 0
        for entry in chain(sort_stats(stats.entries) if self.full_history else [], [stats.total]):
            csv_writer.writerow(
                [
                    int(now),
                    users,
                    entry.method or "",
                    entry.name,
                    f"{entry.current_rps:2f}",
                    f"{entry.current_fail_per_sec:2f}",
                    *_percentiles(entry, self.percentiles_to_report, current=self.full_history),
                    entry.num_requests,
                    entry.num_failures,
                    *_times(entry),
                    entry.avg_content_length,
                ]
            )

    def _finish(self, environment: Environment, **_: object) -> None:
        """Write what has come since the last second."""
        self._stats_history_data_rows(self.stats_history_csv_writer, time.time())
        for handle, write, writer in (
            (self.requests_csv_filehandle, self.requests_csv, self.requests_csv_writer),
            (self.failures_csv_filehandle, self.failures_csv, self.failures_csv_writer),
            (self.exceptions_csv_filehandle, self.exceptions_csv, self.exceptions_csv_writer),
        ):
            handle.seek(0)
            handle.truncate()
            write(writer)


# The terminal.

WIDTH = 30
"""Characters of a name."""


def summary(stats: RequestStats, current: bool = True) -> list[str]:
    """What was requested, and how long it took in milliseconds."""
    heads = ("# reqs", "# fails", "Avg", "Min", "Max", "Med", "req/s", "failures/s")

    def cells(entry: StatsEntry) -> list[Cell]:
        rates = entry.current_rps if current else entry.total_rps, _failures_per_second(entry, current)
        median, *others = _times(entry)
        return [entry.num_requests, entry.num_failures, *others, median, *(f"{rate:.2f}" for rate in rates)]

    return list(_table(stats, heads, cells))


def percentile_summary(stats: RequestStats) -> list[str]:
    """Percentiles in milliseconds."""
    heads = (*get_readable_percentiles(PERCENTILES_TO_REPORT), "# reqs")
    rows = _table(stats, heads, lambda entry: [*_percentiles(entry, PERCENTILES_TO_REPORT), entry.num_requests])
    return ["Response time percentiles, ms", *rows]


def _failures_per_second(entry: StatsEntry, current: bool) -> float:
    return float(entry.current_fail_per_sec if current else entry.total_fail_per_sec)


def _table(stats: RequestStats, heads: Iterable[str], cells: Any) -> Iterator[str]:
    """A row for each name, and one for all."""
    rows = [(f"{entry.method} {entry.name}", cells(entry)) for entry in sort_stats(stats.entries)]
    rows.append((stats.total.name, cells(stats.total)))
    shown = [("", list(heads)), *((name, [_shown(cell) for cell in row]) for name, row in rows)]
    widths = [max(len(row[column]) for _, row in shown) for column in range(len(shown[0][1]))]
    for number, (name, row) in enumerate(shown):
        if number in (1, len(shown) - 1):
            yield "-" * (WIDTH + sum(widths) + 2 * len(widths))
        yield f"{name:{WIDTH}}" + "".join(f"  {cell:>{width}}" for cell, width in zip(row, widths, strict=True))


def _shown(cell: Cell) -> str:
    return "-" if cell == UNTIMED else str(cell)
