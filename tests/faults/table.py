"""The table of what was measured."""

from __future__ import annotations

from collections.abc import Sequence

from tests.faults.scene import CLIENTS, HEARTBEAT, TOPICS, Row

__all__ = ["render"]

HEAD = ("fault", "Redis", "notice", "heal", "lost", "gaps", "CPU", "")

LEGEND = f"""
notice  seconds from the fault until /readyz is 503 or the log tells of it; redis_heartbeat is {HEARTBEAT:g}
heal    seconds from when Redis is usable again, or has chosen another master, until /readyz is 200 and all topics flow
lost    messages that a client missed, of 400 a second on {len(TOPICS)} topics; each lies under an announced gap
gaps    gap messages that a client got: one for each topic and loss of its link
CPU     share of a core that the daemon took while Redis was away, the answers of /readyz included
Of {CLIENTS} clients the one with most. What came was in order, and nothing came twice.
"""


def render(rows: Sequence[Row]) -> str:
    """The table as aligned text."""
    lines = [HEAD, *map(_cells, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    text = ""
    for line in lines:
        cells = [
            cell.ljust(width) if column in (0, 1, 7) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        text += "  ".join(cells).rstrip() + "\n"
    return text + LEGEND


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
