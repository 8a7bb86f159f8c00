"""All faults, and how they are played: several at a time, since they mostly wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import uvloop

from tests.faults import cluster, sentinel, single
from tests.faults.scene import Fault, Row, Stage, measure

__all__ = ["names", "run"]


@dataclass(frozen=True)
class Lane:
    """Faults that are played one after the other."""

    open: Callable[[], AbstractAsyncContextManager[Any]]
    faults: Sequence[Fault[Any]]


@asynccontextmanager
async def _single() -> AsyncIterator[Stage]:
    yield single.SingleStage()


LANES = [
    Lane(_single, single.FAULTS[0::2]),
    Lane(_single, single.FAULTS[1::2]),
    Lane(_single, single.LEAKS),
    Lane(sentinel.open_stage, sentinel.FAULTS),
    Lane(cluster.open_stage, cluster.FAULTS),
]

ALONE = [Lane(_single, single.HEAVY), Lane(cluster.open_stage, cluster.HEAVY)]
"""What keeps a core busy: played when all others are done."""


def names() -> list[str]:
    """The names of all faults, in the order of the table."""
    lanes: list[Sequence[Fault[Any]]] = [
        single.FAULTS,
        sentinel.FAULTS,
        cluster.FAULTS,
        single.LEAKS,
        single.HEAVY,
        cluster.HEAVY,
    ]
    return [fault.name for faults in lanes for fault in faults]


def run(wanted: Callable[[str], bool]) -> list[Row]:
    """Play the faults whose names are wanted."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        rows = runner.run(_play(wanted))
    order = names()
    return sorted(rows, key=lambda row: order.index(row.name))


async def _play(wanted: Callable[[str], bool]) -> list[Row]:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(64))  # they wait, one for every lane at least
    rows: list[Row] = []
    await asyncio.gather(*(_play_lane(lane, wanted, rows) for lane in LANES))
    for lane in ALONE:
        await _play_lane(lane, wanted, rows)
    return rows


async def _play_lane(lane: Lane, wanted: Callable[[str], bool], rows: list[Row]) -> None:
    faults = [fault for fault in lane.faults if wanted(fault.name)]
    if faults:
        async with lane.open() as stage:
            rows.extend([await measure(fault, stage) for fault in faults])
