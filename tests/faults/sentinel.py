"""Faults of a master with replicas and Sentinels."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from tests.faults.scene import HEARTBEAT, TOPICS, Fault
from tests.faults.watch import ObservedDaemon
from tests.lib.routes import Route, ToMaster
from tests.lib.topologies import SentinelTrio
from tests.lib.waiting import until

__all__ = ["FAULTS", "SentinelStage", "open_stage"]

LEAVE_BOUND = 2 * HEARTBEAT + 3.0
"""Seconds from the decision of the Sentinels until the daemon has healed: the design promises to leave the former
master within two heartbeats, the rest is for a busy machine."""

DECIDE_BOUND = 15.0
"""Seconds from the fault until it is noticed, if that takes a decision of the Sentinels."""


class SentinelStage:
    """The servers, which all faults share, and a daemon in front of them."""

    kind = "Sentinel"
    daemon: ObservedDaemon

    def __init__(self, trio: SentinelTrio) -> None:
        self.trio = trio
        self.program: Sequence[str] = ObservedDaemon.program
        self.topics: tuple[str, ...] = TOPICS
        self.more_topics: tuple[str, ...] = ()
        self.idlers = 0
        self.environment = {"WSD_REDIS_URL": trio.url}

    async def begin(self) -> None:
        """Make it whole."""
        await self.again()

    async def again(self) -> None:
        """Make it whole, whoever is the master by now."""
        await asyncio.to_thread(self.trio.settle)
        self.master = await asyncio.to_thread(self.trio.master)

    async def end(self) -> None:
        """The next fault makes it whole."""

    def route(self) -> Route:
        """Messages are published at the master."""
        return ToMaster([sentinel.port for sentinel in self.trio.sentinels])


@asynccontextmanager
async def open_stage() -> AsyncIterator[SentinelStage]:
    """Start the servers."""
    trio = SentinelTrio()
    await asyncio.to_thread(trio.__enter__)
    try:
        yield SentinelStage(trio)
    finally:
        await asyncio.to_thread(trio.__exit__, None, None, None)


async def until_decided(stage: SentinelStage) -> None:
    """Wait until a Sentinel names another master."""
    before = stage.master.port
    await asyncio.to_thread(until, lambda: stage.trio.master_port() != before, "another master")


async def fail_over(stage: SentinelStage) -> None:
    """Demote the master."""
    await asyncio.to_thread(stage.trio.fail_over)


async def kill_master(stage: SentinelStage) -> None:
    """End the master without a warning."""
    stage.master.stop()


async def freeze_master(stage: SentinelStage) -> None:
    """Stop the master; its connections stay open."""
    stage.master.freeze()


async def blind_sentinels(stage: SentinelStage) -> None:
    """Let the master be down to the Sentinels alone: it serves everyone else as before."""
    await asyncio.to_thread(stage.trio.blind, stage.master)


async def kill_master_and_sentinel(stage: SentinelStage) -> None:
    """End the master, and the Sentinel that stands first in redis_url."""
    stage.trio.sentinels[0].stop()
    stage.master.stop()


async def kill_sentinels(stage: SentinelStage) -> None:
    """End all Sentinels."""
    for sentinel in stage.trio.sentinels:
        sentinel.stop()


async def start_sentinels(stage: SentinelStage) -> None:
    """Start them again."""
    for sentinel in stage.trio.sentinels:
        await asyncio.to_thread(sentinel.start)


async def cut_link(stage: SentinelStage) -> None:
    """Cut off whoever listens to the master, the Sentinels excepted: they would take it for down."""
    await asyncio.to_thread(stage.master, "CLIENT", "KILL", "TYPE", "pubsub", "USER", "default")


def failover(name: str, strike: Callable[[SentinelStage], Awaitable[None]]) -> Fault[SentinelStage]:
    """A fault that the Sentinels answer with another master."""
    return Fault(name, strike, recovery=until_decided, notice_bound=DECIDE_BOUND, heal_bound=LEAVE_BOUND)


FAULTS: list[Fault[SentinelStage]] = [
    failover("SENTINEL FAILOVER", fail_over),
    failover("master killed", kill_master),
    failover("master frozen", freeze_master),
    failover("master down to Sentinels only", blind_sentinels),
    failover("master and a Sentinel killed", kill_master_and_sentinel),
    Fault("all Sentinels killed", kill_sentinels, restore=start_sentinels, harmless=True),
    Fault("CLIENT KILL at the master, 100 times", cut_link, times=100),
]
