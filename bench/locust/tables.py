"""Locust's tables as this suite needs them: in files, on the terminal, and in what Locust's own page is fed with.

Locust's own print whole milliseconds, of which wsd's latencies are a part. They print 0 where nothing was timed. They
take a row's rate over the time of all rows, although sessions are made before the first message. And the files miss
what came after the last full second, although the end of a run is waited for after that.
"""

# Locust is typed, but not all of it.
# mypy: untyped-calls-exclude=locust

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
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

from bench.locust.stats import SESSION

__all__ = ["install"]

UNMEASURED = "N/A"
"""In a file, where nothing was measured: Locust's own word for percentiles of nothing."""

WIDTH = 30
"""Characters of a name on the terminal."""

SUMMARY = {
    "# reqs": "Request Count",
    "# fails": "Failure Count",
    "Avg": "Average Response Time",
    "Min": "Min Response Time",
    "Max": "Max Response Time",
    "Med": "Median Response Time",
    "req/s": "Requests/s",
    "failures/s": "Failures/s",
}
"""The terminal's columns, and the names that the same columns have in a file."""

Row = dict[str, float | str]
"""What was measured of an entry, by the names of the columns in a file."""


def install() -> None:
    """Take the place of Locust's own. To be called before Locust makes its writers: while it reads the locustfile."""
    # Locust looks these names up when it needs them; there is no hook for it.
    for place, name, ours in (
        (locust_stats, "StatsCSV", Tables),
        (locust_stats, "StatsCSVFileWriter", FileTables),
        (locust_stats, "get_stats_summary", summary),
        (locust_stats, "get_percentile_stats_summary", percentile_summary),
        (StatsEntry, "to_dict", for_page),
    ):
        assert hasattr(place, name), name
        setattr(place, name, ours)


# What was measured.


def measured(
    entry: StatsEntry, percentiles: Sequence[float], *, rates_now: bool = False, times_now: bool = False
) -> Row:
    """What was measured of an entry.

    Args:
        entry: the entry.
        percentiles: from 0 to 1.
        rates_now: the rates of the last ten seconds, instead of those of the run.
        times_now: the percentiles of the last ten seconds, instead of those of the run.
    """
    row: Row = {
        "Type": entry.method or "",
        "Name": entry.name,
        "Request Count": entry.num_requests,
        "Failure Count": entry.num_failures,
        "Failures/s": round(entry.current_fail_per_sec if rates_now else entry.total_fail_per_sec, 2),
    }
    if entry.total_content_length:
        row["Average Content Size"] = entry.avg_content_length
    if entry.num_requests:
        row["Requests/s"] = round(entry.current_rps if rates_now else rate(entry), 2)
    if timed(entry):
        row["Median Response Time"] = _milliseconds(entry.median_response_time)
        row["Average Response Time"] = _milliseconds(entry.avg_response_time)
        row["Min Response Time"] = _milliseconds(entry.min_response_time or 0)
        row["Max Response Time"] = _milliseconds(entry.max_response_time)
        look_up: Callable[[float], int | None] = entry.get_response_time_percentile
        if times_now and entry.use_response_times_cache:
            look_up = entry.get_current_response_time_percentile
        for name, percentile in zip(get_readable_percentiles(list(percentiles)), percentiles, strict=True):
            if (value := look_up(percentile)) is not None:
                row[name] = _milliseconds(value)
    return row


def timed(entry: StatsEntry) -> bool:
    """Whether any request of an entry has a response time."""
    return entry.num_requests > entry.num_none_requests


def rate(entry: StatsEntry) -> float:
    """Requests per second: of messages from the first to the last one, of sessions while they were made."""
    if not entry.name.endswith(SESSION):
        return float(entry.total_rps)
    seconds = (entry.last_request_timestamp or 0.0) - entry.start_time
    return entry.num_requests / seconds if seconds > 0 else 0.0


def _milliseconds(value: float) -> float:
    return round(float(value), 2)


# Locust's page, and its HTML file.

_for_page = StatsEntry.to_dict


def for_page(entry: StatsEntry, escape_string_values: bool = False) -> dict[str, Any]:
    """What Locust's page and its HTML file show of an entry. They show "NaN" for a text that they want to round."""
    shown: dict[str, Any] = _for_page(entry, escape_string_values)
    shown["total_rps"] = rate(entry)
    if timed(entry):
        shown["min_response_time"] = _milliseconds(entry.min_response_time or 0)
        shown["max_response_time"] = _milliseconds(entry.max_response_time)
    else:
        shown |= {name: UNMEASURED for name in shown if "response_time" in name}
    return shown


# Files.


class Tables(StatsCSV):
    """The files that the page offers for download."""

    def _requests_data_rows(self, csv_writer: Any) -> None:
        stats = self.environment.stats
        for entry in chain(sort_stats(stats.entries), [stats.total]):
            row = measured(entry, self.percentiles_to_report)
            csv_writer.writerow([row.get(column, UNMEASURED) for column in self.requests_csv_columns])


class FileTables(Tables, StatsCSVFileWriter):
    """The files of ``--csv``."""

    def __init__(self, environment: Environment, *arguments: Any) -> None:
        super().__init__(environment, *arguments)
        # Locust fires this event in reverse: the conductor, which comes later, has waited for the last numbers by then.
        # Later is too late: saving the JSON resets what is counted.
        environment.events.quitting.add_listener(self._finish)

    def _stats_history_data_rows(self, csv_writer: Any, now: float) -> None:
        stats, runner = self.environment.stats, self.environment.runner
        moment: Row = {"Timestamp": int(now), "User Count": runner.user_count if runner is not None else 0}
        for entry in chain(sort_stats(stats.entries) if self.full_history else [], [stats.total]):
            row = moment | measured(entry, self.percentiles_to_report, rates_now=True, times_now=self.full_history)
            columns = (column.removeprefix("Total ") for column in self.stats_history_csv_columns)
            csv_writer.writerow([row.get(column, UNMEASURED) for column in columns])

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


def summary(stats: RequestStats, current: bool = True) -> list[str]:
    """What was requested, and how long it took in milliseconds."""
    return list(_table(stats, SUMMARY, [], current))


def percentile_summary(stats: RequestStats) -> list[str]:
    """Percentiles in milliseconds."""
    names = get_readable_percentiles(PERCENTILES_TO_REPORT)
    columns = {name: name for name in names} | {"# reqs": "Request Count"}
    return ["Response time percentiles, ms", *_table(stats, columns, PERCENTILES_TO_REPORT, False)]


def _table(stats: RequestStats, columns: dict[str, str], percentiles: Sequence[float], now: bool) -> Iterator[str]:
    """A row for each entry, and one for all."""
    table: list[tuple[str, Iterable[str]]] = [("", columns)]
    for entry in chain(sort_stats(stats.entries), [stats.total]):
        row = measured(entry, percentiles, rates_now=now)
        table.append((f"{entry.method} {entry.name}".strip(), [str(row.get(name, "-")) for name in columns.values()]))
    widths = [max(map(len, cells)) for cells in zip(*(cells for _, cells in table), strict=True)]
    for number, (name, cells) in enumerate(table):
        if number in (1, len(table) - 1):
            yield "-" * (WIDTH + sum(widths) + 2 * len(widths))
        yield f"{name:{WIDTH}}" + "".join(f"  {cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
