"""The door: the listening sockets, which clients are let in, and how all of them are sent away at the end.

``websockets.serve`` is the server; it makes a `wsd.clients.acceptance.AcceptedConnection` for each socket that is
accepted.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import cast

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.typing import Origin, Subprotocol

from wsd.clients.acceptance import AcceptedConnection
from wsd.clients.connection import Connection, Shared
from wsd.clients.phases import CLOSE_TIMEOUT, Phase
from wsd.clients.sansio import LIBRARY, close_code
from wsd.codes import Close, HandshakeReason, Move
from wsd.headcount import Headcount
from wsd.metrics import Metrics
from wsd.sockets import BACKLOG

__all__ = ["POLITE_REFUSALS", "Gateway"]

RECEIVE_BUFFER = 32_768
"""Bytes that the kernel keeps of what a client sent and we have not read; it doubles them for its own records, and
without a size it would keep up to 6 MiB for each. Clients send little: a token, and a request now and then."""

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
        origins: that browsers may come from; empty if any may.
        subprotocols: the operator's, in the order of preference.
        headcount: counts the clients of all workers, where these together may have so many; None if there is no bound
            but max_connections.
    """

    def __init__(
        self,
        max_connections: int,
        metrics: Metrics,
        *,
        origins: Sequence[str] = (),
        subprotocols: Sequence[str] = (),
        headcount: Headcount | None = None,
    ) -> None:
        self.max_connections = max_connections  # how many clients are let in
        self._headcount = headcount
        self._metrics = metrics
        # None in the list lets in clients without an origin, which are no browsers.
        self._origins = [*map(Origin, origins), None] if origins else None
        self._subprotocols = [*map(Subprotocol, subprotocols)]
        self._servers: list[Server] = []
        self._emptied = asyncio.Event()  # set when the last connection has left
        self.connections: dict[Connection, None] = {}  # every client's socket, in the order in which they came
        self._inside = 0  # those that were let in and have not left
        self._lingering: dict[Connection, None] = {}  # those that were refused and have not closed, oldest first
        self._said_full = False  # whether the log has said that it is full, and not yet that it isn't any more
        self.draining = False  # whether new clients are sent elsewhere: the end has begun

    async def serve(self, shared: Shared, sockets: Iterable[socket.socket], *, dead_after: float) -> None:
        """Start to accept clients.

        Args:
            shared: what the connections share.
            sockets: listening sockets, which are closed with :meth:`close`.
            dead_after: seconds after which the kernel gives up a client that acknowledges nothing.
        """

        async def never(connection: ServerConnection) -> None:
            raise AssertionError("connections are handled without a task")

        for sock in sockets:
            # tcp(7); accepted sockets inherit it. Ends clients whose network is gone while data waits for them.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(dead_after * 1000))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            self._servers.append(
                await serve(
                    never,
                    sock=sock,
                    create_connection=cast(type[ServerConnection], partial(AcceptedConnection, shared)),
                    origins=self._origins,
                    subprotocols=self._subprotocols,
                    compression=None,
                    max_size=shared.max_size,
                    logger=LIBRARY,
                    backlog=BACKLOG,
                )
            )

    # Called by connections.

    @property
    def full(self) -> bool:
        """Whether there are as many clients as may be."""
        if self._headcount is not None and self._headcount.total() >= self._headcount.most:
            return True
        return self._inside >= self.max_connections

    def entered(self, connection: Connection) -> bool:
        """Count a socket in, unless there is no room even for a refusal."""
        self._metrics.connections += 1
        self.connections[connection] = None
        if len(self.connections) <= self.max_connections + POLITE_REFUSALS:
            return True
        if not self._lingering:
            return False
        # A client that could be let in comes before one that was refused and doesn't close.
        oldest = next(iter(self._lingering))
        del self._lingering[oldest]
        oldest.abort()
        return True

    def left(self, connection: Connection) -> None:
        """Count a socket out, unless that was done when it moved."""
        if connection not in self.connections:
            return
        self._lingering.pop(connection, None)
        if connection.session is not None:
            self._metrics.close_codes[close_code(connection.protocol)] += 1
            self._give_up_place()
        self._forget(connection)

    def _give_up_place(self) -> None:
        self._inside -= 1
        self._note()
        if (
            self._said_full
            and not self.draining
            and self._inside <= min(self.max_connections - 1, 0.95 * self.max_connections)
            and not self.full
        ):
            self._said_full = False
            logger.info("no longer full: %d connections, and new clients are let in", self._inside)

    def _forget(self, connection: Connection) -> None:
        self.connections.pop(connection, None)
        if not self.connections:
            self._emptied.set()

    def arrived(self, connection: Connection) -> None:
        """Count a client in that comes from another process, where it had a place: there is one for it here, too."""
        self._metrics.moves[Move.IN] += 1
        self.connections[connection] = None
        self._inside += 1
        self._note()

    def moved_out(self, connection: Connection) -> None:
        """Count a client out that another process has."""
        self._metrics.moves[Move.OUT] += 1
        self._give_up_place()
        self._forget(connection)

    def refused(self, connection: Connection) -> None:
        """Note a socket that only waits for its client to close: it holds no place."""
        self._lingering[connection] = None

    def refusal(self) -> HandshakeReason | None:
        """Why no client is let in now: draining, or full; None if one may come."""
        if self.draining:
            return HandshakeReason.DRAINING
        if self._inside >= self.max_connections or not self._claim():
            if not self._said_full:
                self._said_full = True
                logger.warning("full: %d connections; new clients get 503 until some leave", self._inside)
            return HandshakeReason.FULL
        return None

    def admitted(self) -> None:
        """Count a client in."""
        self._inside += 1
        self._note()

    def _claim(self) -> bool:
        """Take the place of one client more among those of all workers, if there is one."""
        return self._headcount is None or self._headcount.claim(self._inside)

    def _note(self) -> None:
        if self._headcount is not None:
            self._headcount.note(self._inside)

    # The end.

    def stop_listening(self) -> None:
        """Accept nobody any more, and leave the clients alone. Handshakes in progress go on.

        Our descriptors of the listening sockets are closed. Who has others of the same sockets loses nobody: what waits
        to be accepted is lost with the last one (no shutdown(2)).
        """
        for server in self._servers:
            server.close(close_connections=False)

    async def drain(self, seconds: float, *, replaced: bool = False) -> None:
        """Send everybody away, evenly over a time, so that they don't reach the other replicas in one crowd.

        New clients are refused from now on. Those who are left some moments after the end are :meth:`close`'s.

        Args:
            seconds: that it takes.
            replaced: whether there is another worker that has taken over whom it could: who is sent away now could not
                be moved, and is counted so.
        """
        self.draining = True
        loop = asyncio.get_running_loop()
        started = loop.time()
        leaving = list(self.connections)
        total, sent = len(leaving), 0
        while leaving:
            elapsed = loop.time() - started
            while leaving and (sent < total * elapsed / seconds if seconds else True):
                connection = leaving.pop()
                if replaced and connection.phase is Phase.OPEN:
                    self._metrics.moves[Move.SENT_AWAY] += 1
                connection.close_with(Close.SERVICE_RESTART, "service restart: reconnect with jitter")
                sent += 1
            if not self.connections:
                break
            await asyncio.sleep(DRAIN_TICK)
        await self._wait_until_empty(CLOSE_TIMEOUT)

    async def close(self) -> None:
        """Stop listening, and abort those who are left. Called once, at the end."""
        self.draining = True
        self.stop_listening()
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
