"""Waiting for what no event tells, with limits that a busy machine keeps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

import hiredis

__all__ = ["BUSY", "PATIENCE", "eventually", "until"]

PATIENCE = 60.0
"""Seconds until a test gives up waiting for something that should take milliseconds. On a machine with ten times too
much to do, milliseconds become seconds. Only a test that fails waits so long."""

BUSY = 10.0
"""Seconds that a busy machine may add to a time that the design promises. Less, and tests fail that find nothing."""


async def eventually(condition: Callable[[], object], what: str = "the condition", patience: float = PATIENCE) -> None:
    """Wait until a condition holds that only this process can see and no event tells."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience
    while not condition():
        assert loop.time() < deadline, f"{what} did not come true within {patience:g} s"
        await asyncio.sleep(0.005)


def until(condition: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    """Wait for what another process does. A server that is away, or starting, makes the condition false."""
    deadline = time.monotonic() + patience
    while True:
        with suppress(hiredis.HiredisError, OSError):
            if condition():
                return
        assert time.monotonic() < deadline, f"{what} did not come true within {patience:g} s"
        time.sleep(0.01)
