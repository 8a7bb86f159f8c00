"""All scenarios, and how they are played: one after the other, because each keeps a core busy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import uvloop

from tests.handover import accidents, changes, kills, outages, reloads
from tests.handover.scene import Row, Scenario, play

__all__ = ["SCENARIOS", "names", "run", "scenario"]

SCENARIOS: Sequence[Scenario] = [
    scenario for module in (reloads, outages, changes, accidents, kills) for scenario in module.SCENARIOS
]

THREADS = 16
"""For what is waited for while the clients live."""


def names() -> list[str]:
    """The names of all scenarios, in the order of the table."""
    return [scenario.name for scenario in SCENARIOS]


def scenario(name: str) -> Scenario:
    """The scenario of a name."""
    return next(each for each in SCENARIOS if each.name == name)


def run(
    wanted: Callable[[str], bool], seed: int, times: int = 1, on_row: Callable[[Row], object] = lambda row: None
) -> list[Row]:
    """Play scenarios.

    Args:
        wanted: whether the scenario of a name is to be played.
        seed: of what is done by chance.
        times: how often it happens at the least, where it can happen often. More than once: what can't is left out.
        on_row: called with each row when it is there.
    """
    rows: list[Row] = []
    for each in SCENARIOS:
        if not wanted(each.name) or (times > 1 and not each.often):
            continue
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.get_loop().set_default_executor(ThreadPoolExecutor(THREADS))
            rows.append(runner.run(play(replace(each, times=max(each.times, times)), seed)))
        on_row(rows[-1])
    return rows
