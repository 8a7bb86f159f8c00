"""A TCP proxy in front of a Redis that can be made to misbehave while connections go through it."""

from __future__ import annotations

import asyncio
import socket
import struct
from enum import Enum
from types import TracebackType
from typing import Self

__all__ = ["Direction", "Flow", "Proxy", "end_of_reply"]

CHUNK = 65_536


class Flow(Enum):
    """What becomes of the bytes of one direction."""

    PASS = "passed on"
    DISCARD = "read and thrown away"
    STALL = "not read"
    SWALLOW_PUSHES = "passed on without RESP3's pushes"  # for what Redis sends


class Direction:
    """One direction of all connections.

    Args:
        resp3: whether it is what Redis sends, of which pushes can be told from replies.
    """

    def __init__(self, *, resp3: bool) -> None:
        self._resp3 = resp3
        self.delay = 0.0  # seconds that the bytes take
        self.swallowed = b""  # the pushes that were
        self._flow = Flow.PASS
        self._moving = asyncio.Event()
        self._moving.set()

    @property
    def flow(self) -> Flow:
        """What becomes of the bytes."""
        return self._flow

    @flow.setter
    def flow(self, flow: Flow) -> None:
        self._flow = flow
        if flow is Flow.STALL:
            self._moving.clear()
        else:
            self._moving.set()

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Move bytes from one socket to another until the first closes."""
        due: asyncio.Queue[tuple[float, bytes | None]] = asyncio.Queue()
        delivering = asyncio.create_task(_deliver(due, writer))
        pushes = _PushFilter()
        loop = asyncio.get_running_loop()
        try:
            await self._moving.wait()
            while data := await reader.read(CHUNK):
                await self._moving.wait()
                if self._resp3:
                    data, swallowed = pushes.strip(data, self._flow is Flow.SWALLOW_PUSHES)
                    self.swallowed += swallowed
                if self._flow is not Flow.DISCARD:
                    due.put_nowait((loop.time() + self.delay, data))
            due.put_nowait((loop.time() + self.delay, None))
            await delivering
        finally:
            delivering.cancel()


async def _deliver(due: asyncio.Queue[tuple[float, bytes | None]], writer: asyncio.StreamWriter) -> None:
    """Write each piece when it is due, in order, up to the end, which is None."""
    loop = asyncio.get_running_loop()
    while True:
        when, data = await due.get()
        if (wait := when - loop.time()) > 0:
            await asyncio.sleep(wait)
        if data is None:
            return
        writer.write(data)
        await writer.drain()


class Proxy:
    """``async with Proxy(port) as proxy`` listens on ``proxy.port`` and connects everyone to a port of this machine."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], tuple[asyncio.StreamWriter, ...]] = {}
        self.port = 0
        self.upward = Direction(resp3=False)  # to Redis
        self.downward = Direction(resp3=True)  # from Redis

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.refuse()

    def heal(self) -> None:
        """Pass everything on at once."""
        for direction in (self.upward, self.downward):
            direction.delay = 0.0
            direction.flow = Flow.PASS

    async def accept(self) -> None:
        """Accept connections."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def refuse(self) -> None:
        """End all connections, and refuse new ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        await self.drop()

    async def drop(self) -> None:
        """Close all connections."""
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def reset(self) -> None:
        """End all connections with an RST."""
        for writers in self._connections.values():
            for writer in writers:
                # Closing discards what is unsent, and says so.
                # https://man7.org/linux/man-pages/man7/socket.7.html (SO_LINGER)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await self.drop()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = (writer,)
        try:
            redis_reader, redis_writer = await asyncio.open_connection("127.0.0.1", self._target)
            self._connections[task] = (writer, redis_writer)
            pumps = {
                asyncio.create_task(self.upward.pump(reader, redis_writer)),
                asyncio.create_task(self.downward.pump(redis_reader, writer)),
            }
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # this task is nobody's, so there is no one to tell
        finally:
            for open_writer in self._connections.pop(task):
                open_writer.transport.abort()


class _PushFilter:
    """Takes RESP3's pushes out of a stream."""

    def __init__(self) -> None:
        self._rest = b""  # the beginning of something incomplete

    def strip(self, data: bytes, swallow: bool) -> tuple[bytes, bytes]:
        """Return what is complete, and the pushes apart if they are to be swallowed; keep the rest."""
        data = self._rest + data
        kept: list[bytes] = []
        swallowed: list[bytes] = []
        start = 0
        while (end := end_of_reply(data, start)) is not None:
            (swallowed if swallow and data[start : start + 1] == b">" else kept).append(data[start:end])
            start = end
        self._rest = data[start:]
        return b"".join(kept), b"".join(swallowed)


def end_of_reply(data: bytes, start: int) -> int | None:
    """Where the RESP3 value that begins at `start` ends, or None if it isn't complete.

    Source: https://redis.io/docs/latest/develop/reference/protocol-spec/
    """
    line_end = data.find(b"\r\n", start)
    if line_end < 0:
        return None
    kind, end = data[start : start + 1], line_end + 2
    if kind in b"+-:,(#_":
        return end
    count = int(data[start + 1 : line_end])
    if kind in b"$!=":
        end += count + 2
        return end if end <= len(data) else None
    assert kind in b"*~>%", f"not RESP3: {data[start:line_end]!r}"
    for _ in range(count * 2 if kind == b"%" else count):
        inner = end_of_reply(data, end)
        if inner is None:
            return None
        end = inner
    return end
