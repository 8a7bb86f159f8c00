"""The door: the listening socket, who is let in, and how everybody is seen out.

``websockets.serve`` is the server; it makes a :class:`~wsd.connection.Connection` for each socket.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import cast

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response
from websockets.typing import Origin

from wsd.connection import CLOSE_TIMEOUT, Connection, Shared
from wsd.errors import StartupError
from wsd.metrics import Metrics
from wsd.protocol import Close

__all__ = ["POLITE_REFUSALS", "Gateway"]

BACKLOG = 4096
"""Connections that wait to be accepted: a storm of reconnects. Linux caps it at net.core.somaxconn."""

RETRY_AFTER = 5
"""Seconds, for clients that are refused with 503."""

POLITE_REFUSALS = 64
"""Sockets beyond max_connections that are read from, to be answered with 503. More are closed unread."""

DRAIN_TICK = 0.05
"""Seconds between two groups of clients that are sent away in a drain."""

logger = logging.getLogger(__name__)


class Gateway:
    """Listens for clients.

    Args:
        max_connections: how many clients are let in.
        metrics: counts.
    """

    def __init__(self, max_connections: int, metrics: Metrics) -> None:
        self._max_connections = max_connections
        self._metrics = metrics
        self._server: Server | None = None
        self._emptied = asyncio.Event()  # set when the last connection has left
        self.connections: set[Connection] = set()  # every accepted socket
        self.draining = False

    async def listen(
        self, shared: Shared, host: str, port: int, *, max_size: int, origins: Sequence[str], dead_after: float
    ) -> int:
        """Start to accept clients.

        Args:
            shared: what the connections share.
            host: the address to listen on.
            port: the port; 0 takes any that is free.
            max_size: bytes of the largest message that a client may send.
            origins: the origins that browsers may come from; empty if any may. Clients that are not browsers send none.
            dead_after: seconds after which the kernel gives up a client that acknowledges nothing.

        Returns:
            The port.

        Raises:
            StartupError: if it can't listen there.
        """

        async def never(connection: ServerConnection) -> None:
            raise AssertionError("connections are handled without a task")

        try:
            self._server = await serve(
                never,
                host,
                port,
                create_connection=cast(type[ServerConnection], partial(Connection, shared)),
                origins=[*(Origin(origin) for origin in origins), None] if origins else None,
                compression=None,
                max_size=max_size,
                backlog=BACKLOG,
            )
        except OSError as exc:
            raise StartupError(f"can't listen on {host} port {port}: {exc.strerror or exc}") from None
        for listener in self._server.sockets:
            # tcp(7); accepted sockets inherit it. Ends clients whose network is gone while data waits for them.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(dead_after * 1000))
        return int(self._server.sockets[0].getsockname()[1])

    # Called by connections.

    def entered(self, connection: Connection) -> bool:
        """Count a socket in, unless there is no room even for a refusal."""
        self._metrics.connections += 1
        self.connections.add(connection)
        return len(self.connections) <= self._max_connections + POLITE_REFUSALS

    def left(self, connection: Connection) -> None:
        """Count a socket out."""
        self.connections.discard(connection)
        if connection.session is not None:
            self._metrics.close_codes[_close_code(connection)] += 1
        if not self.connections:
            self._emptied.set()

    def admit(self, connection: Connection, request: Request) -> Response | None:
        """Refuse a handshake while draining, or when the house is full."""
        if self.draining:
            reason = "draining: this replica is going away"
        elif len(self.connections) > self._max_connections:
            reason = f"full: this replica has {self._max_connections} connections"
        else:
            return None
        response = connection.protocol.reject(HTTPStatus.SERVICE_UNAVAILABLE, f"{reason}; try again later.\n")
        response.headers["Retry-After"] = str(RETRY_AFTER)
        return response

    # The end.

    async def drain(self, seconds: float) -> None:
        """Send everybody away, evenly over a time, so that they don't reach the other replicas in one crowd.

        New clients are refused from now on. Whoever is left some moments after the end is aborted.
        """
        self.draining = True
        loop = asyncio.get_running_loop()
        started = loop.time()
        leaving = list(self.connections)
        total, sent = len(leaving), 0
        while leaving:
            elapsed = loop.time() - started
            while leaving and (sent < total * elapsed / seconds if seconds else True):
                leaving.pop().close_with(Close.SERVICE_RESTART, "service restart: reconnect with jitter")
                sent += 1
            if not self.connections:
                break
            await asyncio.sleep(DRAIN_TICK)
        await self._wait_until_empty(CLOSE_TIMEOUT)
        await self.close()

    async def close(self) -> None:
        """Stop listening, and abort whoever is left."""
        self.draining = True
        if self._server is not None:
            self._server.close()
        if self.connections:
            logger.warning("aborting %d connections", len(self.connections))
            for connection in list(self.connections):
                connection.abort()
        await self._wait_until_empty(CLOSE_TIMEOUT)

    async def _wait_until_empty(self, seconds: float) -> None:
        self._emptied.clear()
        if self.connections:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._emptied.wait()


def _close_code(connection: Connection) -> str:
    """The close code of a connection as a label: few values, although clients may send any."""
    protocol = connection.protocol
    if protocol.close_sent is not None and not protocol.close_rcvd_then_sent:
        return str(int(protocol.close_sent.code))
    if protocol.close_rcvd is None:
        return "1006"
    code = int(protocol.close_rcvd.code)
    return str(code) if code in range(1000, 1016) else "other"
