"""The admin port: HTTP for the pages that tell whether the service is alive and ready, and what it has counted.

One request, one answer, and the connection is closed: health checks and scrapers come every few seconds at the most.
h11 knows HTTP/1.1 and does no I/O. ``websockets``, which serves the clients, is made for handshakes: it takes no method
but GET, no request body and no second request. A web framework would bring a router, workers and a log of its own for
three pages.

A page is a coroutine function, because the supervisor asks its workers first; :mod:`wsd.admin.service` makes the pages.
What is imported here the supervisor holds in memory, so that is little.

A connection that sends no request can't keep a health check out: there are few connections, each has little time, and
when one more comes, the oldest is closed.

Requests are not logged. A bug goes to the event loop's exception handler, and the request is answered with 500.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from http import HTTPStatus
from typing import NamedTuple, TypeAlias, cast

import h11

__all__ = ["MAX_CONNECTIONS", "OPENMETRICS", "PAGE_TIMEOUT", "TEXT", "Admin", "Answer", "Page"]

MAX_CONNECTIONS = 32
"""Connections at a time. A dozen balancers and scrapers that all ask in the same moment need no more."""

BACKLOG = 64
"""Connections that wait to be accepted. They are accepted in one go, so this many descriptors may be needed at once."""

REQUEST_TIMEOUT = 5.0
"""Seconds from accepting a connection to its request."""

PAGE_TIMEOUT = 5.0
"""Seconds for a page to be made. The pages wait for less; this is the bound for a bug in one."""

ANSWER_TIMEOUT = 5.0
"""Seconds for the client to take the answer, and to close."""

MAX_REQUEST = 16_384
"""Bytes of a request without its body. h11 refuses a longer one with 431."""

MAX_IGNORED = 1_048_576
"""Bytes behind the request, a body for example, that are read and thrown away. Were the socket closed with bytes
unread, the kernel would reset the connection, and the client might never see its answer (RFC 9112, section 9.6)."""

LOOK = 0.01
"""Seconds between two looks, at the end, whether all connections are answered and closed."""

METHODS = ("GET", "HEAD", "OPTIONS")

TEXT = "text/plain; version=0.0.4; charset=utf-8"
"""Prometheus's text format."""

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


class Answer(NamedTuple):
    """What is sent back."""

    status: HTTPStatus
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    allow: bool = False  # whether it says which methods there are


Page: TypeAlias = "Callable[[bool], Awaitable[Answer]]"
"""Makes a page, in OpenMetrics if the argument says so and the page knows that format."""


class Admin:
    """Answers requests.

    Args:
        pages: the pages by their paths.
    """

    def __init__(self, pages: Mapping[str, Page]) -> None:
        self._pages = pages
        self._servers: list[asyncio.Server] = []
        self._exchanges: dict[_Exchange, None] = {}  # open connections, the oldest first

    async def serve(self, sockets: Iterable[socket.socket]) -> None:
        """Start to answer on these listening sockets, which are closed with :meth:`close`."""
        loop = asyncio.get_running_loop()
        for sock in sockets:
            self._servers.append(await loop.create_server(lambda: _Exchange(self), sock=sock, backlog=BACKLOG))

    async def close(self, patience: float = 0.0) -> None:
        """Stop answering, and close the listening sockets.

        Args:
            patience: seconds in which connections that were accepted are still answered.
        """
        for server in self._servers:
            server.close()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience
        while loop.time() < deadline:
            # At least once: one that was accepted in this turn of the event loop enters in the next.
            await asyncio.sleep(LOOK)
            if not self._exchanges:
                break
        for exchange in list(self._exchanges):
            exchange.abort()
        for server in self._servers:
            await server.wait_closed()

    # Called by exchanges.

    def entered(self, exchange: _Exchange) -> None:
        """Count a connection in; the oldest makes room for it."""
        self._exchanges[exchange] = None
        if len(self._exchanges) > MAX_CONNECTIONS:
            oldest = next(iter(self._exchanges))
            del self._exchanges[oldest]
            oldest.abort()

    def left(self, exchange: _Exchange) -> None:
        """Count a connection out."""
        self._exchanges.pop(exchange, None)

    async def answer(self, request: h11.Request) -> Answer:
        """Answer a request. OPTIONS is answered as GET, with the methods: HAProxy's plain check is ``OPTIONS /``."""
        path = _path(request.target)
        page = self._pages.get(path)
        method = request.method.decode()
        if any(name == b"upgrade" and b"websocket" in value.lower() for name, value in request.headers):
            # A client at the wrong port; what / says of readiness would make it try again for ever.
            return Answer(HTTPStatus.NOT_FOUND, b"this is the admin port; clients connect to the other one\n")
        if page is None:
            return Answer(HTTPStatus.NOT_FOUND, b"there are /healthz, /readyz and /metrics here\n")
        if method not in METHODS:
            methods = f"this page takes {', '.join(METHODS)}\n".encode()
            return Answer(HTTPStatus.METHOD_NOT_ALLOWED, methods, allow=True)
        # Several lines of a header are one list (RFC 9110, section 5.3).
        accept = ",".join(value.decode("latin-1") for name, value in request.headers if name == b"accept")
        try:
            async with asyncio.timeout(PAGE_TIMEOUT):
                answer = await page(_wants_openmetrics(accept))
        except Exception as exc:
            context = {"message": f"{path} could not be answered", "exception": exc}
            asyncio.get_running_loop().call_exception_handler(context)
            return Answer(HTTPStatus.INTERNAL_SERVER_ERROR, b"a bug in wsd; its log has it\n")
        return answer._replace(allow=method == "OPTIONS")


def _path(target: bytes) -> str:
    """The path of a request's target in any of its forms (RFC 9112, section 3.2); ``*`` is ``/``."""
    text = re.sub(r"^https?://[^/?]*", "", target.decode("latin-1"), flags=re.IGNORECASE)
    path = text.partition("?")[0]
    return "/" if path in ("", "*") else path


def _wants_openmetrics(accept: str) -> bool:
    """Whether OpenMetrics 1.x is acceptable, and no less welcome than the text format. Any text is a valid argument.

    prometheus_client's own choose_encoder raises on a version in quotes, and doesn't weigh.
    """
    best = {"application/openmetrics-text": 0.0, "text/plain": 0.0}
    for item in accept.lower().split(","):
        kind, *rest = (part.strip() for part in item.split(";"))
        pairs = (parameter.partition("=") for parameter in rest)
        parameters = {name.strip(): value.strip().strip('"') for name, _, value in pairs}
        weight = parameters.get("q", "1")
        if kind not in best or not re.fullmatch(r"[01](\.[0-9]{0,3})?", weight):
            continue
        if kind == "text/plain" or re.fullmatch(r"1(\.[0-9]+)*", parameters.get("version", "1")):
            best[kind] = max(best[kind], float(weight))
    return 0 < best["application/openmetrics-text"] >= best["text/plain"]


class _Exchange(asyncio.Protocol):
    """A connection: one request, one answer."""

    def __init__(self, admin: Admin) -> None:
        self._admin = admin
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_REQUEST)
        self.answering: asyncio.Task[None] | None = None  # makes the answer, from the request on
        self._read = False  # whether the request has been read, or what came in its place
        self._ended = False  # whether the client has ended its side
        self._ignored = 0  # bytes that came behind the request

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a new socket."""
        self._transport = cast(asyncio.Transport, transport)
        self._timer = asyncio.get_running_loop().call_later(REQUEST_TIMEOUT, self.abort)
        self._admin.entered(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._timer.cancel()
        if self.answering is not None:
            self.answering.cancel()
        self._admin.left(self)

    def abort(self) -> None:
        """End the connection at once."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Read the request; answer it when it is there."""
        if not self._read:
            self._http.receive_data(data)
            self._read_request()
            return
        self._ignored += len(data)
        if self._ignored > MAX_IGNORED:
            self.abort()

    def eof_received(self) -> bool:
        """The client sends nothing more.

        Returns:
            Whether the socket stays open, because the answer is still to come. Else the event loop closes it when the
            client has taken what waits.
        """
        self._ended = True
        if not self._read:
            self._http.receive_data(b"")
            self._read_request()
        return self.answering is not None and not self.answering.done()

    def _read_request(self) -> None:
        try:
            event = self._http.next_event()
        except h11.RemoteProtocolError as exc:
            self._send(b"GET", Answer(HTTPStatus(exc.error_status_hint), f"{exc}\n".encode()))
            return
        if isinstance(event, h11.Request):
            self._read = True
            self._timer.cancel()
            self.answering = asyncio.get_running_loop().create_task(self._answer(event))
            return
        line, ended, _ = self._http.trailing_data[0].partition(b"\n")
        if ended and b" HTTP/" not in line and line.strip():
            # h11 would wait for the end of the head; a client of another protocol waits for us.
            self._send(b"GET", Answer(HTTPStatus.BAD_REQUEST, b"this is no HTTP request\n"))

    async def _answer(self, request: h11.Request) -> None:
        self._send(request.method, await self._admin.answer(request))
        if self._ended:
            self._transport.close()

    def _send(self, method: bytes, answer: Answer) -> None:
        self._read = True
        headers = [
            ("Content-Type", answer.content_type),
            ("Content-Length", str(len(answer.body))),
            ("Cache-Control", "no-store"),
            ("Connection", "close"),
        ]
        if answer.allow:
            headers.append(("Allow", ", ".join(METHODS)))
        # A response to HEAD has the length of the body, and no body (RFC 9110, section 9.3.2).
        body = b"" if method == b"HEAD" else answer.body
        events = (
            h11.Response(status_code=answer.status, reason=answer.status.phrase, headers=headers),
            h11.Data(data=body),
            h11.EndOfMessage(),
        )
        self._transport.write(b"".join(self._http.send(event) or b"" for event in events))
        self._transport.write_eof()
        self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(ANSWER_TIMEOUT, self.abort)
