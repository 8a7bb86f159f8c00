"""What every server that is measured says of itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import ClassVar

from bench.servers.process import Process, RedisServer

__all__ = ["KEY", "Server"]

KEY = "not a secret: it signs the tokens of one benchmark on one machine"
"""What the tokens of a run are signed with."""


class Server(Process, ABC):
    """A server that fans out.

    Args:
        redis: where its messages come from.
        cores: where it may run; empty: anywhere.
    """

    name: ClassVar[str]
    title: ClassVar[str]  # for the report
    dialect: ClassVar[str] = "wsd"  # see dialects
    feed: ClassVar[str] = "redis"  # what the publisher talks to, see publisher.ENCODERS
    python: ClassVar[bool] = False  # whether py-spy can look into it
    multiplexes: ClassVar[bool] = True  # whether a connection may have several topics

    def __init__(self, redis: RedisServer, cores: Collection[int] = ()) -> None:
        super().__init__(cores)
        self.redis = redis

    @classmethod
    @abstractmethod
    def absent(cls) -> str:
        """Why it can't be started on this machine; ``""`` if it can."""

    @property
    def feed_port(self) -> int:
        """The port that the publisher talks to."""
        return self.redis.port

    def tasks(self) -> int | None:
        """Asyncio tasks that it has; None if it doesn't tell."""
        return None
