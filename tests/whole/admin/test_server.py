"""The admin port, asked by aiohttp and by bytes that balancers, scrapers and strangers send."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import re
import socket
import struct
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import fields
from http import HTTPStatus
from typing import Any, NamedTuple

import aiohttp
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from tests.lib.clients import Client
from tests.lib.metrics import report
from tests.lib.servers import RedisServer, serving
from tests.lib.waiting import eventually
from wsd import descriptors, sockets
from wsd.admin import server as admin_module
from wsd.admin.alone import alone
from wsd.admin.server import MAX_CONNECTIONS, Admin, Answer, Page
from wsd.metrics import Gauges
from wsd.report import Report
from wsd.worker.alone import LoneWorker


async def ask(worker: LoneWorker, path: str) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"http://127.0.0.1:{worker.admin_port}{path}") as response,
    ):
        return response.status, await response.text()


async def test_health_and_readiness(own_redis: RedisServer) -> None:
    async with serving(own_redis, redis_heartbeat=2) as worker:
        assert await ask(worker, "/healthz") == (200, "ok\n")
        await eventually(lambda: worker.source.links[0].probe_age is not None, "the first probe")
        code, text = await ask(worker, "/readyz")
        assert code == 200
        first, link, end = text.split("\n")
        assert (first, end) == ("ready", "")
        assert re.fullmatch(
            rf"Redis at {own_redis.url}: 0 of 0 channels; probe came back in [0-9.]+ ms, [0-9.]+ s ago", link
        )
        own_redis.stop()
        await eventually(lambda: not worker.source.up)
        assert (await ask(worker, "/healthz"))[0] == 200
        code, reason = await ask(worker, "/readyz")
        assert code == 503
        assert "not ready: " in reason
        assert str(own_redis.port) in reason
        own_redis.start()
        await eventually(lambda: worker.source.healed)
        assert (await ask(worker, "/readyz"))[0] == 200
        worker.stop()
        code, text = await ask(worker, "/readyz")
        assert code == 503
        assert text.startswith("not ready: draining\n")
        assert (await ask(worker, "/nonsense"))[0] == 404


async def test_full_is_not_ready(redis: RedisServer) -> None:
    async with serving(redis, max_connections=2) as worker:
        async with Client(worker.port):
            assert (await ask(worker, "/readyz"))[0] == 200
            async with Client(worker.port):
                code, text = await ask(worker, "/readyz")
                assert (code, text.split("\n")[0]) == (503, "not ready: full: 2 connections")
                assert (await ask(worker, "/healthz"))[0] == 200
        await eventually(lambda: not worker.gateway.connections)
        assert (await ask(worker, "/readyz"))[0] == 200


async def test_out_of_descriptors_is_not_ready_and_logged_once(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "wsd")
    async with serving(redis) as worker:
        monkeypatch.setattr(descriptors, "shortage", lambda: "out of descriptors: few")
        await eventually(lambda: "out of descriptors" in caplog.text)
        code, text = await ask(worker, "/readyz")
        assert code == 503
        assert text.startswith("not ready: out of descriptors: ")
        monkeypatch.setattr(descriptors, "shortage", lambda: "")
        await eventually(lambda: "enough free descriptors again" in caplog.text)
        assert (await ask(worker, "/readyz"))[0] == 200
        assert caplog.text.count("out of descriptors") == 1


async def test_metrics_count_what_happened(redis: RedisServer) -> None:
    async with serving(redis, max_connections=7) as worker, Client(worker.port) as one, Client(worker.port) as other:
        await one.subscribe("metrics")
        await other.subscribe("metrics")
        redis.publish("metrics", "1")
        await one.receive()
        await other.receive()
        code, text = await ask(worker, "/metrics")
        assert code == 200
        values = {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        assert values["wsd_messages_total",] == 1
        assert values["wsd_deliveries_total",] == 2
        assert values["wsd_writes_total",] == 2
        assert values["wsd_open_connections",] == 2
        assert values["wsd_max_connections",] == 7
        assert values["wsd_sessions", "authenticated"] == 2
        assert values["wsd_topics",] == values["wsd_redis_channels_confirmed",] == 1
        assert values["wsd_redis_link_up",] == 1
        assert values["wsd_pass_seconds_count",] == 1
        assert values["process_resident_memory_bytes",] > 1e6


async def test_a_report_may_leave_out_what_takes_long(redis: RedisServer) -> None:
    async with serving(redis) as worker, Client(worker.port):
        whole, beat = worker.status.report(), worker.status.report(whole=False)
        assert whole.gauges.keys() == {gauge.name for gauge in fields(Gauges)}
        assert whole.gauges.keys() - beat.gauges.keys() == {"sessions", "lagging_connections", "backlog_bytes"}
        assert whole.process.keys() - beat.process.keys() == {"open_fds"}
        for told in (whole, beat):
            assert Report.load(json.loads(json.dumps(told.dump(), allow_nan=False))).dump() == told.dump()
            assert told.gauges["open_connections"] == 1
            assert told.metrics["handshakes"] == 1


# By bytes, without the rest of the daemon.


class Response(NamedTuple):
    """What came back: everything until the end of the connection."""

    status: int
    headers: dict[str, str]
    body: bytes


def parse(data: bytes) -> Response:
    """Take one response apart; nothing may stand behind it."""
    head, _, body = data.partition(b"\r\n\r\n")
    line, *lines = head.decode().split("\r\n")
    assert line.startswith("HTTP/1.1 "), data
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    assert headers["connection"] == "close"
    return Response(int(line.split(" ")[1]), headers, body)


@asynccontextmanager
async def answering(reason: str = "", pages: Mapping[str, Page] | None = None) -> AsyncIterator[int]:
    """An admin port; its number."""
    admin = Admin(pages or alone(lambda whole: report(unready=reason)).pages)
    listening = sockets.listen(("127.0.0.1",), 0, ("admin_host", "admin_port"))
    port = sockets.port_of(listening)
    await admin.serve(listening)
    try:
        yield port
    finally:
        await admin.close()


async def short(openmetrics: bool) -> Answer:
    """A page."""
    return Answer(HTTPStatus.OK, b"a page\n")


async def exchange(port: int, request: bytes, *, half_close: bool = False) -> bytes:
    """Send bytes, and read until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        if half_close:
            writer.write_eof()
        return bytes(await Client.within(reader.read()))
    finally:
        writer.close()


@pytest.mark.parametrize("reason", ["", "draining"])
@pytest.mark.parametrize(
    "request_line",
    [
        "OPTIONS / HTTP/1.0",  # HAProxy: option httpchk
        "OPTIONS / HTTP/1.1\r\nHost:",
        "OPTIONS * HTTP/1.1\r\nHost: x",
        "GET / HTTP/1.0",
        "GET /readyz HTTP/1.0",
        "HEAD /readyz HTTP/1.0",
        "GET /readyz?verbose=1 HTTP/1.1\r\nHost: x",
        "GET http://x:3001/readyz HTTP/1.1\r\nHost: x:3001",
        "HEAD HTTP://x HTTP/1.1\r\nHost: x",
        "GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\nUser-Agent: kube-probe/1.31",
    ],
)
async def test_balancers_hear_whether_it_is_ready(request_line: str, reason: str) -> None:
    async with answering(reason) as port:
        response = parse(await exchange(port, f"{request_line}\r\n\r\n".encode()))
        text = f"not ready: {reason}\n" if reason else "ready\n"
        assert response.status == (503 if reason else 200)
        assert response.headers["content-length"] == str(len(text))
        assert response.body.decode() == ("" if request_line.startswith("HEAD") else text)
        assert response.headers.get("allow") == ("GET, HEAD, OPTIONS" if request_line.startswith("OPTIONS") else None)


@pytest.mark.parametrize("reason", ["", "draining"])
async def test_a_client_at_the_wrong_port_is_told_so(reason: str) -> None:
    async with answering(reason) as port:
        upgrade = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\r\n"
        response = parse(await exchange(port, upgrade))
        assert (response.status, response.body[:22]) == (404, b"this is the admin port")


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/metrics", "/nonsense"])
async def test_head_has_the_headers_of_get_and_no_body(path: str) -> None:
    async with answering() as port:
        get, head = [
            parse(await exchange(port, f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()))
            for method in ("GET", "HEAD")
        ]
        assert head.body == b""
        assert head == get._replace(body=b"")
        assert head.headers["content-length"] == str(len(get.body))


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "TRACE", "PURGE", "get"])
async def test_other_methods_are_refused(method: str) -> None:
    async with answering() as port:
        response = parse(await exchange(port, f"{method} /metrics HTTP/1.1\r\nHost: x\r\n\r\n".encode()))
        assert (response.status, response.headers["allow"]) == (405, "GET, HEAD, OPTIONS")


@pytest.mark.parametrize(
    "rest",
    [
        b"Content-Length: 5\r\n\r\nhello",
        b"Content-Length: 500000\r\n\r\n" + b"x" * 500_000,
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n",
        b"\r\n" + b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 20,
        b"\r\n\r\n\r\n",
        b"\r\n\x00\xff",
    ],
)
@pytest.mark.parametrize(("method", "status"), [("GET", 200), ("POST", 405)])
async def test_the_first_request_is_answered_whatever_follows(method: str, status: int, rest: bytes) -> None:
    async with answering() as port:
        response = parse(await exchange(port, f"{method} /healthz HTTP/1.1\r\nHost: x\r\n".encode() + rest))
        assert response.status == status
        assert response.headers["content-length"] == str(len(response.body))


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x00\xff\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 40, 400),  # TLS
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", None),  # HTTP/2
        (b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + b"\x01" * 12, 400),  # PROXY, version 2
        (b"GET /healthz HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"GET /healthz HTTP/1.1\r\n" + b"X: y\r\n" * 5_000, 431),
        (b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n", None),  # in one piece it is a path that there isn't
        (b"GET / HTTP/1.1\nHost: x\n\n", 200),  # bare LF, which a server may take
        (b"GET  /healthz  HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\n", 404),
        (b"*1\r\n$4\r\nPING\r\n", 400),  # Redis's protocol: its client waits for an answer, and sends no more
        (b"hello\n", 400),
    ],
)
async def test_what_is_no_good_request_is_refused(data: bytes, status: int | None) -> None:
    async with answering() as port:
        response = parse(await exchange(port, data))
        assert response.status == status or (status is None and 400 <= response.status < 600)
        assert len(response.body) < 1000


async def test_a_client_that_ends_its_side() -> None:
    async with answering() as port:
        whole = b"GET /healthz HTTP/1.0\r\n\r\n"
        assert parse(await exchange(port, whole, half_close=True)).body == b"ok\n"
        assert parse(await exchange(port, whole[:-2], half_close=True)).status == 400
        assert await exchange(port, b"", half_close=True) == b""


def request(target: str) -> bytes:
    """A request with anything for its target."""
    return f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode(errors="replace")


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.text(max_size=100).map(request)))
def test_any_bytes_are_survived(data: bytes) -> None:
    """Fed straight to the connection: an answer or a wish for more, and never an exception."""

    async def feed() -> None:
        problems: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: problems.append(context))
        exchange = admin_module._Exchange(Admin({"/": short}))
        transport = Sink()
        exchange.connection_made(transport)
        for start in range(0, len(data), 7):
            exchange.data_received(data[start : start + 7])
        if exchange.eof_received():
            assert exchange.answering is not None
            await exchange.answering
        exchange.connection_lost(None)
        assert not problems
        assert transport.written.count(b"HTTP/1.1 ") == (1 if transport.written else 0)

    asyncio.run(feed())


class Sink(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        self.written += bytes(data)

    def write_eof(self) -> None:
        pass

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass


TEXT, OPENMETRICS = "text/plain; version=0.0.4", "application/openmetrics-text; version=1.0.0"
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1"
    ";q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)


@pytest.mark.parametrize(
    ("accepts", "expected"),
    [
        ([], TEXT),
        ([PROMETHEUS], OPENMETRICS),
        (['application/openmetrics-text; version="1.0.0"'], OPENMETRICS),
        (["application/openmetrics-text"], OPENMETRICS),
        (["Application/OpenMetrics-Text; Version=1.0.0"], OPENMETRICS),
        (["text/plain;q=0.5", "application/openmetrics-text"], OPENMETRICS),
        (["*/*", "application/openmetrics-text"], OPENMETRICS),
        (["application/openmetrics-text;q=0.1, text/plain;q=0.9"], TEXT),
        (["application/openmetrics-text;q=0"], TEXT),
        (["application/openmetrics-text;version=0.0.1"], TEXT),
        (["application/openmetrics-text;version=2.0.0"], TEXT),
        (["application/openmetrics-text;version=x.y"], TEXT),
        (["application/openmetrics-text;q=nan"], TEXT),
        (["application/json"], TEXT),
        (["*/*"], TEXT),
        ([";;;,,=,;q=;version"], TEXT),
        (["\xff\xfe"], TEXT),
        ([","] * 90, TEXT),
    ],
)
async def test_every_accept_gets_an_answer(accepts: list[str], expected: str) -> None:
    async with answering() as port:
        lines = "".join(f"Accept: {accept}\r\n" for accept in accepts)
        response = parse(await exchange(port, f"GET /metrics HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode("latin-1")))
        assert response.status == 200
        assert response.headers["content-type"].startswith(expected)
        if expected == OPENMETRICS:
            assert list(parse_openmetrics(response.body.decode()))  # type: ignore[no-untyped-call]
        else:
            assert list(text_string_to_metric_families(response.body.decode()))


@given(st.text(alphabet="application/openmetrics-text;version=1.0q,\"' \t\xff", max_size=120))
def test_any_accept_is_weighed(accept: str) -> None:
    assert admin_module._wants_openmetrics(accept) in (True, False)


async def test_a_bug_behind_a_page_is_answered_and_told_to_the_loop() -> None:
    async def broken(openmetrics: bool) -> Answer:
        raise ValueError("a bug")

    problems: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda loop, context: problems.append(context))
    async with answering(pages={"/metrics": broken}) as port:
        response = parse(await exchange(port, b"GET /metrics HTTP/1.0\r\n\r\n"))
    loop.set_exception_handler(before)
    assert response.status == HTTPStatus.INTERNAL_SERVER_ERROR
    assert [str(problem["exception"]) for problem in problems] == ["a bug"]


# Pages that take their time.


async def test_a_page_may_take_its_time_and_others_are_answered_meanwhile() -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def slow(openmetrics: bool) -> Answer:
        asked.set()
        await go_on.wait()
        return Answer(HTTPStatus.OK, b"at last\n")

    async with answering(pages={"/slow": slow, "/": short}) as port:
        for half_close in (False, True):
            asked.clear()
            go_on.clear()
            request = b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"
            waiting = asyncio.create_task(exchange(port, request, half_close=half_close))
            await Client.within(asked.wait())
            assert parse(await exchange(port, b"GET / HTTP/1.0\r\n\r\n")).body == b"a page\n"
            go_on.set()
            assert parse(await waiting).body == b"at last\n"


async def test_a_page_that_nobody_waits_for_is_given_up() -> None:
    asked, given_up = asyncio.Event(), asyncio.Event()

    async def endless(openmetrics: bool) -> Answer:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            given_up.set()
        raise AssertionError

    async with answering(pages={"/endless": endless}) as port:
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.sendall(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
            await Client.within(asked.wait())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await Client.within(given_up.wait())


async def test_a_page_without_end_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_module, "PAGE_TIMEOUT", 0.1)

    async def endless(openmetrics: bool) -> Answer:
        await asyncio.Event().wait()
        raise AssertionError

    problems: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda loop, context: problems.append(context))
    async with answering(pages={"/": endless}) as port:
        response = parse(await exchange(port, b"GET / HTTP/1.0\r\n\r\n"))
    loop.set_exception_handler(before)
    assert response.status == HTTPStatus.INTERNAL_SERVER_ERROR
    assert [type(problem["exception"]) for problem in problems] == [TimeoutError]


@pytest.mark.parametrize(("patience", "answered"), [(60.0, True), (0.0, False)])
async def test_requests_that_have_come_are_answered_before_the_end_if_there_is_time(
    patience: float, answered: bool
) -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def slow(openmetrics: bool) -> Answer:
        asked.set()
        await go_on.wait()
        return Answer(HTTPStatus.OK, b"at last\n")

    admin = Admin({"/": slow})
    (listening,) = sockets.listen(("127.0.0.1",), 0, ("admin_host", "admin_port"))
    port = sockets.port_of([listening])
    await admin.serve([listening])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    await Client.within(asked.wait())
    closing = asyncio.create_task(admin.close(patience))
    await eventually(lambda: listening.fileno() < 0 or not admin._servers[0].is_serving(), "it listens no more")
    go_on.set()
    await closing
    assert (b"at last\n" in await ended(reader)) is answered
    writer.close()


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_both_event_loops_will_do(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def scene() -> None:
        async with answering() as port:
            text = await asyncio.to_thread(fetch, port, "/metrics")
            assert "wsd_open_connections 1.0" in text
            whole = b"GET /healthz HTTP/1.0\r\n\r\n"
            assert parse(await exchange(port, whole, half_close=True)).body == b"ok\n"
            assert parse(await exchange(port, whole[:-2], half_close=True)).status == 400

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(scene())


def fetch(port: int, path: str) -> str:
    """Ask with the standard library's client."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path)
        return connection.getresponse().read().decode()
    finally:
        connection.close()


# Its bounds.


async def ended(reader: asyncio.StreamReader) -> bytes:
    """Read until the server has ended the connection, in whatever way."""
    received = b""
    with suppress(ConnectionError):
        while more := await Client.within(reader.read(65_536)):
            received += more
    return received


async def test_idle_connections_keep_nobody_out() -> None:
    async with answering() as port:
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(10 * MAX_CONNECTIONS)]
        assert parse(await exchange(port, b"GET /healthz HTTP/1.0\r\n\r\n")).body == b"ok\n"
        for reader, _ in idle[:-MAX_CONNECTIONS]:
            assert await ended(reader) == b""
        # The newest but one, which had to make room for the one that asked, are still served.
        reader, writer = idle[-1]
        writer.write(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert parse(await ended(reader)).body == b"ok\n"
        for _, writer in idle:
            writer.close()


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nHost"])
async def test_who_sends_no_request_is_let_go(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_module, "REQUEST_TIMEOUT", 0.1)
    async with answering() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        assert await ended(reader) == b""
        writer.close()


async def test_who_does_not_close_after_the_answer_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_module, "ANSWER_TIMEOUT", 0.1)
    async with answering() as port:
        loop = asyncio.get_running_loop()
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.setblocking(False)
            await loop.sock_sendall(sock, b"GET /healthz HTTP/1.0\r\n\r\n")
            answer = b""
            while more := await Client.within(loop.sock_recv(sock, 65_536)):
                answer += more
            assert parse(answer).body == b"ok\n"
            # Our side is still open. When the other end is gone, the kernel refuses what we send.
            with pytest.raises(ConnectionError):
                for _ in range(6_000):
                    await loop.sock_sendall(sock, b"x")
                    await asyncio.sleep(0.01)


async def test_a_body_without_end_is_not_read_for_ever() -> None:
    async with answering() as port:
        loop = asyncio.get_running_loop()
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.setblocking(False)
            head = b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n"
            await loop.sock_sendall(sock, head)
            with pytest.raises(ConnectionError):
                for _ in range(15_000):
                    await Client.within(loop.sock_sendall(sock, b"x" * 65_536))
