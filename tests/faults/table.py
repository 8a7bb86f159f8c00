"""The table of what was measured: Markdown that can be read as it is, so that its README can have it."""

from __future__ import annotations

from collections.abc import Sequence

from tests.faults.scene import CLIENTS, HEARTBEAT, TOPICS, Row

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
    lines = [HEAD, *map(_cells, rows)]
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(HEAD))]
    widths[-1] = 3  # what is remarkable is seldom short
    rule = tuple("-" * width if column in TEXT else "-" * (width - 1) + ":" for column, width in enumerate(widths))
    return "".join(map(_line, [HEAD, rule, *lines[1:]], [widths] * (len(lines) + 1))) + LEGEND


def _line(cells: tuple[str, ...], widths: Sequence[int]) -> str:
    aligned = (
        cell.ljust(width) if column in TEXT else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return f"| {' | '.join(aligned)} |\n"


def _cells(row: Row) -> tuple[str, ...]:
    if row.skipped:
        return row.name, row.kind, "", "", "", "", "", f"skipped: {row.skipped}"
    verdict = "; ".join([*(f"FAILED: {problem}" for problem in row.problems), *row.remarks]) or "ok"
    return (
        row.name,
        row.kind,
        _seconds(row.notice),
        _seconds(row.heal),
        str(row.lost),
        str(row.gaps),
        "" if row.cpu is None else f"{row.cpu:.0%}",
        verdict,
    )


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.2f}"
