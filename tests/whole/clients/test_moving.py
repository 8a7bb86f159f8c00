"""A connection goes on in another process: what its client sees of that, which is nothing.

Two workers in this process stand for two processes: each has its own links, topics and clients, and a socket is passed
by a duplicate of its descriptor. The record passes through JSON.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import socket
import struct
import time
import weakref
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import aiohttp
import jwt
import pytest

from tests.lib.clients import BINARY, CLOSE, PING, PONG, TEXT, Client, Closed, frame
from tests.lib.servers import RedisServer, serving
from tests.lib.waiting import eventually
from wsd.clients import record
from wsd.clients.arrival import ArrivedConnection
from wsd.clients.connection import MAX_UNAUTHORIZED
from wsd.clients.moving import MovableConnection
from wsd.clients.phases import Phase
from wsd.clients.sansio import unread
from wsd.codes import Close
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


# What a client sends.


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


@pytest.mark.parametrize("rate", [2, 20])
async def test_a_client_that_was_too_fast_is_not_read_from_in_the_new_process_either(
    redis: RedisServer, rate: int
) -> None:
    async with two_workers(redis, max_request_rate=rate) as (old, new), Client(old.port) as client:
        burst = 5 * rate
        client.writer.write(b"".join(frame(TEXT, b'{"action":"ping","id":%d}' % number) for number in range(burst + 1)))
        for number in range(burst):
            assert (await client.receive())["id"] == number
        assert (await client.receive())["code"] == "rate_limited"
        journey = Journey(old, new)
        await journey.start()
        packed = await journey.pack()
        assert packed.seconds_to_read > 0
        assert packed.session.allowance is not None and packed.session.allowance < 1
        await journey.connect(packed)
        client.send({"action": "ping", "id": "later"})
        journey.arrive()
        assert not journey.after._reading
        assert (await client.receive())["id"] == "later"


# What a client is owed.


async def test_replies_that_redis_owes_come_in_their_order_from_the_new_process(own_redis: RedisServer) -> None:
    async with two_workers(own_redis, redis_heartbeat=60) as (old, new), Client(old.port) as client:
        await client.subscribe("owed.first")
        own_redis.freeze()
        client.request("subscribe", "owed.a", id=1)
        client.send({"action": "ping", "id": 2})
        client.request("subscribe", "owed.first", id=3)
        client.request("subscribe", "owed.b", id=4)
        client.send("rubbish")
        await eventually(lambda: only(old).waiting == ["owed.a", "owed.b"])
        journey = Journey(old, new)
        journey.before.hold_still(lambda: journey.ended.append("ended"))
        journey.stand_in = StandIn(new, ["owed.first"])
        packed = await journey.pack()
        assert [reply.request_id for reply in packed.session.replies if reply.payload is None] == [1, 4]
        await journey.connect(packed)
        own_redis.thaw()
        await journey.stand_in.ready()
        journey.arrive()
        answers = [await client.receive() for _ in range(5)]
        assert [(answer["action"], answer.get("id")) for answer in answers] == [
            ("subscribe", 1),
            ("pong", 2),
            ("subscribe", 3),
            ("subscribe", 4),
            ("error", None),
        ]
        for topic in ("owed.a", "owed.b", "owed.first"):
            await deliver(own_redis, client, topic, f'"{topic}"')
        assert +new.metrics.refused_requests == Counter({"malformed": 1})


async def test_what_is_published_on_the_way_comes_before_what_comes_later(redis: RedisServer) -> None:
    async with two_workers(redis) as (old, new), Client(old.port) as client:
        await client.subscribe("way.a", "way.b")
        await deliver(redis, client, "way.a", "1")
        journey = Journey(old, new)
        await journey.start()
        redis.publish_all([("way.a", "2"), ("way.b", "3")])
        packed = await journey.pack()
        await journey.connect(packed)
        redis.publish_all([("way.a", "4"), ("way.b", "5")])
        await eventually(lambda: len(journey.stand_in.frames) >= 1 and new.metrics.deliveries == 4)
        journey.arrive()
        redis.publish_all([("way.a", "6"), ("way.b", "7")])
        got = [await client.receive() for _ in range(6)]
        assert [(message["topic"], message["snapshot"]) for message in got] == [
            ("way.a", 2),
            ("way.b", 3),
            ("way.a", 4),
            ("way.b", 5),
            ("way.a", 6),
            ("way.b", 7),
        ]


async def test_a_client_that_is_owed_too_much_is_closed_where_it_arrives(redis: RedisServer) -> None:
    async with two_workers(redis, max_backlog="64KiB", max_backlog_age=600) as (old, new):
        async with Client(old.port, receive_buffer=4096) as client:
            await client.subscribe("too-much")
            journey = Journey(old, new)
            await journey.start()
            await journey.connect(await journey.pack())
            journey.stand_in.frames += [frame(TEXT, b"x" * 60_000, mask=None)] * 200
            journey.arrive()
            assert journey.after.phase is Phase.DOOMED
            await eventually(lambda: new.metrics.slow_consumers["bytes"] == 1)
        await eventually(lambda: not new.gateway.connections)
        assert +new.metrics.close_codes == Counter({"4008": 1})
        assert len(new.topics) == 0


# Deadlines.


async def next_ping(client: Client) -> bytes:
    while (received := await client.receive_frame())[0] != PING:
        pass
    return received[1]


async def test_a_ping_that_stays_unanswered_ends_the_connection_in_the_new_process(redis: RedisServer) -> None:
    async with two_workers(redis, ping_interval=0.3, ping_timeout=2) as (old, new), Client(old.port) as client:
        await next_ping(client)
        await move(old, new)
        with pytest.raises(Closed):
            while True:
                await client.receive_frame()
        await eventually(lambda: not new.gateway.connections)
        assert (old.metrics.ping_timeouts, new.metrics.ping_timeouts) == (0, 1)
        assert +new.metrics.close_codes == Counter({"1006": 1})


async def test_a_pong_may_be_read_in_the_new_process(redis: RedisServer) -> None:
    async with two_workers(redis, ping_interval=0.3, ping_timeout=60) as (old, new), Client(old.port) as client:
        payload = await next_ping(client)
        journey = Journey(old, new)
        await journey.start()
        client.send_frame(PONG, payload)
        packed = await journey.pack()
        assert packed.seconds_to_pong is not None
        await journey.connect(packed)
        journey.arrive()
        await eventually(lambda: journey.after._pong_due is None)
        await next_ping(client)


async def test_a_pong_that_is_due_on_the_way_is_not_waited_for_anew(redis: RedisServer) -> None:
    options = {"ping_interval": 0.5, "ping_timeout": 3}
    async with two_workers(redis, **options) as (old, new), Client(old.port) as client:
        await next_ping(client)
        journey = Journey(old, new)
        await journey.start()
        await asyncio.sleep(3.5)
        packed = await journey.pack()
        assert packed.seconds_to_pong is not None
        assert packed.seconds_to_pong < 1.5
        await journey.connect(packed)
        journey.arrive()
        await eventually(lambda: new.metrics.ping_timeouts == 1)


async def test_a_token_expires_in_the_new_process(redis: RedisServer) -> None:
    options = {"auth": "jwt", "jwt_key": KEY, "jwt_leeway": 0}
    async with two_workers(redis, **options) as (old, new), Client(old.port) as client:
        reply = await client.call("authorization", token(exp=time.time() + 2))
        assert reply["message"] == "session authenticated"
        await move(old, new)
        closed = await client.closed()
        assert (closed.code, closed.reason) == (4003, "the token has expired")
        await eventually(lambda: not new.gateway.connections)
        assert +new.metrics.close_codes == Counter({"4003": 1})


async def test_an_anonymous_client_may_authorize_in_the_new_process(redis: RedisServer) -> None:
    async with two_workers(redis, auth="jwt", jwt_key=KEY) as (old, new), Client(old.port) as client:
        await move(old, new)
        assert only(new).protocol.max_message_size == MAX_UNAUTHORIZED
        assert (await client.call("subscribe", "x"))["message"] == "session unauthorized"
        assert (await client.call("authorization", token()))["message"] == "session authenticated"
        assert only(new).protocol.max_message_size == 65_536
        await client.subscribe("authorized")


# The end, and what does not come off.


async def test_a_token_that_expires_while_the_connection_is_held_still_closes_it(redis: RedisServer) -> None:
    options = {"auth": "jwt", "jwt_key": KEY, "jwt_leeway": 0}
    async with two_workers(redis, **options) as (old, new), Client(old.port) as client:
        await client.call("authorization", token(exp=time.time() + 1))
        await client.subscribe("held")
        journey = Journey(old, new)
        await journey.start()
        journey.before.when_sent(lambda: None)
        assert (await client.closed()).code == 4003
        assert journey.ended == ["ended"] and not journey.before.movable
        await eventually(lambda: not old.gateway.connections)


async def test_a_drain_closes_what_is_held_still_or_on_its_way(redis: RedisServer) -> None:
    async with two_workers(redis) as (old, new), Client(old.port) as client:
        journey = Journey(old, new)
        await journey.start()
        await old.gateway.drain(0)
        assert (await client.closed()).code == 1012
        assert journey.ended == ["ended"]


@pytest.mark.parametrize("comes_off", [True, False])
async def test_a_drain_waits_for_what_is_on_its_way(redis: RedisServer, comes_off: bool) -> None:
    async with two_workers(redis) as (old, new), Client(old.port) as client:
        journey = Journey(old, new)
        await journey.start()
        packed = await journey.pack()
        journey.before.close_with(Close.SERVICE_RESTART, "while away")
        if comes_off:
            await journey.connect(packed)
            journey.after.close_with(Close.SERVICE_RESTART, "while arriving")
            journey.arrive()
        else:
            journey.before.go_on()
        assert (await client.closed()).reason == ("while arriving" if comes_off else "while away")


@pytest.mark.parametrize("step", ["held", "kept back", "away"])
async def test_a_connection_stays_where_it_is_if_the_move_does_not_come_off(redis: RedisServer, step: str) -> None:
    async with serving(redis) as worker, Client(worker.port) as client:
        await client.subscribe("stays")
        connection = only(worker)
        connection.hold_still(lambda: None)
        client.request("subscribe", "asked-meanwhile")
        if step != "held":
            connection.when_sent(lambda: None)
        if step == "away":
            connection.pack()
        connection.go_on()
        connection.go_on()
        assert (await client.receive())["message"] == "context subscribed"
        await deliver(redis, client, "stays", "1")
        await deliver(redis, client, "asked-meanwhile", "2")
        assert connection.movable and not connection.lagging
        assert +worker.metrics.moves == Counter()


@pytest.mark.parametrize("reset", [False, True], ids=["closes", "resets"])
@pytest.mark.parametrize("step", ["held", "away", "arriving"])
async def test_a_client_may_go_at_any_step(redis: RedisServer, step: str, reset: bool) -> None:
    async with two_workers(redis) as (old, new):
        client = await Client(old.port).__aenter__()
        await client.subscribe("gone")

        def go() -> None:
            if reset:
                sock = client.writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.writer.transport.abort()
            else:
                client.writer.close()

        journey = Journey(old, new)
        await journey.start()
        if step == "held":
            go()
        packed = await journey.pack()
        if step == "away":
            go()
        await journey.connect(packed)
        if step == "arriving":
            go()
            await eventually(lambda: journey.after._at_end or journey.after.phase is Phase.GONE)
        journey.arrive()
        await eventually(lambda: not new.gateway.connections and not old.gateway.connections)
        assert +new.metrics.close_codes == Counter({"1006": 1})
        assert (old.gateway._inside, new.gateway._inside) == (0, 0)
        for topic in ("gone",):
            new.topics.leave(topic, journey.stand_in)  # if there was no connection to replace it
        assert len(new.topics) == 0


async def test_a_move_is_not_begun_where_there_is_nothing_to_move(redis: RedisServer) -> None:
    async with serving(redis) as worker:
        _, writer = await asyncio.open_connection("127.0.0.1", worker.port)
        await eventually(lambda: worker.gateway.connections)
        assert not only(worker).movable  # its handshake is in progress
        writer.close()
        await eventually(lambda: not worker.gateway.connections)
        async with Client(worker.port) as client:
            assert only(worker).movable
            only(worker).close_with(Close.SERVICE_RESTART, "")
            assert not only(worker).movable
            await client.closed()


async def test_a_client_finds_a_place_above_max_connections(redis: RedisServer) -> None:
    async with two_workers(redis, max_connections=1) as (old, new), Client(old.port) as first, Client(new.port):
        await move(old, new)
        assert new.gateway.full and new.gateway._inside == 2
        await client_is_refused(new)
        assert not old.gateway.full
        async with Client(old.port):
            pass
        assert (await first.call("unsubscribe", "x"))["action"] == "unsubscribe"


async def client_is_refused(worker: LoneWorker) -> None:
    async with Client(worker.port, greet=False) as client:
        assert client.response.startswith("HTTP/1.1 503 ")


async def test_who_stops_to_listen_keeps_its_clients_and_others_accept(redis: RedisServer) -> None:
    async with serving(redis) as worker, Client(worker.port) as client:
        listening = [sock.dup() for server in worker.gateway._servers for sock in server.sockets]
        port = worker.port
        worker.gateway.stop_listening()
        await eventually(lambda: not any(server.sockets for server in worker.gateway._servers))
        waiting = socket.create_connection(("127.0.0.1", port))  # the kernel accepts for whoever has the socket
        await client.subscribe("still-here")
        await deliver(redis, client, "still-here", "1")
        accepted, _ = listening[0].accept()
        for sock in (accepted, waiting, *listening):
            sock.close()


@pytest.mark.parametrize("there_and_back", [1, 4])
async def test_a_client_of_another_library_sees_nothing_either(redis: RedisServer, there_and_back: int) -> None:
    async with (
        two_workers(redis) as (old, new),
        aiohttp.ClientSession() as http,
        http.ws_connect(f"ws://127.0.0.1:{old.port}/") as ws,
    ):
        await ws.receive_json()
        session = (await ws.receive_json())["session"]
        there, back = old, new
        for number in range(there_and_back):
            topic = f"other.{number}"
            await ws.send_json({"action": "subscribe", "session": session, "context": topic})
            assert (await ws.receive_json())["message"] == "context subscribed"
            await move(there, back)
            there, back = back, there
            redis.publish(topic, "1")
            assert (await ws.receive_json())["topic"] == topic
            await ws.ping(b"x")
        assert await ws.close()
        assert ws.close_code == 1000


async def test_nothing_is_left_of_connections_that_have_moved(redis: RedisServer) -> None:
    async with two_workers(redis) as (old, new), Client(old.port) as client:
        await client.subscribe("left")
        left: list[weakref.ref[MovableConnection]] = []
        there, back = old, new
        for _ in range(4):
            left.append(weakref.ref(only(there)))
            await move(there, back)
            there, back = back, there
        gc.disable()  # nothing may wait for it
        try:
            await eventually(lambda: all(connection() is None for connection in left))
        finally:
            gc.enable()
