"""A connection goes on in another process: what its client sees of that, which is nothing.

Two workers in this process stand for two processes: each has its own links, topics and clients, and a socket is passed
by a duplicate of its descriptor. The record passes through JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import jwt
import pytest

from tests.lib.clients import BINARY, CLOSE, PING, PONG, TEXT, Client, frame
from tests.lib.servers import RedisServer, serving
from tests.lib.waiting import eventually
from wsd.clients import record
from wsd.clients.arrival import ArrivedConnection
from wsd.clients.moving import MovableConnection
from wsd.clients.sansio import unread
from wsd.worker.alone import LoneWorker

KEY = "0123456789abcdef0123456789abcdef"


def token(**claims: object) -> str:
    return jwt.encode({"exp": time.time() + 60, "sub": "ann"} | claims, KEY, algorithm="HS256")


@asynccontextmanager
async def two_workers(redis: RedisServer | str, **options: Any) -> AsyncIterator[tuple[LoneWorker, LoneWorker]]:
    async with serving(redis, **options) as old, serving(redis, **options) as new:
        yield old, new


def only(worker: LoneWorker) -> MovableConnection:
    """The one connection of a worker."""
    (connection,) = worker.gateway.connections
    assert isinstance(connection, MovableConnection)
    return connection


class StandIn:
    """Listens in the place of a connection that has not arrived, and keeps what comes."""

    def __init__(self, worker: LoneWorker, topics: list[str]) -> None:
        self._topics = worker.topics
        self._awaited = set(topics)
        self.frames: list[bytes] = []
        for topic in topics:
            self._topics.wait(topic, self)

    def write(self, data: bytes) -> None:
        self.frames.append(data)

    def topic_confirmed(self, topic: str) -> None:
        self._awaited.discard(topic)
        self._topics.listen(topic, self)

    def topic_refused(self, topic: str, reason: str) -> None:
        raise AssertionError(f"{topic}: {reason}")

    async def ready(self) -> None:
        await eventually(lambda: not self._awaited, "the topics of the stand-in")

    def replace_by(self, connection: ArrivedConnection) -> None:
        for topic in connection.listening:
            self._topics.listen(topic, connection)
            self._topics.leave(topic, self)


class Journey:
    """A connection on its way from one worker to another. No message is published while it changes places."""

    def __init__(self, old: LoneWorker, new: LoneWorker) -> None:
        self._old, self._new = old, new
        self.before = only(old)
        self.ended: list[str] = []  # whether the old connection has ended on its way
        self.after: ArrivedConnection

    async def start(self) -> None:
        """Hold it still, and let the other worker listen to its topics."""
        assert self.before.movable
        self.before.hold_still(lambda: self.ended.append("ended"))
        self.stand_in = StandIn(self._new, self.before.listening)
        await self.stand_in.ready()
        for topic in self.before.listening:
            self._old.topics.leave(topic, self.before)

    async def pack(self) -> record.Record:
        """Wait until nothing is unsent, and take the record. It passes through JSON."""
        sent = asyncio.Event()
        self.before.when_sent(sent.set)
        await asyncio.wait_for(sent.wait(), 60)
        return record.decode(json.loads(json.dumps(record.encode(self.before.pack()))))

    async def connect(self, packed: record.Record) -> None:
        """Pass the socket."""
        sock = socket.socket(fileno=os.dup(self.before.descriptor))
        self.before.let_go()
        self.after = ArrivedConnection(self._new._shared, packed)
        await asyncio.get_running_loop().connect_accepted_socket(lambda: self.after, sock)

    def arrive(self) -> None:
        """Be there."""
        self.stand_in.replace_by(self.after)
        self.after.arrive(self.stand_in.frames)

    async def go(self) -> None:
        """All of it."""
        await self.start()
        await self.connect(await self.pack())
        self.arrive()


async def move(old: LoneWorker, new: LoneWorker) -> None:
    """Move the one connection of a worker to another."""
    await Journey(old, new).go()


async def deliver(redis: RedisServer, client: Client, topic: str, payload: str) -> None:
    """Publish, and see it arrive as the next message."""
    redis.publish(topic, payload)
    assert (await client.receive())["snapshot"] == json.loads(payload)


async def test_a_client_sees_nothing_of_a_move_and_is_counted_once(redis: RedisServer) -> None:
    async with two_workers(redis) as (old, new), Client(old.port) as client:
        await client.subscribe("moving.plain")
        await deliver(redis, client, "moving.plain", "1")
        for there, back in ((old, new), (new, old), (old, new)):
            await move(there, back)
            await deliver(redis, client, "moving.plain", "2")
            await client.subscribe("moving.more")
            assert (await client.call("unsubscribe", "moving.more"))["action"] == "unsubscribe"
            client.send_frame(PING, b"still there?")
            assert await client.receive_frame() == (PONG, b"still there?")
        await eventually(lambda: not old.gateway.connections)
        assert (old.gateway._inside, new.gateway._inside, len(new.gateway.connections)) == (0, 1, 1)
        assert len(old.topics) == 0
        assert +old.metrics.close_codes == +new.metrics.close_codes == Counter()
        assert (old.metrics.connections, new.metrics.connections) == (1, 0)
        assert +old.metrics.moves == Counter({"out": 2, "in": 1})
        assert +new.metrics.moves == Counter({"out": 1, "in": 2})
        client.send_frame(CLOSE, b"\x03\xe8")
        assert (await client.closed()).code == 1000
        await eventually(lambda: not new.gateway.connections)
        assert +new.metrics.close_codes == Counter({"1000": 1})
        assert new.gateway._inside == 0


PADDING = b" " * 300
REQUEST = b'{"action":"ping","id":"caf\xc3\xa9"}' + PADDING
ANSWER = '{"action":"pong","id":"café"}'.encode()
FRAME = frame(TEXT, REQUEST)


@pytest.mark.parametrize("cut", [1, 2, 3, 4, 6, 8, 9, 100, len(FRAME) - 1], ids=lambda cut: f"after {cut} bytes")
async def test_a_frame_may_be_cut_anywhere(redis: RedisServer, cut: int) -> None:
    async with two_workers(redis) as (old, new), Client(old.port) as client:
        client.writer.write(frame(PING) + FRAME[:cut])
        assert await client.receive_frame() == (PONG, b"")
        await move(old, new)
        client.writer.write(FRAME[cut:] + frame(PING, b"2"))
        assert {await client.receive_frame() for _ in range(2)} == {(TEXT, ANSWER), (PONG, b"2")}


def has_read(connection: MovableConnection, count: int) -> bool:
    """Whether so many bytes of a frame have come."""
    return len(unread(connection.protocol)) == count


async def test_a_frame_that_is_longer_than_64_kib_may_be_cut_after_each_part_of_its_head(redis: RedisServer) -> None:
    sent = frame(TEXT, b'{"action":"ping"}' + b" " * 70_000)
    async with two_workers(redis, max_message_size=100_000) as (old, new), Client(old.port) as client:
        there, back = old, new
        done = 0
        for cut in (1, 2, 5, 10, 12, 14, 20, 5_000, 69_000, len(sent)):
            client.writer.write(sent[done:cut])
            if cut < len(sent):
                await eventually(partial(has_read, only(there), cut))
                await move(there, back)
                there, back = back, there
            done = cut
        assert await client.receive() == {"action": "pong"}


async def test_a_message_goes_on_between_its_fragments_with_a_ping_there(redis: RedisServer) -> None:
    async with two_workers(redis, max_message_size=4096) as (old, new), Client(old.port) as client:
        client.writer.write(frame(TEXT, REQUEST[:27], fin=False) + frame(PING, b"1"))
        assert await client.receive_frame() == (PONG, b"1")
        await move(old, new)
        client.writer.write(frame(PING, b"2") + frame(0, b"", fin=False))
        assert await client.receive_frame() == (PONG, b"2")
        await move(new, old)
        client.send_frame(0, REQUEST[27:])
        assert await client.receive_frame() == (TEXT, ANSWER)
        client.send({"action": "ping"})
        assert await client.receive() == {"action": "pong"}


async def test_the_fragments_of_a_binary_message_stay_binary(redis: RedisServer) -> None:
    async with two_workers(redis) as (old, new), Client(old.port) as client:
        client.writer.write(frame(BINARY, b'{"action":', fin=False) + frame(PING))
        assert await client.receive_frame() == (PONG, b"")
        await move(old, new)
        client.send_frame(0, b'"ping"}')
        assert (await client.receive())["code"] == "malformed"


@pytest.mark.parametrize(
    ("before", "after", "code"),
    [
        (frame(TEXT, b" " * 2048, fin=False), frame(0, b" " * 2049), 1009),
        (frame(TEXT, b" ", fin=False), frame(TEXT, b" "), 1002),
        (frame(TEXT, b" "), frame(0, b" "), 1002),
        (frame(TEXT, b"\xff", fin=False), frame(0, b""), 1007),
    ],
    ids=["too big in all", "not continued", "nothing to continue", "not UTF-8"],
)
async def test_a_breach_over_two_processes_is_one(redis: RedisServer, before: bytes, after: bytes, code: int) -> None:
    async with two_workers(redis, max_message_size=4096) as (old, new), Client(old.port) as client:
        client.writer.write(before + frame(PING))
        while (await client.receive_frame())[0] != PONG:
            pass
        await move(old, new)
        client.writer.write(after)
        assert (await client.closed()).code == code


async def test_requests_that_nobody_has_read_are_answered_in_the_new_process(redis: RedisServer) -> None:
    async with two_workers(redis) as (old, new), Client(old.port) as client:
        journey = Journey(old, new)
        await journey.start()
        requests = b"".join(frame(TEXT, b'{"action":"ping","id":%d}' % number) for number in range(3000))
        client.writer.write(requests)  # more than what is read at a time
        await journey.connect(await journey.pack())
        journey.arrive()
        assert [(await client.receive())["id"] for _ in range(3000)] == list(range(3000))
