"""Reloads in which a process hangs, or has no descriptors left."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from tests.handover.crowd import Size
from tests.handover.diary import Diary, End
from tests.handover.injection import Injection, Trap
from tests.handover.scene import Scenario, Scene

__all__ = ["SCENARIOS"]

STEPS = "wsd.handover.steps:reached"
"""What tells that a step of a hand-over is reached."""

NO_TAIL = Size(sleepers=0, tails=0)
"""`wsd tail` comes again when it has lost its connection, and says so."""

NO_VISITORS = Size(sleepers=0, visitors=0)
"""Who comes while there are no descriptors is not let in."""

TIMEOUT = "4"
"""Seconds that a worker may stand still: more than a busy machine makes it."""

FEW = 3
"""Descriptors that a process has left: it needs some for itself, and one for each client that moves."""

SHORT = 2.0
"""Seconds for which it has no more. The move is tried again some times each second."""


async def prepare_traps(scene: Scene) -> None:
    """Let processes of wsd be trapped."""
    scene.injection = Injection(scene.folder, [STEPS])
    scene.environment |= scene.injection.environment


# A worker that hangs.


@dataclass(frozen=True)
class Hang:
    """Reload, and let a worker stand still at a step of a hand-over.

    Args:
        step: its name.
        alone: whether it is the only one then that holds the sockets of those who move.
    """

    step: str
    alone: bool

    async def __call__(self, scene: Scene) -> None:
        """Let it happen: to the first worker, which is replaced before the other one."""
        held = await asyncio.to_thread(scene.service.metric, "wsd_worker_connections", worker="0")
        trap = scene.injection.trap(STEPS, self.step, "hang")
        await scene.reload()
        assert trap.pid is not None, f"nobody has reached {self.step}"
        await asyncio.to_thread(scene.service.wait_until_ready)
        ended = [diary.name for diary in scene.crowd.diaries if diary.end is not None and not is_visitor(diary)]
        assert len(ended) <= (held if self.alone else 0), f"the worker had {held:.0f}, and these have ended: {ended}"


def has_lost_its_process(diary: Diary, end: End) -> bool:
    """Whether a client has lost the process that held its socket."""
    return end.code is None


def has_come_just_before(diary: Diary, end: End) -> bool:
    """The same of one that the new worker had let in before it stood still."""
    return end.code is None and is_visitor(diary)


def is_visitor(diary: Diary) -> bool:
    """Whether a client comes and goes."""
    return diary.name.startswith("visitor")


def _hang(step: str, *, alone: bool) -> Scenario:
    """A worker hangs; see :class:`Hang`."""
    return Scenario(
        f"a worker hangs: {step}",
        Hang(step, alone),
        workers=2,
        settings={"WSD_WORKER_TIMEOUT": TIMEOUT},
        size=NO_TAIL,
        prepare=prepare_traps,
        may_end=has_lost_its_process if alone else has_come_just_before,
        complaints=("is stuck",),
    )


# Descriptors.


async def run_short(scene: Scene) -> None:
    """Reload, and let both sides of a hand-over have hardly a descriptor left for a while."""
    traps = [scene.injection.trap(STEPS, step) for step in ("GIVER_BEGINS", "TAKER_GREETED")]
    reloading = asyncio.create_task(scene.reload())
    try:
        before: list[tuple[int, tuple[int, int]]] = []
        for trap in traps:
            pid = await asyncio.to_thread(trap.wait_for_stop)
            before.append((pid, _shorten(pid)))
            trap.release()
        await asyncio.sleep(SHORT)
        assert not reloading.done(), "there were enough descriptors"
        for pid, limits in before:
            with suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    finally:
        _release(traps)
        await reloading


def _shorten(pid: int) -> tuple[int, int]:
    """Leave a process few descriptors beside those that it has; return its limits as they were."""
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir(f"/proc/{pid}/fd")))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (highest + 1 + FEW, limits[1]))
    return limits


def _release(traps: Sequence[Trap]) -> None:
    for trap in traps:
        trap.release()


SCENARIOS: Sequence[Scenario] = [
    Scenario(
        "descriptors are short amid a reload",
        run_short,
        workers=1,
        size=NO_VISITORS,
        prepare=prepare_traps,
    ),
    _hang("GIVER_PREPARES", alone=True),
    _hang("TAKER_PREPARES", alone=False),
    _hang("TAKER_HAS", alone=False),
    _hang("TAKER_ARRIVES", alone=True),
]
