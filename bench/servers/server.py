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
    dialect: ClassVar[str] = "wsd"  # see dialects; "": it has no clients
    feed: ClassVar[str] = "redis"  # what the publisher talks to, see publisher.ENCODERS
    python: ClassVar[bool] = False  # whether py-spy can look into it
    multiplexes: ClassVar[bool] = True  # whether a connection may have several topics
    everywhere: ClassVar[bool] = True  # whether it is measured in the rows that compare all servers

    def __init__(self, redis: RedisServer, cores: Collection[int] = ()) -> None:
        super().__init__(cores)
        self.redis = redis
        self.topics = 1  # that will be published, for a server that must know them before its first client tells it

    @classmethod
    @abstractmethod
    def absent(cls) -> str:
        """Why it can't be started on this machine; ``""`` if it can."""

    @property
    def feed_port(self) -> int:
        """The port that the publisher talks to."""
        return self.redis.port

    def moved(self) -> int | None:
        """Connections that its workers have handed over so far; None if it doesn't tell."""
        return None

    def tasks(self) -> int | None:
        """Asyncio tasks that it has; None if it doesn't tell."""
        return None
