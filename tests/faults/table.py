"""The table of what was measured: Markdown that can be read as it is, so that its README can have it."""

from __future__ import annotations

from collections.abc import Sequence

from tests.faults.scene import CLIENTS, HEARTBEAT, TOPICS, Row
from tests.lib.suites import verdict
from tests.lib.tables import table

__all__ = ["LEGEND", "render"]

HEAD = ("fault", "Redis", "notice", "heal", "lost", "gaps", "CPU", "")

TEXT = (0, 1, 7)
"""Columns that begin at the left; the others are numbers."""

LEGEND = f"""
- notice: seconds from the fault until /readyz is 503 or the log tells of it; redis_heartbeat is {HEARTBEAT:g} s
- heal: seconds from when Redis is usable again, or has chosen another master, until /readyz is 200 and all topics flow
- lost: messages that a client missed, of 400 a second on {len(TOPICS)} topics; each lies under an announced gap
- gaps: gap messages that a client got: one for each topic and loss of its link
- CPU: share of a core that the daemon took while Redis was away, the answers of /readyz included

Of {CLIENTS} clients the one with most. What came was in order, and nothing came twice, but for the rows that failed.
"""


def render(rows: Sequence[Row]) -> str:
    """The table, and what its columns mean."""
    return table(HEAD, list(map(_cells, rows)), TEXT) + LEGEND


def _cells(row: Row) -> tuple[str, ...]:
    if row.skipped:
        return row.name, row.kind, "", "", "", "", "", verdict(row)
    return (
        row.name,
        row.kind,
        _seconds(row.notice),
        _seconds(row.heal),
        str(row.lost),
        str(row.gaps),
        "" if row.cpu is None else f"{row.cpu:.0%}",
        verdict(row),
    )


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.2f}"
