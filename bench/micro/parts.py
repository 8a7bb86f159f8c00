"""The daemon's real parts, put together around the fakes, and the library's for the references."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import jwt
from websockets.asyncio.connection import Connection as LibraryConnection
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from wsd.auth.grant import Authenticator, OpenAuthenticator
from wsd.auth.jwt import JWTAuthenticator
from wsd.clients.acceptance import AcceptedConnection
from wsd.clients.connection import Connection, Shared
from wsd.clients.gateway import Gateway
from wsd.clients.refusals import Refusals
from wsd.clients.session import Limits
from wsd.deadlines import Sweep
from wsd.delivery.fanout import Bounds, Fanout
from wsd.delivery.topics import Listener, TopicTable
from wsd.metrics import Metrics
from wsd.slices import Slices

__all__ = [
    "KEY",
    "LIMITS",
    "MAX_SIZE",
    "REQUEST",
    "House",
    "authenticator",
    "library_connection",
    "make_payload",
    "make_token",
]

MAX_SIZE = 65536
"""Bytes of the largest message from a client: a setting without influence on what is measured."""

LIMITS = Limits(auth_timeout=3600.0, max_topics=1024, max_violations=10, max_request_rate=0.0)
"""Sessions are never out of time, and never slowed down."""

KEY = b"a key for HS256 has 32 bytes....."
"""RFC 7518, section 3.2: at least 256 bits."""

# What Chrome sends, less what differs from site to site: user agent, cookies.
REQUEST = (
    b"GET /ws HTTP/1.1\r\n"
    b"Host: ws.example.com\r\n"
    b"Connection: Upgrade\r\n"
    b"Pragma: no-cache\r\n"
    b"Cache-Control: no-cache\r\n"
    b"Upgrade: websocket\r\n"
    b"Origin: https://www.example.com\r\n"
    b"Sec-WebSocket-Version: 13\r\n"
    b"Accept-Encoding: gzip, deflate, br\r\n"
    b"Accept-Language: en-US,en;q=0.9\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
    b"\r\n"
)


def make_payload(size: int) -> bytes:
    """A JSON string of so many bytes: the cheapest JSON there is, where the payload isn't what is measured."""
    return b'"%b"' % (b"x" * (size - 2))


def make_token() -> str:
    """A token as an application would give it out: some topics, one hour."""
    claims = {"sub": "user-4711", "topics": ["room.*", "news"], "exp": int(time.time()) + 3600}
    return jwt.encode(claims, KEY, algorithm="HS256")


def authenticator() -> Authenticator:
    """What checks these tokens."""
    return JWTAuthenticator(KEY, ["HS256"])


class House:
    """The fan-out with its table, and what connections share.

    Args:
        call_soon: runs a function at the end of the pass.
        authenticator: checks tokens; without one, clients need none.
    """

    def __init__(
        self, call_soon: Callable[[Callable[[], None]], object], authenticator: Authenticator | None = None
    ) -> None:
        self.metrics = Metrics()
        # Redis confirms every channel at once.
        self.topics = TopicTable("", self._confirm, lambda channel: None)
        bounds = Bounds(max_backlog=1 << 20, max_backlog_age=3600.0)
        self.fanout = Fanout(self.topics, self.metrics, bounds, call_soon)
        self.gateway = Gateway(1_000_000, self.metrics)
        self._shared = Shared(
            door=self.gateway,
            topics=self.topics,
            fanout=self.fanout,
            sweep=Sweep(asyncio.get_running_loop().time),
            slices=Slices(asyncio.get_running_loop().call_soon),
            metrics=self.metrics,
            authenticator=authenticator or OpenAuthenticator(),
            limits=LIMITS,
            ping_interval=3600.0,
            ping_timeout=3600.0,
            bounds=bounds,
            refusals=Refusals(self.metrics),
            max_size=MAX_SIZE,
        )

    def _confirm(self, channel: bytes) -> None:
        self.topics.confirm(channel)

    def join(self, listener: Listener, topics: Sequence[str]) -> None:
        """Make a listener hear topics."""
        for topic in topics:
            self.topics.wait(topic, listener)
            self.topics.listen(topic, listener)

    def connection(self) -> Connection:
        """What the event loop makes for an accepted socket. Call ``connection_made()`` next."""
        return AcceptedConnection(self._shared, ServerProtocol(max_size=MAX_SIZE))


def library_connection(transport: asyncio.Transport) -> LibraryConnection:
    """A connection of the library, open.

    Args:
        transport: where it writes to.
    """
    connection = LibraryConnection(ServerProtocol(state=OPEN, max_size=MAX_SIZE), ping_interval=None)
    connection.connection_made(transport)
    return connection
