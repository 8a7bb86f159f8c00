"""The door: who is let in, and how everybody is seen out. With clients that share no code with the server's library."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from pathlib import Path

import aiohttp
import pytest
import websocket

from tests.lib.clients import Client, Closed
from tests.lib.servers import RedisServer, serving
from tests.lib.waiting import PATIENCE, eventually
from wsd.clients import gateway as gateway_module
from wsd.errors import StartupError
from wsd.sockets import BACKLOG

SOMAXCONN = int(Path("/proc/sys/net/core/somaxconn").read_text())
"""The longest queue of connections that wait to be accepted, for all of the machine."""


async def status(port: int, headers: str = "") -> tuple[int, str]:
    """The response to a handshake."""
    async with Client(port, headers=headers, greet=False) as client:
        return int(client.response.split(" ")[1]), client.response


async def test_aiohttp_speaks_with_us(redis: RedisServer) -> None:
    async with serving(redis) as worker, aiohttp.ClientSession() as http:
        async with http.ws_connect(f"ws://127.0.0.1:{worker.port}/any/path?x=1") as client:
            assert (await client.receive_json())["action"] == "connect"
            session = (await client.receive_json())["session"]
            await client.send_json({"action": "subscribe", "session": session, "context": "aiohttp"})
            assert (await client.receive_json())["message"] == "context subscribed"
            redis.publish("aiohttp", "{}")
            assert await client.receive_json() == {"action": "message", "topic": "aiohttp", "snapshot": {}}
            await client.ping(b"x")
        assert client.close_code == 1000


async def test_websocket_client_speaks_with_us(redis: RedisServer) -> None:
    def talk(port: int) -> str:
        client = websocket.create_connection(f"ws://127.0.0.1:{port}", timeout=PATIENCE)
        client.recv()
        session = json.loads(client.recv())["session"]
        client.send(json.dumps({"action": "subscribe", "session": session, "context": "websocket-client"}))
        assert json.loads(client.recv())["message"] == "context subscribed"
        redis.publish("websocket-client", '"x"')
        message = str(client.recv())
        client.close()
        return message

    async with serving(redis) as worker:
        message = await asyncio.to_thread(talk, worker.port)
        assert message == '{"action":"message","topic":"websocket-client","snapshot":"x"}'


async def test_a_plain_get_is_told_to_upgrade(redis: RedisServer) -> None:
    async with serving(redis) as worker, aiohttp.ClientSession() as http:
        async with http.get(f"http://127.0.0.1:{worker.port}/") as response:
            assert response.status == 426
            assert response.headers["Upgrade"] == "websocket"
            assert "Python" not in response.headers.get("Server", "")
        assert +worker.metrics.refused_handshakes == {"upgrade": 1}


async def test_compression_is_not_negotiated(redis: RedisServer) -> None:
    async with serving(redis) as worker:
        code, response = await status(worker.port, "Sec-WebSocket-Extensions: permessage-deflate\r\n")
        assert code == 101
        assert "Extensions" not in response


@pytest.mark.parametrize(
    ("origin", "expected"),
    [("https://a.example", 101), ("https://b.example", 101), ("https://c.example", 403), ("null", 403), (None, 101)],
)
async def test_browsers_come_from_allowed_origins_only(redis: RedisServer, origin: str | None, expected: int) -> None:
    async with serving(redis, allowed_origins=("https://a.example", "https://b.example")) as worker:
        assert (await status(worker.port, f"Origin: {origin}\r\n" if origin else ""))[0] == expected


async def test_without_the_setting_any_origin_may_come(redis: RedisServer) -> None:
    async with serving(redis) as worker:
        assert (await status(worker.port, "Origin: https://anywhere.example\r\n"))[0] == 101


@pytest.mark.parametrize("headers", [b"X: y\r\n" * 200, b"X: %b\r\n" % (b"y" * 8000) * 5, b"X: %b" % (b"y" * 9000)])
async def test_a_handshake_that_is_too_long_is_cut_short(redis: RedisServer, headers: bytes) -> None:
    async with serving(redis) as worker:
        reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n" + headers)
        assert b"431" in await Client.within(reader.readline())
        writer.close()


async def test_a_handshake_with_large_cookies_is_fine(redis: RedisServer) -> None:
    async with serving(redis) as worker:
        assert (await status(worker.port, "Cookie: a=%s\r\n" % ("x" * 7000) * 4))[0] == 101


async def test_what_is_no_http_is_dropped(redis: RedisServer) -> None:
    async with serving(redis) as worker:
        reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
        writer.write(b"\x16\x03\x01\x02\x00\x01\r\n\r\n")
        assert await Client.within(reader.read()) == b""
        writer.close()
        await eventually(lambda: not worker.gateway.connections)


async def test_a_full_house_answers_503_and_says_when_to_come_again(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_module, "POLITE_REFUSALS", 2)
    async with serving(redis, max_connections=2) as worker:
        async with Client(worker.port), Client(worker.port):
            code, response = await status(worker.port)
            assert code == 503
            assert "Retry-After: 5\r\n" in response
            # Beyond that, sockets are closed unread.
            await eventually(lambda: len(worker.gateway.connections) == 2)
            held = [await asyncio.open_connection("127.0.0.1", worker.port) for _ in range(2)]
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await status(worker.port)
            for _, writer in held:
                writer.close()
        await eventually(lambda: not worker.gateway.connections)
        assert (await status(worker.port))[0] == 101


async def test_a_drain_sends_everybody_away_evenly_and_lets_nobody_in(redis: RedisServer) -> None:
    loop = asyncio.get_running_loop()
    async with serving(redis) as worker:
        clients = [await Client(worker.port).__aenter__() for _ in range(20)]
        started = loop.time()
        drained = asyncio.create_task(worker.gateway.drain(1.0))

        await asyncio.sleep(0)
        code, response = await status(worker.port)
        assert code == 503
        assert "Retry-After" in response

        times = []
        for waiting in asyncio.as_completed([_left_after(client, started) for client in clients]):
            seconds, closed = await waiting
            times.append(seconds)
            assert closed.code == 1012
        await drained
        await worker.gateway.close()
        # Over a second: neither all at once nor all at the end. A busy machine makes nobody leave early.
        assert times[len(times) // 2] > 0.2
        assert times[0] < times[-1] - 0.2
        assert not worker.gateway.connections
        with pytest.raises(ConnectionRefusedError):
            await status(worker.port)


async def _left_after(client: Client, started: float) -> tuple[float, Closed]:
    closed = await client.closed()
    return asyncio.get_running_loop().time() - started, closed


async def test_a_drain_aborts_who_does_not_leave(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_module, "CLOSE_TIMEOUT", 0.2)
    async with serving(redis) as worker, Client(worker.port) as stubborn:
        await Client.within(worker.gateway.drain(0.1))
        await worker.gateway.close()
        assert not worker.gateway.connections
        assert (await stubborn.closed()).code == 1012


async def test_a_port_that_is_taken_is_named(redis: RedisServer) -> None:
    async with serving(redis) as worker:
        with pytest.raises(StartupError, match=f"port {worker.port}"):
            async with serving(redis, port=worker.port):
                pass


# What the kernel and the event loop are relied on for.


async def test_accepted_sockets_inherit_what_the_listening_socket_was_set_to(redis: RedisServer) -> None:
    async with serving(redis, ping_interval=20, ping_timeout=20) as worker, Client(worker.port):
        (connection,) = worker.gateway.connections
        sock = connection.transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 40_000
        # The kernel doubles the size for its own records.
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 2 * gateway_module.RECEIVE_BUFFER


async def test_the_backlog_is_the_gateways_because_the_event_loop_listens_once_more(redis: RedisServer) -> None:
    async with serving(redis) as worker:
        (server,) = worker.gateway._servers
        # tcp(7): of a listening socket, tcpi_sacked is the length of the queue, the sixth number behind eight bytes.
        info = server.sockets[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        assert int.from_bytes(info[28:32], sys.byteorder) == min(BACKLOG, SOMAXCONN)
