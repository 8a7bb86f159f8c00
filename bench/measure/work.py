"""What can be asked of a server: a load, and what is done with it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from bench.measure.cores import Cores
from bench.servers.server import Server

__all__ = ["Load", "Result", "Windows", "Work"]

Result = dict[str, Any]
"""What one measurement found: JSON."""


LOOKED_AT = 20_000
"""Messages per second that are looked at. One costs 2 µs, so that is a few per cent of a core."""

SAMPLED_AT = 5000
"""Messages per second to look at, if that takes more than 50 connections: percentiles of rare messages need them."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a server is asked to do."""

    connections: int = 1000
    topics: int = 1
    topics_each: int = 1  # topics per connection
    rate: float = 100.0  # messages per second, over all topics
    size: int = 100  # bytes of a payload
    seconds: float = 5.0  # that are measured
    warm_up: float = 0.5  # seconds before
    drain: float = 10.0  # seconds after, at most

    @property
    def rate_each(self) -> float:
        """Messages per second that one client gets."""
        return self.rate * self.topics_each / self.topics

    @property
    def sampled(self) -> int:
        """Connections of which every message is looked at."""
        most = min(max(SAMPLED_AT / self.rate_each, 50), 200)
        return int(min(max(LOOKED_AT / self.rate_each, 4), most, self.connections))

    @property
    def quiet(self) -> float:
        """Seconds without a message after which no more is expected."""
        return max(self.drain / 3, 1.0)

    @property
    def deliveries_per_second(self) -> float:
        """What is asked of the server."""
        return self.connections * self.rate_each

    def shrunk(self, by: int) -> Self:
        """The same for fewer clients, each of which gets as many messages a second as before.

        It asks whether everything comes, not when: so everything is waited for for as long as a busy machine may need.
        """
        topics = max(self.topics // by, self.topics_each)
        connections = max(self.connections // by, 10)
        rate = self.rate * topics / self.topics
        return replace(self, connections=connections, topics=topics, rate=rate, drain=60.0)

    def __str__(self) -> str:
        topics = "" if self.topics == 1 else f", {self.topics_each} of {self.topics:,} topics each"
        return f"{self.connections:,} clients, {self.rate:,g}/s of {self.size:,} B{topics}"


@dataclass(frozen=True, slots=True)
class Windows:
    """How long it is measured."""

    seconds: float  # of a window, at least
    messages: int  # in a window, at least: a percentile of few messages is that of the slowest of them
    samples: int  # deliveries in a window that are looked at, at least
    soak: float  # seconds of a soak

    def seconds_of(self, load: Load) -> float:
        """Seconds of the window for a load."""
        looked_at = load.sampled * load.rate_each
        return max(self.seconds, self.messages / load.rate, self.samples / looked_at)


@dataclass(frozen=True, slots=True)
class Work(ABC):
    """A load, and what is done with it."""

    kind: ClassVar[str]  # in results: which fields they have

    load: Load

    @abstractmethod
    def measure(self, server: type[Server], cores: Cores) -> Result:
        """Do it once, with a fresh server.

        Raises:
            ServerError: if the server doesn't start.
            GeneratorError: if a generator fails.
        """

    def within(self, windows: Windows) -> Self:
        """The same for as long as is said."""
        return replace(self, load=replace(self.load, seconds=windows.seconds_of(self.load)))

    def shrunk(self, by: int) -> Self:
        """The same for fewer clients."""
        return replace(self, load=self.load.shrunk(by))

    def __str__(self) -> str:
        return str(self.load)
