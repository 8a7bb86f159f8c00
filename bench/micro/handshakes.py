"""Handshakes: the bytes of an opening handshake to the response and the greeting; and a whole session.

Connections are made in batches and stay until the batch is complete, because a connection that is freed at once gives
the next one warm memory. They are lost off the clock.
"""

from __future__ import annotations

import asyncio
import json
from typing import cast

import jwt
from websockets.frames import Frame
from websockets.http11 import Request
from websockets.server import ServerProtocol

from bench.micro.fakes import Nowhere
from bench.micro.parts import KEY, MAX_SIZE, REQUEST, House, authenticator, make_token
from bench.micro.requests import SESSION, client_frame
from bench.micro.work import Comparison, Work, clock
from wsd.clients.connection import Connection

__all__ = ["BATCH", "COMPARISONS", "Handshake", "LibraryHandshake", "LibrarySession", "WholeSession"]

BATCH = 64
"""Connections that are made in one run."""


def requests(token: str) -> tuple[bytes, bytes]:
    """What a client sends after its handshake, as frames: its token, then its topic."""
    authorization = {"action": "authorization", "session": SESSION, "context": token}
    subscription = {"action": "subscribe", "session": SESSION, "context": "room.42"}
    return client_frame(json.dumps(authorization)), client_frame(json.dumps(subscription))


class Handshake(Work):
    """wsd: a connection, its handshake and its greeting."""

    def __init__(self) -> None:
        self.house = House(asyncio.get_running_loop().call_soon, authenticator())
        self.transports = [Nowhere() for _ in range(BATCH)]

    async def time(self, loops: int) -> float:
        """Make connections."""
        seconds = 0.0
        for _ in range(loops):
            began = clock()
            connections = [self._enter(transport) for transport in self.transports]
            seconds += clock() - began
            for connection in connections:
                connection.connection_lost(None)
            # The connections are cleared away in slices, one in each turn of the loop.
            while self.house.gateway.connections:  # noqa: ASYNC110 - every turn of the loop brings it nearer
                await asyncio.sleep(0)
        return seconds

    def _enter(self, transport: Nowhere) -> Connection:
        connection = self.house.connection()
        connection.connection_made(transport.as_transport())
        connection.data_received(REQUEST)
        return connection


class WholeSession(Handshake):
    """wsd: a connection, its handshake, its token (HS256) and its topic, which others have subscribed already."""

    def __init__(self) -> None:
        super().__init__()
        self._authorization, self._subscription = requests(make_token())

    def _enter(self, transport: Nowhere) -> Connection:
        connection = super()._enter(transport)
        assert connection.session is not None
        connection.session.id = SESSION  # the one that the requests were made for
        connection.data_received(self._authorization)
        connection.data_received(self._subscription)
        return connection


class LibraryHandshake(Work):
    """The library's protocol alone: request, response."""

    def __init__(self) -> None:
        self.made: list[ServerProtocol] = []  # of the last run
        self.written: list[bytes] = []  # the last response

    def run(self) -> None:
        """Answer handshakes."""
        self.made = [self._enter() for _ in range(BATCH)]

    def _enter(self) -> ServerProtocol:
        protocol = ServerProtocol(max_size=MAX_SIZE)
        protocol.receive_data(REQUEST)
        for request in protocol.events_received():
            protocol.send_response(protocol.accept(cast(Request, request)))
        self.written = protocol.data_to_send()
        return protocol


class LibrarySession(LibraryHandshake):
    """The libraries alone: handshake, two frames, json.loads() of both, jwt.decode() of the token."""

    def __init__(self) -> None:
        super().__init__()
        self._frames = requests(make_token())

    def _enter(self) -> ServerProtocol:
        protocol = super()._enter()
        for data in self._frames:
            protocol.receive_data(data)
            for frame in protocol.events_received():
                request = json.loads(bytes(cast(Frame, frame).data))
                if request["action"] == "authorization":
                    jwt.decode(request["context"], KEY, algorithms=["HS256"])
        return protocol


COMPARISONS = (
    Comparison(
        "handshake",
        "connection",
        BATCH,
        "the bytes of an opening handshake to the response and the greeting, on a transport that does nothing",
        Handshake,
        {"ServerProtocol alone": LibraryHandshake},
    ),
    Comparison(
        "handshake, token, topic",
        "connection",
        BATCH,
        "a whole session: handshake, authorization (HS256) and subscription, on a transport that does nothing",
        WholeSession,
        {"the libraries alone": LibrarySession},
    ),
)
