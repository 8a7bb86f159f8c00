"""``wsd tail`` and what happens to its connection. What needs a server that misbehaves is tested in this process."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import Any, Self

import pytest
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from bench.processes import free_port
from tests.lib.programs import WSD, Command, Daemon, refused, tailing
from tests.lib.servers import RedisServer
from tests.lib.waiting import PATIENCE
from wsd.cli.tail import causes
from wsd.cli.tail import client as tail
from wsd.codes import Close, ErrorCode, Reaction, Remedy
from wsd.errors import CommandError

StartDaemon = Callable[..., Daemon]


def test_tail_of_several_topics(redis: RedisServer, start_daemon: StartDaemon, topic: str) -> None:
    daemon = start_daemon("--port=0", "--admin-port=0", "--auth=none", "--redis-url", redis.url)
    with tailing(topic, f"{topic}é", topic, "--url", daemon.url) as client:
        redis.publish(f"{topic}é", "1")
        assert client.out.next() == f"{topic}é\t1".encode()
        redis.publish(topic, b"\xff")
        assert client.out.next() == topic.encode() + b'\t"/w=="'
        assert client.end(signal.SIGINT) == 0


def test_tail_reconnects_when_the_server_is_back(redis: RedisServer, start_daemon: StartDaemon, topic: str) -> None:
    flags = ("--admin-port=0", "--auth=none", "--drain-seconds=0", "--redis-url", redis.url, "--port")
    port = free_port()
    first = start_daemon(*flags, str(port))
    with tailing(topic, "--port", str(port)) as client:
        first.signal(signal.SIGTERM)
        assert first.wait() == 0
        assert "1012" in client.err.wait_for("reconnecting in")
        client.err.wait_for("Connection refused; reconnecting in")
        second = start_daemon(*flags, str(port))
        client.err.wait_for("subscribed to")
        redis.publish(topic, "1")
        assert client.out.next() == b"1"
        second.kill()
        client.err.wait_for("lost the connection; reconnecting in")


def test_tail_says_when_messages_may_have_been_missed(
    own_redis: RedisServer, start_daemon: StartDaemon, topic: str
) -> None:
    daemon = start_daemon("--port=0", "--admin-port=0", "--auth=none", "--redis-url", own_redis.url)
    with tailing(topic, "--url", daemon.url) as client:
        own_redis.stop()
        daemon.wait_for("lost the link")
        own_redis.start()
        assert client.err.wait_for(topic) == f"wsd: {topic}: messages may have been missed"
        own_redis.publish(topic, "1")
        assert client.out.next() == b"1"


def test_tail_ends_when_nobody_reads_it(redis: RedisServer, start_daemon: StartDaemon, topic: str) -> None:
    daemon = start_daemon("--port=0", "--admin-port=0", "--auth=none", "--redis-url", redis.url)
    command = f"{shlex.quote(sys.executable)} -m wsd tail {topic} --url {daemon.url} | head -n 1"
    with Command(command) as client:
        client.err.wait_for("subscribed to")
        redis.publish(topic, "1")
        assert client.out.next() == b"1"
        # It ends by itself, without a second message to find out by.
        assert client.end() == 0
        assert client.err.text.count("\n") == 1


def test_tail_stops_at_what_is_no_wsd(start_daemon: StartDaemon, redis: RedisServer) -> None:
    daemon = start_daemon("--port=0", "--admin-port=0", "--auth=none")
    (line,) = refused(1, "tail", "chat", "--url", f"ws://user:hunter2@127.0.0.1:{daemon.admin_port}/?key=hunter3")
    assert "an HTTP server that does not speak WebSocket answers at" in line and "404" in line and "hunter" not in line
    # Redis closes without a word when it sees HTTP.
    *_, line = refused(1, "tail", "chat", "--url", f"ws://127.0.0.1:{redis.port}", "--timeout=6")
    assert "closed the connection without an answer" in line and line.endswith("within 6 s")


@pytest.mark.parametrize(
    ("scheme", "answer", "words"),
    [
        ("ws", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "an HTTP server that does not speak WebSocket"),
        ("ws", b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", "400 Bad Request"),
        ("ws", b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", "refused the connection with 401"),
        ("ws", b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "does not speak WebSocket"),
        ("ws", b"SSH-2.0-OpenSSH_9.2\r\n", "does not speak HTTP"),
        ("wss", b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak TLS: use ws://127.0.0.1:"),
        ("wss", b"-ERR unknown command\r\n", "does not speak TLS: use ws://127.0.0.1:"),
    ],
)
async def test_tail_says_in_words_what_answers(scheme: str, answer: bytes, words: str, written: list[bytes]) -> None:
    async with answering(answer) as port:
        with pytest.raises(CommandError, match=re.escape(words)):
            await client(f"{scheme}://127.0.0.1:{port}", written).run()


@pytest.mark.parametrize(
    ("scheme", "answer", "words"),
    [
        ("ws", b"", "closed the connection without an answer; with TLS it is wss://127.0.0.1:"),
        # What OpenSSL says to a GET: the alert of a TLS server.
        ("ws", b"\x15\x03\x01\x00\x02\x02\x46", "without an answer; with TLS it is wss://127.0.0.1:"),
        ("wss", b"", "closed the connection during the TLS handshake; without TLS it is ws://127.0.0.1:"),
        ("ws", b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", "refused the connection with 502 Bad Gateway"),
        ("ws", b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n", "refused the connection with 429"),
    ],
)
async def test_tail_tries_again_what_a_restart_may_mend(
    scheme: str, answer: bytes, words: str, written: list[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    async with answering(answer) as port:
        following = asyncio.create_task(client(f"{scheme}://127.0.0.1:{port}", written).run())
        err = ""
        while err.count("reconnecting in") < 2:
            assert not following.done()
            await asyncio.sleep(0.01)
            err += capsys.readouterr().err
        following.cancel()
        await asyncio.wait([following])
    assert words in err


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[int]:
    """Answer to the first bytes of each connection with these, and close; give the port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65_536)
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


def test_tail_of_a_large_payload(redis: RedisServer, start_daemon: StartDaemon, topic: str) -> None:
    daemon = start_daemon("--port=0", "--admin-port=0", "--auth=none", "--redis-url", redis.url)
    payload = json.dumps("x" * 5 * 1024 * 1024)
    with tailing(topic, "--count=1", "--url", daemon.url) as client:
        redis.publish(topic, payload)
        assert client.end() == 0
        assert client.out.text == payload + "\n"


def test_tail_ends_after_a_time(redis: RedisServer, start_daemon: StartDaemon, topic: str) -> None:
    daemon = start_daemon("--port=0", "--admin-port=0", "--auth=none", "--redis-url", redis.url)
    tail = [*WSD, "tail", topic, "--timeout=6", "--url"]
    with (
        Command([*tail, daemon.url]) as endless,
        Command([*tail, daemon.url, "--count=3"]) as waiting,
        Command([*tail, f"ws://127.0.0.1:{free_port()}"]) as lost,
    ):
        assert endless.end() == 0
        assert endless.err.text.count("\n") == 1
        assert waiting.end() == 1
        assert waiting.err.text.endswith("\nwsd: 0 of 3 messages came within 6 s\n")
        assert lost.end() == 1
        assert re.search(r"\nwsd: not subscribed \(.*Connection refused\) within 6 s\n$", lost.err.text)


@pytest.mark.parametrize(
    "messages",
    [
        ('{"action":"session","message":"session unauthorized"}',),
        ('{"action":"error","code":"forbidden_topic","message":"no"}',),
        ("what is this?",),
        (
            '{"action":"subscribe","message":"context subscribed"}',
            '{"action":"message","topic":"chat","snapshot":1}',
        ),
    ],
)
async def test_tail_closes_with_1000_however_it_ends(messages: tuple[str, ...], written: list[bytes]) -> None:
    codes: asyncio.Queue[int] = asyncio.Queue()

    async def behave(connection: ServerConnection) -> None:
        for message in messages:
            await connection.send(message)
        await connection.wait_closed()
        assert connection.close_code is not None
        codes.put_nowait(connection.close_code)

    async with FakeServer(behave) as server:
        with suppress(CommandError):
            await client(server.url, written, token=lambda: "t").run()
        async with asyncio.timeout(PATIENCE):
            assert await codes.get() == 1000


class FakeServer:
    """A server that greets, and then does what the test says."""

    def __init__(self, *behaviours: Callable[[ServerConnection], Any]) -> None:
        self._behaviours = list(behaviours)  # of one connection after the other
        self.refusals: list[Response] = []  # of handshakes, before any of those
        self.received: list[dict[str, str]] = []
        self._server: Server

    async def __aenter__(self) -> Self:
        self._server = await serve(self._serve, "127.0.0.1", 0, process_request=self._admit, compression=None)
        self.url = f"ws://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        return self.refusals.pop(0) if self.refusals else None

    async def _serve(self, connection: ServerConnection) -> None:
        await connection.send('{"action":"connect","message":"connection established"}')
        await connection.send('{"action":"session","message":"waiting for create session","session":"s"}')
        self.received.append(json.loads(await connection.recv()))
        await self._behaviours.pop(0)(connection)


async def subscribed_and_publish(connection: ServerConnection) -> None:
    """Do what a daemon does."""
    await connection.send('{"action":"subscribe","message":"context subscribed"}')
    await connection.send('{"action":"message","topic":"chat","snapshot":1}')
    await connection.wait_closed()


def closing(code: int) -> Callable[[ServerConnection], Any]:
    """Close."""

    async def close(connection: ServerConnection) -> None:
        await connection.send('{"action":"subscribe","message":"context subscribed"}')
        await connection.close(code, "because")

    return close


def sending(message: str) -> Callable[[ServerConnection], Any]:
    """Send a message."""

    async def send(connection: ServerConnection) -> None:
        await connection.send(message)
        await connection.wait_closed()

    return send


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What a client in this process prints. It does not wait before it reconnects."""
    monkeypatch.setattr(tail, "BACKOFF_FIRST", 0.0)
    return []


def client(
    url: str, written: list[bytes], topics: tuple[str, ...] = ("chat",), token: Callable[[], str | None] = lambda: None
) -> tail.Tail:
    """A client that ends after one message."""
    return tail.Tail(url, topics, token=token, count=1, write=written.append)


@pytest.mark.parametrize(
    "code", [1000, 1001, 1013, *(close for close in Close if close.reaction is Reaction.RECONNECT)]
)
async def test_tail_reconnects_after_these_codes(
    code: int, written: list[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    async with FakeServer(closing(code), subscribed_and_publish) as server:
        await client(server.url, written).run()
    assert written == [b"1"]
    assert f"closed the connection with {code}: because; reconnecting in" in capsys.readouterr().err
    assert [request["action"] for request in server.received] == ["subscribe", "subscribe"]


@pytest.mark.parametrize("code", [close for close in Close if close.reaction is Reaction.STOP])
async def test_tail_stops_after_these_codes(code: int, written: list[bytes]) -> None:
    async with FakeServer(closing(code)) as server:
        with pytest.raises(CommandError, match=f"{code}: because"):
            await client(server.url, written).run()


async def test_tail_needs_a_new_token_after_4003(written: list[bytes]) -> None:
    async with FakeServer(closing(4003)) as server:
        with pytest.raises(CommandError, match="a new token is needed"):
            await client(server.url, written, token=lambda: "old").run()
    tokens = ["old", "new", "new"]
    async with FakeServer(closing(4003), subscribed_and_publish) as server:
        await client(server.url, written, token=lambda: tokens.pop(0)).run()
    assert [request["context"] for request in server.received] == ["old", "new"]


LATER = [code for code in ErrorCode if code.remedy is Remedy.WAIT]


@pytest.mark.parametrize("code", LATER)
async def test_tail_tries_again_what_may_work_later(
    code: str, written: list[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    refusal = json.dumps({"action": "error", "code": code, "message": "later\x1b[2J"})
    async with FakeServer(sending(refusal), subscribed_and_publish) as server:
        await client(server.url, written).run()
    assert written == [b"1"]
    assert r"chat: later\x1b[2J; reconnecting in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("message", "words"),
    [
        *(
            (json.dumps({"action": "error", "code": code, "message": "enough"}), rf"chat: enough \({code}\)")
            for code in (*ErrorCode, "of_the_future")
            if code not in LATER
        ),
        ('{"action":"session","message":"session unauthorized"}', "asks for a token"),
        ("hello", "does not speak the protocol"),
        ("[]", "does not speak the protocol"),
    ],
)
async def test_tail_stops_when_it_is_refused(message: str, words: str, written: list[bytes]) -> None:
    async with FakeServer(sending(message)) as server:
        with pytest.raises(CommandError, match=words):
            await client(server.url, written).run()


async def test_tail_waits_as_long_as_a_full_server_asks(
    written: list[bytes], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(causes, "MAX_RETRY_AFTER", 0.0)
    async with FakeServer(subscribed_and_publish) as server:
        for text in ("full\n", "<html>"):
            refusal = Response(HTTPStatus.SERVICE_UNAVAILABLE, "", refusal_headers("3600"), text.encode())
            server.refusals.append(refusal)
        await client(server.url, written).run()
    assert written == [b"1"]
    err = capsys.readouterr().err
    assert "refused the connection with 503: full; reconnecting in 0.0 s" in err
    assert "<html>" not in err


async def test_tail_stops_when_its_origin_is_refused(written: list[bytes]) -> None:
    async with FakeServer() as server:
        server.refusals.append(Response(HTTPStatus.FORBIDDEN, "", refusal_headers(), b"no"))
        with pytest.raises(CommandError, match="403: no"):
            await client(server.url, written).run()


def refusal_headers(retry_after: str = "") -> Headers:
    """The headers of a refused handshake."""
    headers = Headers({"Connection": "close"})
    if retry_after:
        headers["Retry-After"] = retry_after
    return headers
