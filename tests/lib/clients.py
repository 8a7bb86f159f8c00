"""A WebSocket client by hand, for what no library lets one do.

It shares no code with ``websockets``: RFC 6455 in forty lines, over a plain asyncio stream.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import socket
import struct
from types import TracebackType
from typing import Any, Self

from tests.lib.waiting import PATIENCE

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, mask: bytes | None = b"\x01\x02\x03\x04") -> bytes:
    """One frame as a client sends it; ``mask=None`` breaks the rule that clients mask."""
    first = (0x80 if fin else 0) | opcode
    masked = 0 if mask is None else 0x80
    if len(payload) < 126:
        head = struct.pack("!BB", first, masked | len(payload))
    elif len(payload) < 65536:
        head = struct.pack("!BBH", first, masked | 126, len(payload))
    else:
        head = struct.pack("!BBQ", first, masked | 127, len(payload))
    if mask is None:
        return head + payload
    return head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


class Closed(Exception):
    """The server has closed: with a code, or None without a close frame."""

    def __init__(self, code: int | None, reason: str = "") -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class Client:
    """One connection. ``async with Client(port) as client`` connects, shakes hands and reads the greeting."""

    def __init__(self, port: int, *, receive_buffer: int = 0, headers: str = "", greet: bool = True) -> None:
        self._port = port
        self._receive_buffer = receive_buffer
        self._headers = headers
        self._greet = greet
        self.session = ""
        self.local_port = 0  # that of its socket

    async def __aenter__(self) -> Self:
        await self._connect()
        try:
            await self._shake_hands()
        except BaseException:
            self.writer.close()
            raise
        return self

    async def _connect(self) -> None:
        sock = socket.socket()
        if self._receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
        sock.bind(("127.0.0.1", 0))
        self.local_port = sock.getsockname()[1]
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self._port))
        except OSError:
            sock.close()
            raise
        # A small limit makes the stream stop reading from the socket when nobody reads from the stream.
        self.reader, self.writer = await asyncio.open_connection(
            sock=sock, limit=2048 if self._receive_buffer else 2**20
        )

    async def _shake_hands(self) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        self.writer.write(
            f"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n{self._headers}\r\n".encode()
        )
        self.response = (await self.within(self.reader.readuntil(b"\r\n\r\n"))).decode()
        if self._greet:
            assert self.response.startswith("HTTP/1.1 101 "), self.response
            assert await self.receive() == {"action": "connect", "message": "connection established"}
            self.session = (await self.receive())["session"]

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    @staticmethod
    async def within(waited: Any) -> Any:
        """Wait, but not forever."""
        return await asyncio.wait_for(waited, PATIENCE)

    def send_frame(self, opcode: int, payload: bytes = b"", **options: Any) -> None:
        """Send one frame."""
        self.writer.write(frame(opcode, payload, **options))

    def send(self, message: object) -> None:
        """Send a request: an object, or text as it is."""
        self.send_frame(TEXT, (message if isinstance(message, str) else json.dumps(message)).encode())

    def request(self, action: str, context: str, **more: object) -> None:
        """Send a request of this session."""
        self.send({"action": action, "session": self.session, "context": context, **more})

    async def receive_frame(self) -> tuple[int, bytes]:
        """Receive one frame: opcode and payload. A server's frames are whole and not masked."""
        try:
            first, length = await self.within(self.reader.readexactly(2))
            assert first & 0xF0 == 0x80 and length < 128
            if length == 126:
                (length,) = struct.unpack("!H", await self.within(self.reader.readexactly(2)))
            elif length == 127:
                (length,) = struct.unpack("!Q", await self.within(self.reader.readexactly(8)))
            return first & 0x0F, await self.within(self.reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            raise Closed(None) from None

    async def receive_bytes(self) -> bytes:
        """Receive the next text message, as it is. Raises Closed. Pings are answered."""
        while True:
            opcode, payload = await self.receive_frame()
            if opcode == TEXT:
                return payload
            if opcode == CLOSE:
                raise Closed(struct.unpack("!H", payload[:2])[0], payload[2:].decode())
            if opcode == PING:
                self.send_frame(PONG, payload)

    async def receive(self) -> Any:
        """Receive the next text message, parsed."""
        return json.loads(await self.receive_bytes())

    async def call(self, action: str, context: str, **more: object) -> Any:
        """Send a request and receive the next message."""
        self.request(action, context, **more)
        return await self.receive()

    async def subscribe(self, *topics: str) -> None:
        """Subscribe, and check that it worked."""
        for topic in topics:
            reply = await self.call("subscribe", topic)
            assert reply == {"action": "subscribe", "message": "context subscribed"}, reply

    async def closed(self) -> Closed:
        """Read until the server closes, and close too; return how the server closed."""
        try:
            while True:
                await self.receive_bytes()
        except Closed as closed:
            self.writer.close()
            return closed
