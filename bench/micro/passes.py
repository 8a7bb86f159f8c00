"""A pass over fake connections: what a delivery costs in Python alone.

Each run publishes one message on each of some topics, and writes the pass that they make. What the kernel takes for
the writes, which is most of the whole, is in :mod:`bench.micro.sockets`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from websockets.asyncio.server import broadcast

from bench.micro.fakes import Ear, Nowhere, Queue
from bench.micro.parts import House, library_connection, make_payload
from bench.micro.work import Comparison, Work
from wsd.protocol.frames import text_frame
from wsd.protocol.messages import message_head
from wsd.protocol.payload import embed

__all__ = ["COMPARISONS", "PAYLOAD", "Broadcast", "Loop", "Pass", "Shape", "make_message"]

PAYLOAD = make_payload(100)


@dataclass(frozen=True, slots=True)
class Shape:
    """Who listens to what."""

    connections: int
    topics: int = 1
    apart: bool = False  # whether each topic has one connection of its own; else every connection has all topics

    @property
    def deliveries(self) -> int:
        """One message on every topic makes so many."""
        return self.topics if self.apart else self.topics * self.connections

    def names(self) -> list[str]:
        """The topics."""
        return [f"room.{number}" for number in range(self.topics)]

    def of(self, topic: int) -> range:
        """The numbers of the connections on a topic."""
        return range(topic, topic + 1) if self.apart else range(self.connections)


def make_message(topic: str) -> bytes:
    """The message that all the references send, built beforehand."""
    return embed(message_head(topic), PAYLOAD)


class Pass(Work):
    """wsd: publish(), and the pass."""

    def __init__(self, shape: Shape) -> None:
        self.queue = Queue()
        self.house = House(self.queue.call_soon)
        self.ears = [Ear() for _ in range(shape.connections)]
        for number, name in enumerate(shape.names()):
            for each in shape.of(number):
                self.house.join(self.ears[each], [name])
        self.channels = [name.encode() for name in shape.names()]

    def run(self) -> None:
        """Publish on every topic, then write."""
        publish = self.house.fanout.publish
        for channel in self.channels:
            publish(channel, PAYLOAD)
        self.queue.run()


class Loop(Work):
    """The floor: frames made beforehand, each written to each of its connections, nothing else."""

    def __init__(self, shape: Shape) -> None:
        self.ears = [Ear() for _ in range(shape.connections)]
        self.plan = [
            (text_frame(make_message(name)), [self.ears[each] for each in shape.of(number)])
            for number, name in enumerate(shape.names())
        ]

    def run(self) -> None:
        """Write."""
        for frame, ears in self.plan:
            for ear in ears:
                ear.write(frame)


class Broadcast(Work):
    """The library's broadcast() of messages made beforehand, over its own connections."""

    def __init__(self, shape: Shape) -> None:
        self.transports = [Nowhere() for _ in range(shape.connections)]
        self.connections = [library_connection(transport.as_transport()) for transport in self.transports]
        self.plan = [
            (make_message(name), [self.connections[each] for each in shape.of(number)])
            for number, name in enumerate(shape.names())
        ]

    def run(self) -> None:
        """Broadcast."""
        for message, connections in self.plan:
            broadcast(connections, message, text=True)


def _compare(name: str, measures: str, shape: Shape) -> Comparison:
    references: dict[str, Callable[[], Work]] = {
        "a loop over write": partial(Loop, shape),
        "websockets broadcast()": partial(Broadcast, shape),
    }
    return Comparison(name, "delivery", shape.deliveries, measures, partial(Pass, shape), references)


COMPARISONS = (
    *(
        _compare(
            f"pass, {connections:,} fakes",
            f"one message of 100 bytes to {connections:,} connections that do nothing: Python's part",
            Shape(connections),
        )
        for connections in (10, 500, 1000, 10000)  # the longest take more than a slice
    ),
    _compare(
        "pass, 50 topics x 100 fakes",
        "a message of 100 bytes on each of 50 topics to 100 connections on all of them, which makes 100 joined writes",
        Shape(100, 50),
    ),
    _compare(
        "pass, 1,000 topics x 1 fake",
        "a message of 100 bytes on each of 1,000 topics with one connection each",
        Shape(1000, 1000, apart=True),
    ),
)
