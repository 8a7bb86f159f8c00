"""Every way in which a handshake can fail: a whole answer, a count, a line that says why, and nothing else."""

from __future__ import annotations

import asyncio
import base64
import logging
import os
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.lib.clients import CLOSE, PING, PONG, TEXT, Client, Closed, frame
from tests.lib.servers import RedisServer, serving
from tests.lib.waiting import eventually
from wsd.clients import gateway as gateway_module
from wsd.clients.handshake import RequestHead
from wsd.codes import MAX_REQUEST, HandshakeReason
from wsd.errors import HandshakeError

HOST = b"GET / HTTP/1.1\r\nHost: x\r\n"
UPGRADE = b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
GOOD = HOST + UPGRADE + KEY + b"Sec-WebSocket-Version: 13\r\n"
LONG = b"A: " + b"x" * 8000 + b"\r\n"
SECRET = b"Cookie: token=SECRET\r\nAuthorization: Bearer SECRET\r\n"

BEHIND = {
    "nothing": b"",
    "a CRLF": b"\r\n",
    "a request": HOST + b"\r\n",
    "a good frame": frame(TEXT, b'{"action":"ping"}'),
    "a ping, a pong, a close": frame(PING) + frame(PONG) + frame(CLOSE, b"\x03\xe8"),
    "an unmasked frame": frame(TEXT, b"{}", mask=None),
    "an oversized frame": frame(TEXT, b" " * 100_000),
    "rubbish": bytes(range(256)) * 200,
}

REFUSED = {
    "tls": [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\x16\x03"],
    "proxy_protocol": [
        b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n" + GOOD + b"\r\n",
        b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + bytes(12) + GOOD + b"\r\n",
    ],
    "http2": [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9)],
    "not_http": [
        b"\x00\x01",
        b"GET /\r\n",
        b"SSH-2.0-OpenSSH_9\r\n",
        b"hello\n",
        b"GET / HTTP/3\r\n\r\n",
        b"\xff" * 9000,
    ],
    "bare_lf": [GOOD.replace(b"\r\n", b"\n") + b"\n", GOOD + b"A: b\nC: d\r\n\r\n", GOOD[:-2] + b"\n\r\n"],
    "malformed": [HOST + b"no colon\r\n\r\n", HOST + b"A: \x01\r\n\r\n", b"GET /\xff HTTP/1.1\r\n\r\n"],
    "body": [HOST + b"Content-Length: 5\r\n\r\nhello", HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"],
    "uri_too_long": [b"GET /" + b"x" * 8192 + b" HTTP/1.1\r\n\r\n", b"GET /" + b"x" * 9000],
    "header_too_long": [HOST + b"Cookie: " + b"x" * 8192 + b"\r\n\r\n", HOST + b"Cookie: " + b"x" * 9000],
    "too_many_headers": [HOST + b"A: b\r\n" * 128 + b"\r\n", HOST + b"A: b\r\n" * 200],
    "too_long": [
        HOST + (b"A: " + b"x" * 8000 + b"\r\n") * 5,
        HOST + (b"A: " + b"x" * 8000 + b"\r\n") * 4 + b"B: %b\r\n" % (b"x" * 1000),
    ],
    "method": [
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000,
        b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"OPTIONS * HTTP/1.0\r\n\r\n",
    ],
    "http_version": [GOOD.replace(b"HTTP/1.1", b"HTTP/1.0") + b"\r\n"],
    "upgrade": [HOST + b"\r\n", HOST + UPGRADE[20:] + b"\r\n", HOST + b"Upgrade: h2c\r\nConnection: Upgrade\r\n\r\n"],
    "version": [HOST + UPGRADE + KEY + b"\r\n", HOST + UPGRADE + KEY + b"Sec-WebSocket-Version: 8\r\n\r\n"],
    "key": [HOST + UPGRADE + b"\r\n", GOOD + KEY + b"\r\n", HOST + UPGRADE + b"Sec-WebSocket-Key: x\r\n\r\n"],
    "origin": [GOOD + b"Origin: https://evil.example\r\n\r\n"],
}


async def exchange(port: int, sent: bytes) -> bytes:
    """Send bytes in one go, and read to the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(sent)
        return bytes(await Client.within(reader.read()))
    finally:
        writer.close()


def calm(records: list[logging.LogRecord]) -> bool:
    """Whether there is no error and no traceback among them."""
    return not any(record.levelno >= logging.ERROR or record.exc_info for record in records)


@pytest.mark.parametrize(("reason", "sent"), [(reason, sent) for reason, all in REFUSED.items() for sent in all])
async def test_every_refusal_is_answered_whole_counted_and_explained(
    redis: RedisServer, reason: str, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    sent = sent.replace(HOST, HOST + SECRET, 1)
    async with serving(redis, allowed_origins="https://a.example") as worker:
        reply = await exchange(worker.port, sent)
        row = HandshakeReason[reason.upper()]
        if row.status:
            head, _, body = reply.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 %d " % row.status), reply
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            assert len(body) == (0 if sent.startswith(b"HEAD") else length)
        else:
            assert reply == b""
        assert +worker.metrics.refused_handshakes == {reason: 1}
        assert worker.metrics.handshakes == 0
        lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert len(lines) == 1
        assert row.cause in lines[0]
        assert "SECRET" not in caplog.text
        assert calm(caplog.records)
        await eventually(lambda: not worker.gateway.connections)


@pytest.mark.parametrize("behind", BEHIND.values(), ids=BEHIND)
@pytest.mark.parametrize("reason", ["upgrade", "method", "origin", "malformed"])
async def test_what_comes_behind_a_refused_request_does_no_harm(
    redis: RedisServer, reason: str, behind: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(redis, allowed_origins="https://a.example") as worker:
        sent = REFUSED[reason][0]
        assert (await exchange(worker.port, sent + behind)).startswith(
            b"HTTP/1.1 %d " % HandshakeReason[reason.upper()].status
        )
        assert calm(caplog.records)


@pytest.mark.parametrize("behind", BEHIND.values(), ids=BEHIND)
@pytest.mark.parametrize("size", [1, 100_000])
async def test_what_comes_behind_an_accepted_request_is_answered_behind_the_greeting(
    redis: RedisServer, behind: bytes, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(redis) as worker:
        sent = GOOD + b"\r\n" + behind + frame(CLOSE, b"\x03\xe8")
        reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
        if size == 1:
            for byte in sent[:400]:
                writer.write(bytes((byte,)))
                await asyncio.sleep(0)
            writer.write(sent[400:])
        else:
            writer.write(sent)
        reply = bytes(await Client.within(reader.read()))
        writer.close()
        head, _, frames = reply.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        assert frames[2:].startswith(b'{"action":"connect"')
        await eventually(lambda: not worker.gateway.connections)
        assert worker.metrics.close_codes.total() == 1
        assert not worker.metrics.close_codes["1006"]
        assert calm(caplog.records)


async def test_a_connection_that_broke_the_rules_is_read_from_only_a_little_more(redis: RedisServer) -> None:
    async with serving(redis) as worker, Client(worker.port) as client:
        client.writer.write(frame(TEXT, b"{}", mask=None))
        with pytest.raises((Closed, ConnectionError, AssertionError)):
            while True:
                client.writer.write(bytes(100_000))
                await Client.within(client.writer.drain())
                (connection,) = worker.gateway.connections
                assert connection._linger > -10_000
        client.writer.transport.abort()


@pytest.mark.parametrize(("sent", "reason"), [(b"", "silent"), (b"GET / HT", "eof"), (HOST, "eof")])
async def test_a_client_that_goes_before_its_request_is_whole(redis: RedisServer, sent: bytes, reason: str) -> None:
    async with serving(redis) as worker:
        _, writer = await asyncio.open_connection("127.0.0.1", worker.port)
        writer.write(sent)
        writer.close()
        await eventually(lambda: +worker.metrics.refused_handshakes == {reason: 1})
        await eventually(lambda: not worker.gateway.connections)


async def test_pongs_come_in_their_place_among_the_replies(redis: RedisServer) -> None:
    async with serving(redis) as worker, Client(worker.port) as client:
        client.writer.write(
            frame(TEXT, b'{"action":"ping","id":1}')
            + frame(PING, b"one")
            + frame(TEXT, b'{"action":"ping","id":2}')
            + frame(PING, b"two")
        )
        received = [await client.receive_frame() for _ in range(4)]
        assert [(opcode, payload[-8:]) for opcode, payload in received] == [
            (TEXT, b'","id":1}'[-8:]),
            (PONG, b"one"),
            (TEXT, b'","id":2}'[-8:]),
            (PONG, b"two"),
        ]


async def test_a_close_frame_between_fragments_is_answered_with_its_code(redis: RedisServer) -> None:
    async with serving(redis) as worker, Client(worker.port) as client:
        client.send_frame(TEXT, b"{", fin=False)
        client.send_frame(CLOSE, b"\x03\xe8")
        assert (await client.closed()).code == 1000
        await eventually(lambda: not worker.gateway.connections)
        assert worker.metrics.close_codes == Counter({"1000": 1})


async def test_refused_sockets_hold_no_place(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_module, "POLITE_REFUSALS", 3)
    async with serving(redis, max_connections=2) as worker, Client(worker.port):
        refused = []
        async with Client(worker.port):
            for _ in range(3):
                refused.append(await asyncio.open_connection("127.0.0.1", worker.port))
                refused[-1][1].write(GOOD + b"\r\n")
                assert b" 503 " in await Client.within(refused[-1][0].readline())
        await eventually(lambda: not worker.gateway.full)
        async with Client(worker.port):
            pass
        assert worker.metrics.refused_handshakes["full"] == 3
        for _, writer in refused:
            writer.close()


async def test_a_client_that_is_not_read_from_is_not_taken_for_dead(redis: RedisServer) -> None:
    async with (
        serving(redis, max_request_rate=50, ping_interval=0.5, ping_timeout=0.5) as worker,
        Client(worker.port) as client,
    ):
        # Seconds' worth of requests above the burst: pongs wait behind them.
        client.writer.write(b"".join(frame(TEXT, b'{"action":"ping","id":%d}' % i) for i in range(450)))
        for _ in range(400):
            await client.receive()
        assert worker.metrics.ping_timeouts == 0


async def test_before_authorization_a_message_is_small(redis: RedisServer) -> None:
    key = "0123456789abcdef0123456789abcdef"
    async with serving(redis, auth="jwt", jwt_key=key) as worker, Client(worker.port) as client:
        client.send_frame(TEXT, b" " * 24_000)
        assert (await client.closed()).code == 1009
    async with serving(redis) as worker, Client(worker.port) as client:
        client.send_frame(TEXT, b" " * 60_000)
        assert (await client.receive())["code"] == "malformed"


# The head, without a socket.


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("before", [b"", b"\r\n", b"\r\n\r\n"])
def test_a_head_is_found_however_it_comes(size: int, before: bytes) -> None:
    head, sent = RequestHead(), before + GOOD + b"\r\nbehind"
    for start in range(0, len(sent), size):
        if parts := head.receive(sent[start : start + size]):
            assert parts[0] == GOOD + b"\r\n"
            assert parts[1] + sent[start + size :] == b"behind"
            return
    raise AssertionError("no end was found")


@pytest.mark.parametrize("reason", ["tls", "proxy_protocol", "http2", "not_http", "bare_lf"])
def test_other_protocols_are_recognised_byte_by_byte(reason: str) -> None:
    for sent in REFUSED[reason]:
        if b"A: b\nC" in sent or b"HTTP/3" in sent:
            continue  # found by the library
        head = RequestHead()
        with pytest.raises(HandshakeError) as caught:
            for byte in sent:
                head.receive(bytes((byte,)))
        assert caught.value.reason == reason


def test_a_head_is_bounded() -> None:
    head = RequestHead()
    with pytest.raises(HandshakeError, match="too_long"):
        for _ in range(MAX_REQUEST):
            head.receive(b"" if len(head) else HOST)
            head.receive(b"A: " + base64.b64encode(os.urandom(1500)) + b"\r\n")
    assert len(head) < MAX_REQUEST + 4096


# Subprotocols.


@pytest.mark.parametrize(
    ("ours", "offered", "selected"),
    [
        ("", "a, b", None),
        ("b,a", "a, b", "b"),
        ("a", "bearer.SECRET, a", "a"),
        ("a", "bearer.SECRET", None),
        ("a", "", None),
    ],
)
async def test_the_first_subprotocol_that_both_know_is_selected(
    redis: RedisServer, ours: str, offered: str, selected: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    headers = f"Sec-WebSocket-Protocol: {offered}\r\n" if offered else ""
    async with serving(redis, subprotocols=ours) as worker, Client(worker.port, headers=headers) as client:
        assert (f"Sec-WebSocket-Protocol: {selected}\r\n" in client.response) == (selected is not None)
        assert ("Sec-WebSocket-Protocol" in client.response) == (selected is not None)
    assert ("offers subprotocols" in caplog.text) == (bool(offered) and selected is None)
    assert "SECRET" not in caplog.text


@pytest.mark.parametrize(
    ("allowed", "sent"),
    [
        ("https://app.example.com:443", "https://app.example.com"),
        ("http://App.Example.com:80", "http://app.example.com"),
        ("https://app.example.com:0443", "https://app.example.com"),
        ("https://app.example.com:80", "https://app.example.com:80"),
        ("https://[::1]:443", "https://[::1]"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("null", "null"),
    ],
)
async def test_an_origin_is_written_as_browsers_send_it(redis: RedisServer, allowed: str, sent: str) -> None:
    async with serving(redis, allowed_origins=allowed) as worker, Client(worker.port, headers=f"Origin: {sent}\r\n"):
        pass


# Anything.

PIECES = st.one_of(
    st.binary(max_size=200),
    st.sampled_from([sent for all in REFUSED.values() for sent in all if len(sent) < 10_000]),
    st.sampled_from(list(BEHIND.values())),
    st.sampled_from([GOOD + b"\r\n", GOOD, HOST, b"\r\n", b"\n", b"Sec-WebSocket-Extensions: x; y=\r\n"]),
    st.builds(
        frame,
        st.integers(0, 15),
        st.binary(max_size=300),
        fin=st.booleans(),
        mask=st.sampled_from([b"\x01\x02\x03\x04", None]),
    ),
)


async def test_whatever_a_client_sends_causes_no_error_and_few_lines(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(redis, max_message_size=4096) as worker:

        async def send(pieces: list[bytes]) -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
            try:
                for piece in pieces:
                    writer.write(piece)
                    await asyncio.sleep(0)
                writer.write_eof()
                await Client.within(reader.read())
            except (ConnectionError, RuntimeError):
                pass  # a reset, because it sent more than we read; uvloop raises RuntimeError behind one
            finally:
                writer.transport.abort()

        examples: list[list[bytes]] = []

        @settings(max_examples=300, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(st.booleans(), st.lists(PIECES, min_size=1, max_size=6))
        def collect(upgraded: bool, pieces: list[bytes]) -> None:
            examples.append([GOOD + b"\r\n", *pieces] if upgraded else pieces)

        collect()
        for example in examples:
            caplog.clear()
            await send(example)
            assert calm(caplog.records), example
            assert len(caplog.records) <= 4, example
        await eventually(lambda: not worker.gateway.connections)
        assert worker.metrics.internal_errors == 0
        counted = worker.metrics.handshakes + worker.metrics.refused_handshakes.total()
        assert counted == worker.metrics.connections == len(examples)
