"""The table of what was found: Markdown that can be read as it is, so that its README can have it."""

from __future__ import annotations

from collections.abc import Sequence

from tests.handover.scene import TOPICS, Row
from tests.lib.suites import verdict
from tests.lib.tables import table

__all__ = ["LEGEND", "render"]

HEAD = (
    "scenario",
    "Redis",
    "workers",
    "seed",
    "times",
    "slowest",
    "clients",
    "messages",
    "gaps",
    "lost",
    "closed",
    "",
)

TEXT = (0, 1, 11)
"""Columns that begin at the left; the others are numbers."""

LEGEND = f"""
- workers: at the start
- times: how often it happened, in a row
- slowest: seconds that a reload took at most
- clients: all that there were; some come and go
- messages: what all of them received, of 2,000 a second on {len(TOPICS)} topics
- gaps: gap messages that a client got, at most
- lost: messages that a client missed, at most; each lies under an announced gap
- closed: connections that the service has ended, by close code; 1006 is none

What came was in order, and nothing came twice, and every request was answered, but for the rows that failed.
"""


def render(rows: Sequence[Row]) -> str:
    """The table, and what its columns mean."""
    return table(HEAD, list(map(_cells, rows)), TEXT) + LEGEND


def _cells(row: Row) -> tuple[str, ...]:
    if row.skipped:
        return row.name, row.kind, str(row.workers), *[""] * 8, verdict(row)
    found = row.verdict
    return (
        row.name,
        row.kind,
        str(row.workers),
        str(row.seed),
        str(row.times),
        f"{row.slowest:.1f}",
        str(found.clients),
        str(found.messages),
        str(max(found.gaps.values(), default=0)),
        str(max(found.lost.values(), default=0)),
        ", ".join(f"{count} {code}" for code, count in sorted(found.ends.items())) or "0",
        verdict(row),
    )
