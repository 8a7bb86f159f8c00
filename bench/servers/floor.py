"""The floor: what Python can do at most on one core, when sending is all that it does.

It holds open sockets and writes a ready buffer to each of them, in a loop, once per message. No protocol beyond the
handshake, no session, no care for a client that can't keep up (its message is dropped, which the suite's checks
report). The messages come from Redis through hiredis, so that the publisher sets the pace and the suite can measure it
like any other server.

Three ways of writing:

=============  ==================================================================================
``send``       the floor proper: blocking-free ``socket.send``, one system call per socket and message
``joined``     one ``send`` per socket and *read from Redis*: what joining messages can save at most
``transport``  uvloop's ``transport.write``: what the floor costs within an event loop
=============  ==================================================================================

Usage: python -m bench.servers.floor PORT REDIS_PORT [send|joined|transport]
"""

from __future__ import annotations

import asyncio
import gc
import resource
import selectors
import socket
import sys
from base64 import b64encode
from collections.abc import Callable
from functools import partial
from hashlib import sha1
from typing import Any

import hiredis
import uvloop

Send = Callable[[bytes], object]


def accept_response(request: bytes) -> bytes:
    """The 101 that answers an upgrade (RFC 6455, section 4.2.2)."""
    nonce = request.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
    answer = b64encode(sha1(nonce + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    return (
        b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + answer + b"\r\n\r\n"
    )


def topics_of(request: bytes) -> list[bytes]:
    """The topics that a request's path names, with commas between them."""
    return request.split(b" ", 2)[1].lstrip(b"/").split(b",")


def frame(topic: bytes, payload: bytes) -> bytes:
    """The frame that wsd would send."""
    message = b'{"action":"message","topic":"%b","snapshot":%b}' % (topic, payload)
    length = len(message)
    if length < 126:
        return bytes((0x81, length)) + message
    if length < 65536:
        return b"\x81\x7e" + length.to_bytes(2, "big") + message
    return b"\x81\x7f" + length.to_bytes(8, "big") + message


class Floor:
    """Who listens, and a loop over them.

    Args:
        joined: whether messages that came together leave together.
    """

    def __init__(self, joined: bool) -> None:
        self.sends: dict[bytes, list[Send]] = {}  # by topic
        self._joined = joined
        self._reader = hiredis.Reader()

    def listen(self, topic: bytes, send: Send) -> bytes:
        """Add a listener; return what to send to Redis."""
        known = topic in self.sends
        self.sends.setdefault(topic, []).append(send)
        return b"" if known else b"SUBSCRIBE " + topic + b"\r\n"

    def redis_received(self, data: bytes) -> None:
        """Write out what Redis has sent."""
        self._reader.feed(data)
        due: dict[bytes, list[bytes]] = {}
        while (reply := self._reader.gets()) is not False:
            if isinstance(reply, list) and reply[0] == b"message":
                due.setdefault(reply[1], []).append(frame(reply[1], reply[2]))
        for topic, frames in due.items():
            for block in [b"".join(frames)] if self._joined else frames:
                self._write(self.sends.get(topic, []), block)

    def _write(self, sends: list[Send], block: bytes) -> None:
        remaining = iter(sends)
        while True:
            try:
                for send in remaining:  # the loop that this file is about
                    send(block)
                return
            except OSError:
                pass  # gone, or its buffer is full


def serve_sockets(port: int, redis_port: int, joined: bool) -> None:
    """``send`` and ``joined``: sockets and a selector."""
    floor = Floor(joined)
    selector = selectors.DefaultSelector()
    listener = socket.create_server(("127.0.0.1", port), backlog=4096)
    link = socket.create_connection(("127.0.0.1", redis_port))
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def accept() -> None:
        client, _ = listener.accept()
        client.setblocking(False)
        selector.register(client, selectors.EVENT_READ, partial(upgrade, client))

    def upgrade(client: socket.socket) -> None:
        try:
            request = client.recv(65536)
        except OSError:
            request = b""
        if not request.startswith(b"GET "):  # the client has left, or says goodbye
            selector.unregister(client)
            client.close()  # its send() raises from now on, and is passed over
            return
        client.send(accept_response(request))
        for topic in topics_of(request):
            if command := floor.listen(topic, client.send):
                link.sendall(command)

    selector.register(listener, selectors.EVENT_READ, accept)
    selector.register(link, selectors.EVENT_READ, lambda: floor.redis_received(link.recv(1 << 20)))
    while True:
        for key, _ in selector.select():
            key.data()


async def serve_transports(port: int, redis_port: int) -> None:
    """``transport``: uvloop."""
    floor = Floor(joined=False)
    loop = asyncio.get_running_loop()

    class FromRedis(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            floor.redis_received(data)

    link: Any = (await loop.create_connection(FromRedis, "127.0.0.1", redis_port))[0]

    class Client(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport: Any = transport

        def data_received(self, data: bytes) -> None:
            if data.startswith(b"GET "):
                self.transport.write(accept_response(data))
                for topic in topics_of(data):
                    if command := floor.listen(topic, self.transport.write):
                        link.write(command)
            else:
                self.transport.close()

    server = await loop.create_server(Client, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


def main(port: int, redis_port: int, way: str) -> None:
    """Serve until killed."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    gc.disable()  # nothing here makes cycles, and a floor has no pauses
    if way == "transport":
        uvloop.run(serve_transports(port, redis_port))
    else:
        serve_sockets(port, redis_port, joined=way == "joined")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "send")
