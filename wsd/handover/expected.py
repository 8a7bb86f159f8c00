"""A cohort on the taking side: who will come, what they listen to, and what is kept for them until then."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from typing import NamedTuple

from wsd.clients.record import Record
from wsd.delivery.fanout import Bounds
from wsd.handover.marks import channel_of
from wsd.handover.standin import StandIn
from wsd.pipe import Message

__all__ = ["NO_STREAM", "Arrival", "Expected"]

NO_STREAM = b""
"""Stands for the stream of topics that nobody delivered to the giver."""


class _Anchor:
    """Wants all topics of a cohort while it moves, so that Redis goes on delivering them. A listener that waits."""

    def __init__(self, topics: Iterable[str]) -> None:
        self._unanswered = set(topics)
        self.answered = asyncio.Event()  # set when Redis has answered about all of them
        if not self._unanswered:
            self.answered.set()

    def write(self, data: bytes, /) -> None:
        raise AssertionError("it only waits")

    def topic_confirmed(self, topic: str) -> None:
        self._note(topic)

    def topic_refused(self, topic: str, reason: str) -> None:
        self._note(topic)

    def _note(self, topic: str) -> None:
        self._unanswered.discard(topic)
        if not self._unanswered:
            self.answered.set()


class Arrival(NamedTuple):
    """A connection that has come."""

    number: int
    record: Record
    sock: socket.socket


class Expected:
    """Connections that move together.

    Args:
        message: the giver's ``prepare``.
        bounds: what may wait for a client.
    """

    def __init__(self, message: Message, bounds: Bounds) -> None:
        self.number = int(message["cohort"])
        self.topics: list[str] = list(message["topics"])
        self.streams: dict[bytes, list[str]] = {}  # by the channel of its mark: the topics that come by it
        self.stream: dict[str, bytes] = dict.fromkeys(self.topics, NO_STREAM)  # by the topic: whose stand-ins keep it
        for name, places in message["streams"].items():
            channel = channel_of(name)
            self.streams[channel] = [self.topics[place] for place in places]
            self.stream |= dict.fromkeys(self.streams[channel], channel)
        self.cut: dict[bytes, asyncio.Event] = {channel: asyncio.Event() for channel in self.streams}
        self._bounds = bounds
        self.wanted = {
            int(number): [self.topics[place] for place in places] for number, places in message["clients"].items()
        }
        # One for each client and stream, because a stream may turn out to be cut at an unknown place.
        self.standins: dict[int, dict[bytes, StandIn]] = {}
        self.listeners: dict[str, list[int]] = {topic: [] for topic in self.topics}
        for number, topics in self.wanted.items():
            self.standins[number] = {self.stream[topic]: StandIn(bounds) for topic in topics}
            for topic in topics:
                self.listeners[topic].append(number)
        self.anchor = _Anchor(self.topics)
        self.heard: set[str] = set()  # topics in which the stand-ins listen
        self.inbox: asyncio.Queue[Message] = asyncio.Queue()  # what the giver says of it
        self.come: list[Arrival] = []
        self.seconds = 0.0  # that it took to open those who have come
        self.trouble: dict[bytes, str] = {}  # by the channel of its mark: why a stream has no mark that both get
        self.told: dict[int, str] = {}  # clients that may have missed something, and why

    def of(self, topic: str) -> list[StandIn]:
        """The stand-ins of those who listen to a topic."""
        stream = self.stream[topic]
        return [self.standins[number][stream] for number in self.listeners[topic] if number in self.standins]

    def of_stream(self, stream: bytes) -> list[StandIn]:
        """The stand-ins that listen to topics of a stream."""
        return [standins[stream] for standins in self.standins.values() if stream in standins]

    def drop(self, stream: bytes) -> None:
        """Forget a stream, what was kept of it, and what is on its way to who kept it."""
        del self.streams[stream], self.cut[stream]
        for standins in self.standins.values():
            standins.pop(stream, None)

    def keep_with(self, topic: str, group: bytes) -> None:
        """Let one stand-in keep a topic and others, in the order in which they come.

        Args:
            topic: the topic, in which no stand-in listens.
            group: the channel of their stream's mark, or another name.
        """
        self.stream[topic] = group
        for number in self.listeners[topic]:
            if number in self.standins:
                self.standins[number].setdefault(group, StandIn(self._bounds))
