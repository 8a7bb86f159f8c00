"""What a measurement is made with: a fresh server, a Redis and a generator, each on its cores, and their counters."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from bench.load.control import Publisher, Shard
from bench.load.group import Plan
from bench.load.publisher import Order
from bench.measure.cores import Busy, Cores, busy
from bench.measure.work import Load, Result
from bench.servers.process import RedisServer
from bench.servers.server import KEY, Server

__all__ = ["Reading", "Rig"]


@dataclass(frozen=True, slots=True)
class Reading:
    """The counters of all processes at one time."""

    at: int  # nanoseconds
    server: float  # CPU seconds
    redis: float
    server_cores: Busy
    load_cores: Busy
    shard: Result
    shared: bool = False  # whether the cores of the server are those of the load, too


class Rig:
    """A server, a Redis and a generator that belong together.

    Args:
        kind: the server.
        cores: which cores are for whom.
        topics: that will be published.
    """

    def __init__(self, kind: type[Server], cores: Cores, topics: int = 1) -> None:
        self.cores = cores
        self.redis = RedisServer(cores.load)
        self.server = kind(self.redis, cores.server)
        self.server.topics = topics
        self._shard: Shard | None = None

    def __enter__(self) -> Rig:
        try:
            self._shard = Shard(self.cores.load)  # it starts on its own core meanwhile
            self.redis.start()
            self.server.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        if self._shard is not None:
            self._shard.stop()
        try:
            self.server.stop()
        finally:
            self.redis.stop()

    @property
    def shard(self) -> Shard:
        """The generator of clients, between entry and exit."""
        assert self._shard is not None
        return self._shard

    def plan(self, load: Load, group: str = "listeners", **changes: Any) -> Plan:
        """A group of clients of the server."""
        plan = Plan(
            group=group,
            count=load.connections,
            addresses=[("127.0.0.1", self.server.port)],
            dialect=self.server.dialect,
            topics=load.topics,
            topics_each=load.topics_each,
            key=KEY if self.server.dialect == "wsd" else "",
            sampled=load.sampled,
        )
        return replace(plan, **changes)

    def publisher(self, load: Load, seconds: float) -> Publisher:
        """A publisher that is ready."""
        order = Order(self.server.feed, self.server.feed_port, load.rate, load.topics, load.size, seconds)
        return Publisher(order, self.cores.load)

    def read(self, shard: Result | None = None) -> Reading:
        """Read all counters.

        Args:
            shard: those of the generator, if it has told them just now.
        """
        shard = shard or self.shard.stats()
        server, redis, cores = self.server.cpu(), self.redis.cpu(), self.cores
        return Reading(shard["at"], server, redis, busy(cores.server), busy(cores.load), shard, cores.shared)
