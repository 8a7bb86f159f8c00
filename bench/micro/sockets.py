"""A pass over TCP connections, through uvloop: what a delivery costs with its system calls.

The other ends are in this process. They are emptied after every pass, off the clock, and a pass that did not bring
everything to everybody fails the benchmark. Nobody waits at them, so no write pays for waking a reader up.

wsd makes uvloop write at once; the library's connections are left as they come, and uvloop writes for them when the
pass is over. So every measurement ends a turn of the loop later.
"""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import Callable
from functools import partial

from websockets.asyncio.connection import Connection as LibraryConnection
from websockets.asyncio.server import broadcast

from bench.micro.fakes import Queue
from bench.micro.parts import REQUEST, House, library_connection
from bench.micro.passes import PAYLOAD, make_message
from bench.micro.work import Comparison, Work, clock
from wsd.clients.connection import Connection
from wsd.protocol.frames import text_frame

__all__ = ["COMPARISONS", "Broadcast", "Loop", "Pass", "Sockets"]

CONNECTIONS = 1000
TOPICS = 10  # in the benchmark of joined writes
DESCRIPTORS = 256
"""What else may be open: the interpreter's, the loop's, and what it was started with."""


class Sockets(Work):
    """Pairs of connected TCP sockets: one belongs to a connection, the other is the client's end.

    Args:
        connections: how many pairs.
        topics: each connection has all of them.
    """

    def __init__(self, connections: int, topics: int) -> None:
        self.messages = [make_message(f"room.{number}") for number in range(topics)]
        self.due = sum(len(text_frame(message)) for message in self.messages)  # bytes for each connection, each pass
        self.passes = 0  # that everybody has received in full
        self._connections = connections
        self._transports: list[asyncio.Transport] = []
        self.peers: list[socket.socket] = []  # the other ends

    async def open(self) -> None:
        """Connect."""
        _permit(2 * self._connections + DESCRIPTORS)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            for _ in range(self._connections):
                peer = socket.create_connection(listener.getsockname())
                peer.settimeout(5.0)
                self.peers.append(peer)
                accepted, _ = listener.accept()
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as uvloop does for its servers
                self._transports.append(await self._connect(accepted))
        await asyncio.sleep(0)

    async def _connect(self, accepted: socket.socket) -> asyncio.Transport:
        raise NotImplementedError

    def write(self) -> None:
        """Write everything that is due. All of it is on the socket one turn of the loop later."""
        raise NotImplementedError

    async def turn(self) -> None:
        """Write, and let the loop do what it has put off."""
        self.write()
        await asyncio.sleep(0)

    async def time(self, loops: int) -> float:
        """Write passes, and receive them off the clock."""
        seconds = 0.0
        for _ in range(loops):
            began = clock()
            await self.turn()
            seconds += clock() - began
            self._receive(self.due)
        return seconds

    def _receive(self, size: int) -> None:
        """Empty the other ends, each of which must have received so many bytes."""
        for peer in self.peers:
            missing = size
            while missing:
                data = peer.recv(missing)
                if not data:
                    raise ConnectionError("a connection was closed")
                missing -= len(data)
        self.passes += 1

    async def close(self) -> None:
        """Disconnect."""
        for transport in self._transports:
            transport.abort()
        for peer in self.peers:
            peer.close()
        for _ in range(3):  # turns of the loop until connection_lost() has been called
            await asyncio.sleep(0)


def _permit(descriptors: int) -> None:
    """Raise the soft limit of open descriptors, which is 1,024 in many places.

    Raises:
        RuntimeError: if the hard limit is too low.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < descriptors:
        raise RuntimeError(f"{descriptors} open descriptors are needed, and the limit is {hard} (ulimit -Hn)")
    if soft != resource.RLIM_INFINITY and soft < descriptors:
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, hard))


class Pass(Sockets):
    """wsd: publish(), and the pass, over its own connections."""

    def __init__(self, connections: int, topics: int) -> None:
        super().__init__(connections, topics)
        self.queue = Queue()
        self.house = House(self.queue.call_soon)
        self.topics = [f"room.{number}" for number in range(topics)]
        self.channels = [topic.encode() for topic in self.topics]

    async def _connect(self, accepted: socket.socket) -> asyncio.Transport:
        loop = asyncio.get_running_loop()
        _, connection = await loop.connect_accepted_socket(self.house.connection, accepted)
        connection.data_received(REQUEST)
        self.house.join(connection, self.topics)
        peer = self.peers[-1]
        while b'"session":"' not in peer.recv(4096, socket.MSG_PEEK):  # the response and the greeting
            pass
        peer.recv(4096)
        assert isinstance(connection, Connection)
        return connection.transport

    def write(self) -> None:
        publish = self.house.fanout.publish
        for channel in self.channels:
            publish(channel, PAYLOAD)
        self.queue.run()  # a loop would serve others between two slices, and here are no others


class Broadcast(Sockets):
    """The library's broadcast() of messages made beforehand, over its own connections."""

    def __init__(self, connections: int, topics: int) -> None:
        super().__init__(connections, topics)
        self.connections: list[LibraryConnection] = []

    async def _connect(self, accepted: socket.socket) -> asyncio.Transport:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, accepted)
        connection = library_connection(transport)
        transport.set_protocol(connection)
        self.connections.append(connection)
        return transport

    def write(self) -> None:
        for message in self.messages:
            broadcast(self.connections, message, text=True)


class Loop(Sockets):
    """The floor: buffers made beforehand, each written to each connection, nothing else.

    Args:
        joined: whether the frames of all topics are one buffer.
    """

    def __init__(self, connections: int, topics: int, joined: bool = False) -> None:
        super().__init__(connections, topics)
        frames = [text_frame(message) for message in self.messages]
        self.buffers = [b"".join(frames)] if joined else frames

    async def _connect(self, accepted: socket.socket) -> asyncio.Transport:
        transport, _ = await asyncio.get_running_loop().connect_accepted_socket(asyncio.Protocol, accepted)
        transport.set_write_buffer_limits(high=0)  # write at once, as wsd does
        return transport

    def write(self) -> None:
        for buffer in self.buffers:
            for transport in self._transports:
                transport.write(buffer)


def _comparison(topics: int) -> Comparison:
    references: dict[str, Callable[[], Work]] = {"a loop over write": partial(Loop, CONNECTIONS, topics)}
    if topics > 1:
        references["a loop, joined"] = partial(Loop, CONNECTIONS, topics, joined=True)
    references["websockets broadcast()"] = partial(Broadcast, CONNECTIONS, topics)
    return Comparison(
        f"pass, {topics} topics x {CONNECTIONS:,} sockets" if topics > 1 else f"pass, {CONNECTIONS:,} sockets",
        "delivery",
        CONNECTIONS * topics,
        f"a message of 100 bytes on each of {topics} topic(s) to {CONNECTIONS:,} TCP connections that have them all",
        partial(Pass, CONNECTIONS, topics),
        references,
    )


COMPARISONS = tuple(_comparison(topics) for topics in (1, TOPICS))
