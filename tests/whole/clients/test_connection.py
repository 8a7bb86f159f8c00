"""A client's socket: what it may send, what it gets, and what happens when it can't keep up."""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import time
import weakref
from collections import Counter
from collections.abc import Callable
from functools import partial

import jwt
import pytest

from tests.lib.clients import BINARY, CLOSE, PING, PONG, TEXT, Client, frame
from tests.lib.programs import Daemon
from tests.lib.servers import RedisServer, serving
from tests.lib.waiting import eventually
from wsd.clients.phases import Phase
from wsd.worker.alone import LoneWorker

KEY = "0123456789abcdef0123456789abcdef"


def token(**claims: object) -> str:
    return jwt.encode({"exp": time.time() + 60, "sub": "ann"} | claims, KEY, algorithm="HS256")


# What a client sends.


async def test_the_greeting_comes_with_the_handshake_byte_for_byte(redis: RedisServer) -> None:
    async with serving(redis) as worker, Client(worker.port, greet=False) as client:
        assert await client.receive_bytes() == b'{"action":"connect","message":"connection established"}'
        greeting = await client.receive_bytes()
        session = json.loads(greeting)["session"]
        assert greeting == (
            b'{"action":"session","message":"waiting for create session","session":"%b"}' % session.encode()
        )


async def test_every_client_gets_a_session_of_its_own(redis: RedisServer) -> None:
    async with serving(redis) as worker, Client(worker.port) as one, Client(worker.port) as other:
        assert one.session != other.session
        one.send({"action": "subscribe", "session": other.session, "context": "x"})
        assert (await one.receive())["code"] == "wrong_session"


async def test_a_published_payload_arrives_as_it_was_published(redis: RedisServer) -> None:
    async with serving(redis) as worker, Client(worker.port) as client:
        await client.subscribe("as-published")
        for payload, snapshot in [
            (b'{ "b": 1.50,\n"a": 12345678901234567890 }', b'{ "b": 1.50,\n"a": 12345678901234567890 }'),
            (b"not json", b'"not json"'),
            (b"\xff", b'"/w==","encoding":"base64"'),
            (b"", b'""'),
        ]:
            redis.publish("as-published", payload)
            expected = b'{"action":"message","topic":"as-published","snapshot":%b}' % snapshot
            assert await client.receive_bytes() == expected


async def test_a_message_of_several_megabytes_arrives_whole(redis: RedisServer) -> None:
    payload = json.dumps(["x" * 1000] * 3000)
    async with serving(redis) as worker, Client(worker.port) as client:
        await client.subscribe("large")
        redis.publish("large", payload)
        redis.publish("large", "1")
        assert (await client.receive_bytes())[-len(payload) - 1 : -1].decode() == payload
        assert (await client.receive())["snapshot"] == 1


async def test_a_request_may_come_in_fragments_with_a_ping_between(redis: RedisServer) -> None:
    async with serving(redis) as worker, Client(worker.port) as client:
        request = b'{"action":"ping","id":"caf\xc3\xa9"}'
        client.send_frame(TEXT, request[:27], fin=False)  # ends within a character
        client.send_frame(PING, b"between")
        client.send_frame(0, b"", fin=False)
        client.send_frame(0, request[27:])
        received = [await client.receive_frame() for _ in range(2)]
        assert (PONG, b"between") in received
        assert (TEXT, '{"action":"pong","id":"café"}'.encode()) in received


async def test_requests_in_one_segment_are_answered_in_order_in_one_write(redis: RedisServer) -> None:
    async with serving(redis) as worker, Client(worker.port) as client:
        client.writer.write(b"".join(frame(TEXT, b'{"action":"ping","id":%d}' % i) for i in range(500)))
        assert [(await client.receive())["id"] for _ in range(500)] == list(range(500))


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(TEXT, b"\xff"), 1007),
        (frame(TEXT, b"{}", mask=None), 1002),
        (frame(3), 1002),
        (frame(0, b"{}"), 1002),
        (frame(PING, b"x" * 126), 1002),
        (frame(TEXT, b" " * 5000), 1009),
        (frame(TEXT, b" " * 2048, fin=False) + frame(0, b" " * 2049), 1009),
    ],
    ids=["not UTF-8", "not masked", "unknown opcode", "nothing to continue", "long ping", "too big", "too big in all"],
)
async def test_a_breach_of_the_websocket_protocol_closes(redis: RedisServer, sent: bytes, code: int) -> None:
    async with serving(redis, max_message_size=4096) as worker, Client(worker.port) as client:
        client.writer.write(sent + frame(TEXT, b'{"action":"ping"}'))
        assert (await client.closed()).code == code
        await eventually(lambda: not worker.gateway.connections)
        assert worker.metrics.close_codes == Counter({str(code): 1})


async def test_a_binary_message_is_malformed_and_the_connection_stays(redis: RedisServer) -> None:
    async with serving(redis) as worker, Client(worker.port) as client:
        client.send_frame(BINARY, b'{"action":"ping"}')
        assert (await client.receive())["code"] == "malformed"
        client.send({"action": "ping"})
        assert await client.receive() == {"action": "pong"}


async def test_too_many_bad_requests_close_with_1008_after_the_last_answer(redis: RedisServer) -> None:
    async with serving(redis, max_violations=3) as worker, Client(worker.port) as client:
        client.writer.write(b"".join(frame(TEXT, b"rubbish") for _ in range(10)))
        assert [(await client.receive())["code"] for _ in range(3)] == ["malformed"] * 3
        assert (await client.closed()).code == 1008


async def test_a_clients_close_is_answered_after_the_replies_before_it(redis: RedisServer) -> None:
    async with serving(redis) as worker, Client(worker.port) as client:
        client.writer.write(frame(TEXT, b'{"action":"ping"}') + frame(CLOSE, b"\x03\xe8") + frame(TEXT, b"late"))
        assert await client.receive() == {"action": "pong"}
        assert await client.receive_frame() == (CLOSE, b"\x03\xe8")
        assert await client.reader.read() == b""
        client.writer.close()
        await eventually(lambda: not worker.gateway.connections)
        assert worker.metrics.close_codes == Counter({"1000": 1})


# Tokens and deadlines.


async def test_a_token_opens_the_door_and_a_bad_one_does_not(redis: RedisServer) -> None:
    async with serving(redis, auth="jwt", jwt_key=KEY) as worker, Client(worker.port) as client:
        unauthorized = {"action": "session", "message": "session unauthorized"}
        assert await client.call("subscribe", "t") == unauthorized
        assert await client.call("authorization", token() + "x") == unauthorized
        assert await client.call("authorization", token(topics=["t*"]), id=1) == {
            "action": "session",
            "message": "session authenticated",
            "id": 1,
        }
        await client.subscribe("t1")
        assert (await client.call("subscribe", "other"))["code"] == "forbidden_topic"


async def test_without_a_token_in_time_the_connection_closes_with_4001(redis: RedisServer) -> None:
    async with serving(redis, auth="jwt", jwt_key=KEY, auth_timeout=0.3) as worker, Client(worker.port) as client:
        assert (await client.closed()).code == 4001


async def test_a_client_that_sends_an_id_and_the_log_are_told_why(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(redis, auth="jwt", jwt_key=KEY) as worker, Client(worker.port) as client:
        refused = {"action": "session", "message": "session unauthorized"}
        assert await client.call("subscribe", "t", id=1) == {**refused, "reason": "no_token", "id": 1}
        assert await client.call("authorization", token(exp=1), id=2) == {**refused, "reason": "expired", "id": 2}
        forged = token(exp=1) + "AAAA"
        assert await client.call("authorization", forged, id=3) == {**refused, "reason": "invalid", "id": 3}
        assert await client.call("authorization", token(exp=1)) == refused
        # An issuer's clock may be a little ahead, and a token's moment of issue any time.
        now = time.time()
        await client.call("authorization", token(sub="ann", nbf=now + 2, iat=now + 60, exp=now + 60))
        await client.subscribe("t")
        await client.call("authorization", token(sub="bob", exp=1))
    assert "ago (exp; jwt_leeway is 5)" in caplog.text
    assert "the signature does not fit the key" in caplog.text
    assert "refused a request of 'bob'" in caplog.text


async def test_when_the_token_expires_the_connection_closes_with_4003(redis: RedisServer) -> None:
    async with serving(redis, auth="jwt", jwt_key=KEY, jwt_leeway=0) as worker, Client(worker.port) as client:
        await client.call("authorization", token(exp=time.time() + 2))
        await client.subscribe("t")
        assert (await client.closed()).code == 4003
        assert not len(worker.topics)


async def test_a_silent_client_is_pinged_and_aborted(redis: RedisServer) -> None:
    async with serving(redis, ping_interval=0.3, ping_timeout=0.3) as worker, Client(worker.port) as client:
        assert await client.receive_frame() == (PING, b"")
        assert (await client.closed()).code is None
        assert worker.metrics.ping_timeouts == 1


async def test_a_client_that_answers_pings_stays(redis: RedisServer) -> None:
    async with serving(redis, ping_interval=0.3, ping_timeout=0.3) as worker, Client(worker.port) as client:
        for _ in range(4):
            assert await client.receive_frame() == (PING, b"")
            client.send_frame(PONG)
        assert not worker.metrics.ping_timeouts


async def test_a_handshake_that_does_not_come_is_given_up(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Phase.HANDSHAKE, "seconds", 0.3)
    async with serving(redis) as worker:
        reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
        writer.write(b"GET / HTTP/1.1\r\nHost:")
        assert b"HTTP/1.1 408 " in await Client.within(reader.read())
        writer.close()
        await eventually(lambda: not worker.gateway.connections)
        assert worker.metrics.refused_handshakes["timeout"] == 1


# Clients that can't keep up.


def _has_written(worker: LoneWorker, writes: int) -> bool:
    return worker.metrics.writes == writes


async def stall(worker: LoneWorker, topic: str) -> Client:
    """A client that subscribes and then reads no more."""
    client = await Client(worker.port, receive_buffer=4096).__aenter__()
    await client.subscribe(topic)
    return client


async def test_stalled_clients_are_given_up_at_the_bound_of_bytes_and_nobody_else_notices(redis: RedisServer) -> None:
    async with serving(redis, max_backlog="256KiB", max_backlog_age=600) as worker, Client(worker.port) as reading:
        stalled = [await stall(worker, "bytes") for _ in range(20)]
        await reading.subscribe("bytes")
        # The kernel takes up to some megabytes for each before anything waits here.
        payload = "x" * 50_000
        sent = 0
        while worker.metrics.slow_consumers["bytes"] < len(stalled):
            redis.publish("bytes", payload)
            sent += 1
            assert (await reading.receive())["snapshot"] == payload
            assert sum(c.backlog_bytes for c in worker.gateway.connections) <= len(stalled) * 256 * 1024
            assert sent < 1000
        assert worker.metrics.dropped_bytes > 0
        await eventually(lambda: len(worker.gateway.connections) == 1, "the stalled clients' end")
        assert worker.metrics.close_codes == Counter({"4008": len(stalled)})
        for client in stalled:
            client.writer.transport.abort()


async def test_a_client_that_is_given_up_by_the_very_reply_that_starts_a_topic_has_left_it(
    own_redis: RedisServer,
) -> None:
    async with serving(own_redis, max_backlog="64KiB", max_backlog_age=600) as worker, Client(worker.port) as other:
        slow = await stall(worker, "full")
        (connection,) = [c for c in worker.gateway.connections if c.session and c.session.id == slow.session]
        writes = 0
        while not connection.lagging:
            own_redis.publish("full", "x" * 50_000)
            writes += 1
            await eventually(partial(_has_written, worker, writes))
        own_redis.freeze()
        slow.request("subscribe", "last-straw")
        await eventually(lambda: len(worker.topics) == 2)
        connection.write(b"x" * (65_536 - connection.backlog_bytes))  # one more byte is too much
        own_redis.thaw()
        await eventually(lambda: worker.metrics.slow_consumers["bytes"] == 1)
        assert worker.source.up
        assert worker.metrics.internal_errors == 0
        assert len(worker.topics) == 0
        await other.subscribe("last-straw")
        slow.writer.transport.abort()


async def test_what_waits_is_counted_from_the_first_byte_that_the_socket_has_not_taken(redis: RedisServer) -> None:
    async with serving(redis, max_backlog="256KiB", max_backlog_age=600) as worker:
        client = await stall(worker, "first-byte")
        (connection,) = worker.gateway.connections
        writes = 0
        while not connection.lagging:
            redis.publish("first-byte", "x" * 50_000)
            writes += 1
            await eventually(partial(_has_written, worker, writes))
        before = connection.backlog_bytes
        assert 0 < before <= 50_200
        redis.publish("first-byte", "y" * 1000)
        await eventually(lambda: connection.backlog_bytes > before)
        assert before + 1000 < connection.backlog_bytes < before + 1200
        client.writer.transport.abort()


async def test_several_messages_longer_than_the_bound_reach_a_client_that_reads(redis: RedisServer) -> None:
    """They could not be held to the bound one by one, and one is in the socket when the next comes."""
    async with serving(redis, max_backlog="64KiB", max_backlog_age=600) as worker, Client(worker.port) as client:
        await client.subscribe("large")
        payloads = [json.dumps([number, "x" * 1_000_000]) for number in range(5)]
        for payload in payloads:
            redis.publish("large", payload)
        for number in range(5):
            assert (await client.receive())["snapshot"][0] == number
        assert worker.metrics.slow_consumers == {"bytes": 0, "age": 0}
        assert worker.metrics.large_messages == 5


async def test_messages_longer_than_the_bound_do_not_wait_without_end(redis: RedisServer) -> None:
    async with serving(redis, max_backlog="64KiB", max_backlog_age=600) as worker:
        client = await stall(worker, "larger")
        sent = 0
        while not worker.metrics.slow_consumers["bytes"]:
            redis.publish("larger", "x" * 1_000_000)
            sent += 1
            assert sum(c.backlog_bytes for c in worker.gateway.connections) <= 8 * 1_000_100
            assert sent < 100
            await asyncio.sleep(0)
        client.writer.transport.abort()


async def test_a_slow_client_that_still_reads_is_told_4008(redis: RedisServer) -> None:
    async with serving(redis, max_backlog="256KiB", max_backlog_age=600) as worker:
        client = await stall(worker, "told")
        while not worker.metrics.slow_consumers["bytes"]:
            redis.publish("told", "x" * 50_000)
            await asyncio.sleep(0)
        closed = await client.closed()
        assert closed.code == 4008
        assert "slow consumer" in closed.reason
        client.writer.transport.abort()


async def test_a_slow_client_that_is_gone_before_it_is_told_counts(redis: RedisServer) -> None:
    async with serving(redis, max_backlog="64KiB", max_backlog_age=600) as worker:
        client = await stall(worker, "gone")
        (connection,) = worker.gateway.connections
        while connection.phase is Phase.OPEN:
            connection.write(b"x" * 10_000)
        assert connection.phase is Phase.DOOMED
        connection.abort()  # in the same turn
        await eventually(lambda: worker.metrics.slow_consumers["bytes"])
        assert worker.metrics.dropped_bytes > 65_536
        client.writer.transport.abort()


async def test_a_client_that_reads_a_trickle_is_given_up_at_the_bound_of_age(redis: RedisServer) -> None:
    async with serving(redis, max_backlog="64MiB", max_backlog_age=1) as worker:
        client = await stall(worker, "trickle")
        while not any(c.lagging for c in worker.gateway.connections):
            redis.publish("trickle", "x" * 50_000)
            await asyncio.sleep(0)
        redis.publish("trickle", "behind")
        while not worker.metrics.slow_consumers["age"]:
            await Client.within(client.reader.read(100))
            await asyncio.sleep(0.01)
        await eventually(lambda: not worker.gateway.connections)
        client.writer.transport.abort()


async def test_a_client_that_catches_up_in_time_misses_nothing(redis: RedisServer) -> None:
    async with serving(redis, max_backlog="64MiB") as worker:
        client = await stall(worker, "catch-up")
        numbers = 0
        while sum(c.backlog_bytes for c in worker.gateway.connections) < 1_000_000:
            redis.publish("catch-up", json.dumps([numbers, "x" * 50_000]))
            numbers += 1
            await asyncio.sleep(0)
        for number in range(numbers):
            assert (await client.receive())["snapshot"][0] == number
        await eventually(lambda: not any(c.lagging for c in worker.gateway.connections))
        redis.publish("catch-up", "[-1]")
        assert (await client.receive())["snapshot"] == [-1]
        client.writer.transport.abort()


@pytest.mark.parametrize("flood", [frame(PING, b"x" * 125), frame(TEXT, b'{"action":"ping","id":"%b"}' % (b"x" * 900))])
async def test_a_client_that_floods_and_does_not_read_is_given_up(redis: RedisServer, flood: bytes) -> None:
    async with serving(redis, max_backlog="64KiB") as worker:
        client = await stall(worker, "flood")
        with pytest.raises(ConnectionError):
            while True:
                client.writer.write(flood * 100)
                await Client.within(client.writer.drain())
        assert worker.metrics.slow_consumers["bytes"] == 1
        await eventually(lambda: not worker.gateway.connections)


async def test_a_client_above_its_rate_is_refused_and_then_read_more_slowly(redis: RedisServer) -> None:
    async with (
        serving(redis, max_request_rate=20) as worker,
        Client(worker.port) as client,
        Client(worker.port) as other,
    ):
        client.writer.write(b"".join(frame(TEXT, b'{"action":"ping","id":%d}' % i) for i in range(1000)))
        replies = [await client.receive() for _ in range(101)]
        assert replies[99] == {"action": "pong", "id": 99}
        assert (replies[100]["code"], replies[100]["id"]) == ("rate_limited", 100)
        other.send({"action": "ping"})
        assert await other.receive() == {"action": "pong"}
        # One slice of 4 KiB was handled; the rest waits in the socket.
        assert worker.metrics.refused_requests["rate_limited"] < 200


# Leaving.


async def test_nothing_is_left_of_clients_that_vanish_while_they_wait(
    own_redis: RedisServer, make_redis: Callable[..., RedisServer]
) -> None:
    async with serving(own_redis) as worker:
        own_redis.freeze()
        clients = [await Client(worker.port).__aenter__() for _ in range(50)]
        for number, client in enumerate(clients):
            client.request("subscribe", f"pending-{number % 10}")
            client.send({"action": "ping"})
        await eventually(lambda: len(worker.topics) == 10)
        dying = [weakref.ref(connection) for connection in worker.gateway.connections]
        for client in clients:
            client.writer.transport.abort()
        await eventually(lambda: not worker.gateway.connections)
        own_redis.thaw()
        assert not len(worker.topics)
        assert not worker.source.wanted
        await asyncio.sleep(0)
        gc.collect()
        assert [ref for ref in dying if ref() is not None] == []


async def test_closed_connections_leave_nothing_for_the_garbage_collector(redis: RedisServer) -> None:
    async with serving(redis) as worker:
        gone: list[weakref.ref[object]] = []
        gc.collect()
        gc.disable()
        try:
            for last in (b"", frame(CLOSE, b"\x03\xe8"), frame(TEXT, b"\xff"), frame(3)):
                async with Client(worker.port) as client:
                    await client.subscribe("garbage")
                    gone += [weakref.ref(c) for c in worker.gateway.connections]
                    gone += [weakref.ref(c.protocol) for c in worker.gateway.connections]
                    client.writer.write(last)
                    if last:
                        await client.receive_frame()
                await eventually(lambda: not worker.gateway.connections)
            await eventually(lambda: not any(ref() for ref in gone))
        finally:
            gc.enable()
        assert len(gone) == 8


async def test_a_connection_has_no_task_and_no_timer(redis: RedisServer) -> None:
    async with serving(redis) as worker:
        before = len(asyncio.all_tasks())
        async with Client(worker.port) as client:
            await client.subscribe("no-task")
            assert len(asyncio.all_tasks()) == before


async def test_a_client_that_sends_eof_is_let_go(redis: RedisServer) -> None:
    async with serving(redis) as worker, Client(worker.port) as client:
        await client.subscribe("eof")
        client.writer.write_eof()
        assert (await client.closed()).code is None
        await eventually(lambda: not worker.gateway.connections)
        assert not len(worker.topics)
        assert worker.metrics.close_codes == Counter({"1006": 1})


# The daemon stands still.


@pytest.fixture
def daemon(start_daemon: Callable[..., Daemon], redis: RedisServer) -> Daemon:
    """One in a process of its own, with short deadlines, that may be stopped and continued."""
    flags = ("--port", "0", "--admin-port", "0", "--redis-url", redis.url)
    short = ("--auth-timeout", "6", "--ping-interval", "1", "--ping-timeout", "5")
    return start_daemon(*flags, *short, WSD_JWT_KEY=KEY)


async def test_what_came_while_the_daemon_stood_still_is_in_time(daemon: Daemon) -> None:
    """As after a SIGSTOP, or while a virtual machine is moved: deadlines pass, but what they ask for has come."""
    authorizing = [await Client(daemon.port).__aenter__() for _ in range(50)]
    for client in authorizing:
        assert await client.receive_frame() == (PING, b"")
    daemon.signal(signal.SIGSTOP)
    for client in authorizing:
        client.send_frame(PONG)
        client.request("authorization", token())
        await client.writer.drain()
    await asyncio.sleep(7)
    daemon.signal(signal.SIGCONT)
    for client in authorizing:
        assert (await client.receive())["message"] == "session authenticated"
        client.writer.transport.abort()
