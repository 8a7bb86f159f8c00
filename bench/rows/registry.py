"""All rows, and how thoroughly each suite measures them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bench.measure.work import Result, Windows
from bench.rows.burst import BURST, STALLED
from bench.rows.case import Case, Cell, Suite
from bench.rows.grid import CLIENTS, PAYLOAD, RATE
from bench.rows.handover import HANDOVER
from bench.rows.joined import JOINED
from bench.rows.redis import REDIS
from bench.rows.restart import RESTART
from bench.rows.round import ROUND
from bench.rows.row import Row
from bench.rows.single import SINGLE
from bench.rows.soak import SOAK
from bench.rows.storm import RAMP, STANDING, STORM
from bench.rows.topics import TOPICS
from bench.rows.workers import WORKERS

__all__ = ["CASES", "ROWS", "SUITES", "cells", "evaluate", "in_turn"]

_ROWS = (
    SINGLE,
    JOINED,
    ROUND,
    CLIENTS,
    PAYLOAD,
    TOPICS,
    BURST,
    STALLED,
    STORM,
    STANDING,
    RESTART,
    HANDOVER,
    WORKERS,
    REDIS,
    SOAK,
    RAMP,
    RATE,
)

ROWS: dict[str, Row] = {row.name: row for row in _ROWS}
"""By name, in the order of measuring."""

CASES: dict[str, Case] = {case.name: case for row in _ROWS for case in row.cases}
"""By name."""

SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (
        Suite("quick", "about six minutes on two idle cores", Windows(1.0, messages=60, samples=1500, soak=4.0), 1),
        # Ten of the minutes are the soak.
        Suite(
            "full",
            "the grid: about an hour",
            Windows(3.0, messages=100, samples=3000, soak=600.0),
            2,
            everything=True,
        ),
        Suite(
            "smoke",
            "everything with a twentieth of the clients: whether all works, in a minute",
            Windows(0.4, messages=0, samples=0, soak=1.5),
            1,
            shrunk=20,
        ),
    )
}


def cells(suite: Suite) -> list[Cell]:
    """What a suite measures."""
    return [cell for row in ROWS.values() for cell in row.cells(suite)]


def evaluate(results: Sequence[Result], suite: Suite) -> list[dict[str, Any]]:
    """Hold a result to all goals; to those that must hold everywhere, if the suite has fewer clients.

    Returns:
        The goals as JSON, with the row of each.
    """
    found = [(row, goal) for row in ROWS.values() for goal in row.goals(results)]
    if suite.shrunk > 1:
        share = f"1/{suite.shrunk} of: "
        found = [(row, replace(goal, work=share + goal.work)) for row, goal in found if goal.exact]
    return [{"row": row.name, **goal.dump()} for row, goal in found]


def in_turn(cells: Sequence[Cell], repeat: int = 0) -> list[Cell]:
    """The order of measuring: within a case, repetition by repetition over all servers.

    The first repetition of all, then the second of all, so that a machine that gets slower meanwhile gets slower for
    everyone.

    Args:
        cells: what is measured.
        repeat: repetitions of each; 0: as many as each has.
    """
    ordered: list[Cell] = []
    for case in dict.fromkeys(cell.case for cell in cells):
        same = [cell for cell in cells if cell.case == case]
        for repetition in range(repeat or max(cell.repetitions for cell in same)):
            ordered += [cell for cell in same if repetition < (repeat or cell.repetitions)]
    return ordered
