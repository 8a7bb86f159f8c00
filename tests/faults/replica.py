"""Faults of a replica that the daemon listens to, while messages are published at its master."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.faults.scene import Fault
from tests.faults.single import SingleStage, freeze, kill, start, thaw
from tests.lib.routes import Route, Server
from tests.lib.servers import RedisServer

__all__ = ["FAULTS", "open_stage"]

REPL_TIMEOUT = 3
"""Seconds of silence after which the replica gives its master up."""


class ReplicaStage(SingleStage):
    """A master, which the faults hit, and a replica, which the daemon listens to."""

    kind = "replica"
    options = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")

    async def begin(self) -> None:
        """Start both."""
        await super().begin()
        options = ("--replicaof", "127.0.0.1", str(self.redis.port), "--repl-timeout", str(REPL_TIMEOUT))
        self.replica = await asyncio.to_thread(RedisServer, *options)
        self.environment["WSD_REDIS_URL"] = self.replica.url

    async def end(self) -> None:
        """End both."""
        await asyncio.to_thread(self.replica.remove)
        await super().end()

    def route(self) -> Route:
        """Messages are published at the master."""
        return Server(self.redis.port)


@asynccontextmanager
async def open_stage() -> AsyncIterator[ReplicaStage]:
    """Each fault starts its own."""
    yield ReplicaStage()


FAULTS: list[Fault[SingleStage]] = [
    Fault("its master killed", kill, restore=start, log=["does not hear its master"]),
    Fault("its master frozen", freeze, restore=thaw, notice_bound=3 * REPL_TIMEOUT, log=["does not hear its master"]),
]
