"""Looks at the workers while a world lives: does /readyz tell the truth, and does memory stay bounded?"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.simulation.loop import Process
from wsd.redis.vitals import PAUSED_HEARTBEATS

if TYPE_CHECKING:
    from tests.simulation.world import World
    from wsd.worker.worker import Worker

__all__ = ["Watch", "holdings"]

LOOKS = 2000
"""Looks in the life of a world, at most; but not more often than `SHORTEST`."""

SHORTEST = 0.5
"""Seconds between two looks, at least."""

DOUBT = 3.0
"""Heartbeats of the link within which /readyz must say that nothing comes from Redis. One is on its way to Redis, or
about to be, and is waited for; the next connection is given as long. See systemd/README.md."""

DOUBT_MORE = 3.0
"""Seconds beyond that: ways may be slow."""

LARGEST_PASS = 4 * 2**20
"""Bytes that one pass of the fan-out may bring a connection, beyond its bound: it is closed then."""


@dataclass
class _Seen:
    """What was seen of a worker."""

    silent_since: float | None = None  # since when nothing can come from Redis, and the worker runs all the time
    connects: int = 0  # links that it had made by the last look: what came and went between two looks is no silence
    told: set[str] = field(default_factory=set)  # problems that were told already


class Watch:
    """Looks, again and again.

    Args:
        world: where.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._seen: dict[Process, _Seen] = {}
        self._doubt = DOUBT * world.swarm.heartbeat + DOUBT_MORE + 4 * world.slowest
        self._paused_at = 0.0  # when Redis last let writes wait

    @property
    def _paused_until(self) -> float:
        """Until when wsd may take a silent Redis for one that lets writes wait."""
        return self._paused_at + PAUSED_HEARTBEATS * self._world.swarm.heartbeat if self._paused_at else 0.0

    async def run(self) -> None:
        """Look until cancelled."""
        world = self._world
        period = max(SHORTEST, world.swarm.seconds / LOOKS)
        while True:
            await asyncio.sleep(period)
            silent = world.site.is_silent()
            if any(server.is_paused() for server in world.site.servers):
                self._paused_at = world.loop.now
            for process, worker in world.service.serving:
                self._look(process, worker, silent)

    def _look(self, process: Process, worker: Worker, silent: bool) -> None:
        world, now = self._world, self._world.loop.now
        seen = self._seen.setdefault(process, _Seen())
        connects, seen.connects = seen.connects, worker.metrics.link_connects
        if not silent or process.frozen or worker.gateway.draining or connects != seen.connects:
            seen.silent_since = None
        elif seen.silent_since is None:
            seen.silent_since = now
        elif now - max(seen.silent_since, self._paused_until) > self._doubt and not worker.status.unready():
            self._problem(seen, process, f"/readyz says 200, and nothing comes since {seen.silent_since:.1f}")
        most = world.swarm.max_backlog + LARGEST_PASS
        for connection in worker.gateway.connections:
            if connection.backlog_bytes > most:
                self._problem(seen, process, f"a backlog has {connection.backlog_bytes} bytes, more than {most}")

    def _problem(self, seen: _Seen, process: Process, what: str) -> None:
        if what not in seen.told:
            seen.told.add(what)
            self._world.problem(f"{process}: {what}")


def holdings(process: Process, worker: Worker, descriptors: int) -> dict[str, float]:
    """What a worker holds, of all that must be as before when nobody is there any more.

    Args:
        process: its process.
        worker: the worker.
        descriptors: how many sockets its process has.
    """
    gauges = worker.status._known() | worker.status._counted_now()
    return {
        "connections": gauges["open_connections"],
        "topics": gauges["topics"],
        "wanted channels": gauges["redis_channels_wanted"],
        "confirmed channels": gauges["redis_channels_confirmed"],
        "bytes of backlogs": gauges["backlog_bytes"],
        "deadlines": sum(map(len, worker._sweep._slots.values())),
        "links": len(worker.source.links),
        # What is asked of a server is under way now and then.
        "tasks": sum("Wire.ask" not in str(task.get_coro()) for task in process.tasks),
        "descriptors": descriptors,
    }
