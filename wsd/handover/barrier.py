"""Waiting for a barrier of the fan-out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from wsd.delivery.fanout import Fanout

__all__ = ["behind_barrier"]


async def behind_barrier(fanout: Fanout, act: Callable[[], None] = lambda: None) -> None:
    """Act when all that has come until now is written, and wait until that is done."""
    done = asyncio.Event()

    def act_and_tell() -> None:
        try:
            act()
        finally:
            done.set()

    fanout.barrier(act_and_tell)
    await done.wait()
