"""All faults, and how they are played: several at a time, since they mostly wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import uvloop

from tests.faults import cluster, replica, sentinel, single
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
    Lane(replica.open_stage, replica.FAULTS),
    Lane(sentinel.open_stage, sentinel.FAULTS),
    Lane(cluster.open_stage, cluster.FAULTS),
]

ALONE = [Lane(_single, single.HEAVY), Lane(cluster.open_stage, cluster.HEAVY)]
"""What keeps a core busy: played when all others are done."""


def names() -> list[str]:
    """The names of all faults, in the order of the table."""
    lanes: list[Sequence[Fault[Any]]] = [
        single.FAULTS,
        replica.FAULTS,
        sentinel.FAULTS,
        cluster.FAULTS,
        single.LEAKS,
        single.HEAVY,
        cluster.HEAVY,
    ]
    return [fault.name for faults in lanes for fault in faults]


def run(wanted: Callable[[str], bool], times: int = 1, on_row: Callable[[Row], object] = lambda row: None) -> list[Row]:
    """Play the faults.

    Args:
        wanted: whether the fault of a name is to be played.
        times: how often each strikes; more than once: what keeps a core busy is left out.
        on_row: called with each row when it is there.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        rows = runner.run(_play(wanted, times, on_row))
    order = names()
    return sorted(rows, key=lambda row: order.index(row.name))


async def _play(wanted: Callable[[str], bool], times: int, on_row: Callable[[Row], object]) -> list[Row]:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(64))  # they wait, one for every lane at least
    rows: list[Row] = []

    async def play_lane(lane: Lane) -> None:
        faults = [fault for fault in lane.faults if wanted(fault.name)]
        faults = [replace(fault, times=max(fault.times, times)) if fault.often else fault for fault in faults]
        if not faults:
            return
        try:
            async with lane.open() as stage:
                while faults:
                    rows.append(await measure(faults[0], stage))
                    on_row(rows[-1])
                    del faults[0]
        except Exception as exc:  # its servers don't start, or don't end: the other lanes go on
            rows.extend(Row(fault.name, "", problems=[f"{type(exc).__name__}: {exc}"]) for fault in faults)

    await asyncio.gather(*map(play_lane, LANES))
    if times == 1:
        for lane in ALONE:
            await play_lane(lane)
    return rows
