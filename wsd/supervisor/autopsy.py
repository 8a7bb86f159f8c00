"""The end of a worker whose event loop stands still: its stacks are logged, because nothing else says why."""

from __future__ import annotations

import asyncio
import logging
import signal

from wsd import logs
from wsd.supervisor.child import Child

__all__ = ["put_down"]

STACKS_PATIENCE = 2.0
"""Seconds for the worker to write its stacks. It takes milliseconds; a process that is stopped never does."""

LOOK = 0.05
"""Seconds between two looks whether it has written."""

MAX_STACKS = 65_536
"""Bytes of stacks that are read. The log leaves out the middle of what is longer than a page or two."""

logger = logging.getLogger(__name__)


async def put_down(child: Child, silence: float) -> None:
    """Let a worker write its stacks, log them, and kill it, unless it ends by itself meanwhile.

    Args:
        child: the worker.
        silence: seconds since it was last heard of.
    """
    child.ask_for_stacks()
    stacks = await _stacks(child)
    if child.status is not None:
        return
    logger.error(
        "worker %d (pid %d) is stuck: it has not been heard of for %.1f s, and is killed; %s",
        child.number,
        child.pid,
        silence,
        "its stacks follow" if stacks else "it has not told its stacks, so the process is stopped, or waits in a call",
        extra=logs.fields(worker=child.number, pid=child.pid, reason="stuck") | {"traceback": stacks},
    )
    child.kill(signal.SIGKILL)


async def _stacks(child: Child) -> str:
    """What the worker writes, once there comes no more of it."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + STACKS_PATIENCE
    seen = ""
    while loop.time() < deadline and child.status is None:
        await asyncio.sleep(LOOK)
        stacks = child.stacks(MAX_STACKS)
        if stacks and stacks == seen:
            break
        seen = stacks
    return seen.rstrip("\n")
