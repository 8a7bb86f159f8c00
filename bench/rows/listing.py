"""What there is to measure, as text."""

from __future__ import annotations

from collections.abc import Iterator

from bench.rows.registry import ROWS, SUITES
from bench.rows.row import Row
from bench.servers.catalogue import SERVERS

__all__ = ["listing"]


def listing() -> str:
    """All suites, servers and rows; of each row its loads, and its goals with their limits."""
    lines = ["suites"]
    lines += [f"  {suite.name:16} {suite.words}" for suite in SUITES.values()]
    lines += ["", "servers"]
    for name, kind in SERVERS.items():
        why = kind.absent()
        lines.append(f"  {name:16} {kind.title}{f' (left out: {why})' if why else ''}")
    for row in ROWS.values():
        lines += ["", *_row(row)]
    return "\n".join(lines)


def _row(row: Row) -> Iterator[str]:
    yield f"{row.name}: {row.words}{' (full suite only)' if row.only_full else ''}"
    for case in row.cases:
        more = f"; full suite: {', '.join(case.more)}" if case.more else ""
        yield f"  load  {case.name}: {case.work}"
        for server in case.changes:
            if (other := str(case.work_of(server))) != str(case.work):
                yield f"        {server}: {other}"
        yield (
            f"        on {', '.join(case.servers)}{more}"
            if case.servers
            else f"        full suite: {', '.join(case.more)}"
        )
    for goal in row.goals([]):
        sign = ">=" if goal.at_least else "<="
        limit = f"{sign} {goal.limit:g} {goal.unit}".strip()
        yield f"  goal  {limit:12} {goal.measure} ({goal.work})"
