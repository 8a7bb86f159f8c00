"""Ingest: the bytes of messages, as they come from Redis, to the fan-out.

Each run is one read from the socket to Redis, and ends with the pass that the read causes, over a single listener. In a
burst, a message costs less because many messages share the read and the pass.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from functools import partial
from typing import Any, cast
from unittest.mock import patch

import hiredis
from redis.asyncio.client import PubSub
from redis.asyncio.connection import AbstractConnection, ConnectionPool

from bench.micro.fakes import Ear, Nowhere, Queue
from bench.micro.parts import House, make_payload
from bench.micro.work import Comparison, Work, clock
from wsd.deployment import Address
from wsd.redis.guides import Fixed
from wsd.redis.link import Link
from wsd.redis.wire import CLASSIC, Wire
from wsd.source import Events

__all__ = ["COMPARISONS", "Alone", "Ingest", "RedisPy"]

TOPIC = "room.42"
PAYLOAD = make_payload(100)
HELLO_REPLY = b"%1\r\n$5\r\nproto\r\n:3\r\n"


def push(kind: bytes, channel: bytes, last: bytes) -> bytes:
    """A RESP3 push; ``last`` is encoded already."""
    return b">3\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n%b" % (len(kind), kind, len(channel), channel, last)


SUBSCRIBED = push(b"subscribe", TOPIC.encode(), b":1\r\n")


def burst(messages: int) -> bytes:
    """What Redis sends for so many messages."""
    return push(b"message", TOPIC.encode(), b"$%d\r\n%b\r\n" % (len(PAYLOAD), PAYLOAD)) * messages


class Ingest(Work):
    """wsd: the link's protocol, its parser, the topic table, and the fan-out with one listener."""

    def __init__(self, messages: int) -> None:
        self.bytes = burst(messages)
        self.ear = Ear()
        self.queue = Queue()
        self.house = House(self.queue.call_soon)

    async def open(self) -> None:
        """Connect and subscribe."""
        self.house.join(self.ear, [TOPIC])
        self.link = Link(
            Fixed(Address("127.0.0.1")),
            dialect=CLASSIC,
            heartbeat=3600.0,
            metrics=self.house.metrics,
            events=Events(
                on_message=self.house.fanout.publish,
                on_confirmed=lambda channel, gap: None,
                on_refused=lambda channel, reason: None,
                on_lost=lambda channels: None,
            ),
            own="",
            name_private=lambda name: b"",
        )
        self.link.subscribe(TOPIC.encode())
        made: list[Any] = []
        connected = asyncio.Event()

        async def connect(factory: Callable[[], Any], *args: object, **options: object) -> tuple[object, object]:
            made.append(factory())
            made[0].connection_made(transport := Nowhere())
            connected.set()
            return transport, made[0]

        self._task = asyncio.create_task(self.link.run())
        # The link's protocol is nobody's business but the link's, so it is caught on its way to the loop.
        with patch.object(asyncio.get_running_loop(), "create_connection", connect):
            await connected.wait()  # the link has looked up where its server is
            await asyncio.sleep(0)  # and says HELLO
        self.wire: Wire = made[0]
        self.receive: Callable[[bytes], None] = self.wire.data_received
        self.receive(HELLO_REPLY)
        self.receive(SUBSCRIBED)
        assert self.link.confirmed == 1

    def run(self) -> None:
        """Take a burst."""
        self.receive(self.bytes)
        while self.wire.behind:  # the rest of a burst is handled when the loop has had its turn
            self.wire.read_on()
        self.queue.run()

    async def close(self) -> None:
        """Disconnect."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


class Alone(Work):
    """The floor: hiredis, and nothing done with what it returns."""

    def __init__(self, messages: int) -> None:
        self.bytes = burst(messages)
        self.nothing = object()
        self.reader = hiredis.Reader(notEnoughData=self.nothing)
        self.parsed = 0  # in the last run

    def run(self) -> None:
        """Parse a burst."""
        self.reader.feed(self.bytes)
        gets, nothing, parsed = self.reader.gets, self.nothing, 0
        while gets() is not nothing:
            parsed += 1
        self.parsed = parsed


class _Answering(AbstractConnection):
    """A connection of redis-py whose reader is fed by hand. It answers commands by itself."""

    stream: asyncio.StreamReader

    def repr_pieces(self) -> list[tuple[str, object]]:
        return []

    def _host_error(self) -> str:
        return "nowhere"

    async def _connect(self) -> None:
        self.stream = self._reader = asyncio.StreamReader()
        self._writer = cast(asyncio.StreamWriter, self)

    # What it uses of a StreamWriter.

    def writelines(self, data: Iterable[bytes]) -> None:
        commands = hiredis.Reader()
        commands.feed(b"".join(data))
        while command := commands.gets():
            name = cast(list[bytes], command)[0]
            self.stream.feed_data({b"HELLO": HELLO_REPLY, b"SUBSCRIBE": SUBSCRIBED}.get(name, b"+OK\r\n"))

    async def drain(self) -> None:
        pass

    def get_extra_info(self, name: str) -> None:
        pass

    def close(self) -> None:
        pass


class RedisPy(Work):
    """redis-py's asyncio PubSub, listened to as its documentation says. Nothing is done with the messages."""

    def __init__(self, messages: int) -> None:
        self._count = range(messages)
        self.bytes = burst(messages)
        self.received = 0  # messages
        self.last: dict[str, Any] = {}  # the last one

    async def open(self) -> None:
        """Connect and subscribe."""
        self.pubsub = PubSub(ConnectionPool(connection_class=_Answering, protocol=3))
        await self.pubsub.subscribe(TOPIC)
        self.messages: AsyncIterator[dict[str, Any]] = self.pubsub.listen()
        assert (await anext(self.messages))["type"] == "subscribe"

    async def time(self, loops: int) -> float:
        """Take bursts."""
        connection = cast(_Answering, self.pubsub.connection)
        feed, bytes, messages = connection.stream.feed_data, self.bytes, self.messages
        began = clock()
        for _ in range(loops):
            feed(bytes)
            for _ in self._count:
                self.last = await anext(messages)
        seconds = clock() - began
        self.received += loops * len(self._count)
        return seconds

    async def close(self) -> None:
        """Disconnect."""
        await self.pubsub.aclose()  # type: ignore[no-untyped-call]


COMPARISONS = tuple(
    Comparison(
        f"ingest, {messages} at a time",
        "message",
        messages,
        f"one read of {messages} message(s) of 100 bytes from Redis, to the write to one listener that does nothing",
        partial(Ingest, messages),
        {"hiredis alone": partial(Alone, messages), "redis-py PubSub": partial(RedisPy, messages)},
    )
    for messages in (1, 64)
)
