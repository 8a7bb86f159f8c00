"""A link to Redis, with what it says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.lib.addresses import parse_address
from tests.lib.recorder import Recorder
from tests.lib.waiting import eventually
from wsd.deployment import Address
from wsd.redis.guides import Fixed
from wsd.redis.link import Link
from wsd.redis.wire import CLASSIC, Dialect

__all__ = ["HEARTBEAT", "linked"]

HEARTBEAT = 0.4
"""Seconds."""


@asynccontextmanager
async def linked(
    address: Address | str,
    *,
    wait: bool = True,
    dialect: Dialect = CLASSIC,
    recorder: Recorder | None = None,
    master_only: bool = False,
) -> AsyncIterator[tuple[Link, Recorder]]:
    """Run a link to a server, and record what it says and counts.

    Args:
        address: of the server.
        wait: until it is up.
        dialect: the kind of Pub/Sub.
        recorder: takes what it says.
        master_only: whether a server is left that is no master.
    """
    recorder = recorder or Recorder()
    link = Link(
        Fixed(parse_address(address) if isinstance(address, str) else address, master_only=master_only),
        dialect=dialect,
        heartbeat=HEARTBEAT,
        metrics=recorder.metrics,
        events=recorder.calls,
        own="private",
        name_private=lambda name: f"__wsd:{name}".encode(),
    )
    task = asyncio.create_task(link.run())
    try:
        if wait:
            await eventually(lambda: link.up, "the link")
        yield link, recorder
    finally:
        task.cancel()
        await asyncio.wait((task,))
