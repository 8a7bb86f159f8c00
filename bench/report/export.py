"""Results for other programs: as CSV, and as logs of HdrHistogram."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.load.histogram import Histogram, middle
from bench.measure.work import Result
from bench.report.saved import UnusableFile, save

if TYPE_CHECKING:
    from hdrh.histogram import HdrHistogram

__all__ = ["save_csv", "save_hdr"]

COUNTS = {"failures", "broken", "closes", "churn_failures"}
"""Counts by reason: the table has their sum."""

LEFT_OUT = {"histogram", "samples", "notes"}
"""What is no number."""

LONGEST = 3_600_000_000
"""Microseconds of the longest latency in a log: an hour."""

DIGITS = 2
"""Digits of a value in a log: 1 %, while our buckets know values to 3 %."""


def save_csv(path: Path, results: list[Result]) -> None:
    """Write a table: a line for each measurement, and a column for each number, in the units of the JSON.

    Raises:
        UnusableFile: if that can't be.
    """
    rows = [dict(_flat(result)) for result in results]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    save(path, text.getvalue())


def _flat(result: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in result.items():
        if name in LEFT_OUT:
            continue
        if name in COUNTS:
            yield prefix + name, sum(value.values())
        elif isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            yield prefix + name, "; ".join(map(str, value))
        else:
            yield prefix + name, "" if value is None else value


def save_hdr(directory: Path, results: list[Result]) -> None:
    """Write a log of latencies in microseconds for each case and server, with an interval for each repetition.

    Of a storm they are those from connect to subscribed.

    Raises:
        UnusableFile: if that can't be.
    """
    from hdrh.log import HistogramLogWriter

    logs: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        if "histogram" in result or "setup" in result:
            logs[f"{result['case']}-{result['server']}.hlog"].append(result)
    try:
        directory.mkdir(exist_ok=True)
    except OSError as exc:
        raise UnusableFile(f"{directory}: can't be made: {exc.strerror}") from None
    for name, repetitions in logs.items():
        text = StringIO()
        writer = HistogramLogWriter(text)
        writer.output_comment("[Latencies in microseconds, Interval_Max in milliseconds]")
        writer.output_log_format_version()
        writer.output_legend()
        for result in repetitions:
            recorded = _recorded(Histogram(result.get("histogram") or result["setup"]["histogram"]))
            begin = result["began"]
            writer.output_interval_histogram(recorded, begin, begin + result["took"], max_value_unit_ratio=1000.0)
        save(directory / name, text.getvalue())


def _recorded(histogram: Histogram) -> HdrHistogram:
    from hdrh.histogram import HdrHistogram

    recorded = HdrHistogram(1, LONGEST, DIGITS)
    for number, count in histogram.counts.items():
        recorded.record_value(min(max(round(middle(number)), 1), LONGEST), count)
    return recorded
