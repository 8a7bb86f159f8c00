"""Where messages come from: one Redis, two of them, Sentinels, or a Cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from tests.handover.numbers import Orders
from tests.lib.servers import RedisServer
from tests.lib.topologies import ClusterOfSix, SentinelTrio

__all__ = ["Cluster", "Deployment", "Pair", "Sentinels"]


class Deployment:
    """One Redis. A context manager that starts it and ends it.

    Args:
        prefixes: of the channels that messages are published on: each is a place of its own.
    """

    kind = "single"

    def __init__(self, prefixes: Sequence[str] = ("",)) -> None:
        self.prefixes = prefixes
        self.url = ""  # redis_url

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.remove)

    def start(self) -> None:
        """Start it."""
        self.redis = RedisServer()
        self.url = self.redis.url

    def remove(self) -> None:
        """End it."""
        self.redis.remove()

    def orders(self, topics: Sequence[str], padding: Mapping[str, int]) -> Orders:
        """What the publisher is told."""
        return Orders("server", [[self.redis.port]], topics, self.prefixes, padding)


class Pair(Deployment):
    """Two of them, of which the daemon listens to the first: each is a place of its own."""

    def start(self) -> None:
        """Start both."""
        super().start()
        self.other = RedisServer()

    def remove(self) -> None:
        """End both."""
        super().remove()
        self.other.remove()

    def orders(self, topics: Sequence[str], padding: Mapping[str, int]) -> Orders:
        """What the publisher is told."""
        return Orders("server", [[self.redis.port], [self.other.port]], topics, self.prefixes, padding)


class Sentinels(Deployment):
    """A master with two replicas and three Sentinels."""

    kind = "Sentinel"

    def start(self) -> None:
        """Start them."""
        self.trio = SentinelTrio().__enter__()
        self.url = self.trio.url

    def remove(self) -> None:
        """End them."""
        self.trio.__exit__(None, None, None)

    def orders(self, topics: Sequence[str], padding: Mapping[str, int]) -> Orders:
        """What the publisher is told."""
        return Orders("sentinel", [[sentinel.port for sentinel in self.trio.sentinels]], topics, ("",), padding)


class Cluster(Deployment):
    """Three masters with a replica each."""

    kind = "cluster"

    def start(self) -> None:
        """Start them."""
        self.cluster = ClusterOfSix().__enter__()
        self.url = self.cluster.url

    def remove(self) -> None:
        """End them."""
        self.cluster.__exit__(None, None, None)

    def orders(self, topics: Sequence[str], padding: Mapping[str, int]) -> Orders:
        """What the publisher is told."""
        return Orders("cluster", [[node.port for node in self.cluster.nodes]], topics, ("",), padding)
