"""A server whose reload goes wrong in one way, for the tests of what measures reloads.

It has a worker as a supervisor has: a process, which it replaces when it is told to reload. The worker does nothing,
and the main process serves. So what goes wrong is what this file says, and nothing else.

Usage: python -m tests.bench.reloading PORT REDIS_PORT FAULT
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Any

import hiredis

from bench.servers.floor import accept_response, frame, topics_of

__all__ = ["CLOSED", "PAUSE", "Fault"]

PAUSE = 0.5
"""Seconds of the pause."""

CLOSED = 3
"""Connections that are closed."""

WORKER = [sys.executable, "-c", "input()"]


class Fault(Enum):
    """What goes wrong for each client once, as soon as the server reloads."""

    NONE = "nothing"
    PAUSE = "no message for half a second"
    LOSE = "a message does not come"
    DOUBLE = "a message comes twice"
    SWAP = "two messages come in the wrong order"
    CLOSE = "three connections are closed"
    GAP = "a gap is announced"


class Server:
    """The main process."""

    def __init__(self, fault: Fault) -> None:
        self._fault = fault
        self._armed = False  # whether the fault is still to come
        self._happened = asyncio.Event()  # the fault has come
        self._reader = hiredis.Reader()
        self._listeners: dict[bytes, list[Any]] = {}  # transports, by topic
        self._kept: list[tuple[bytes, bytes]] = []  # messages that wait
        self._paused = False
        self.redis: Any = None

    async def serve(self, port: int, redis_port: int) -> None:
        """Serve until killed."""
        loop = asyncio.get_running_loop()
        reload = asyncio.Event()
        loop.add_signal_handler(signal.SIGHUP, reload.set)
        worker = await asyncio.create_subprocess_exec(*WORKER, stdin=asyncio.subprocess.PIPE)
        self.redis = (await loop.create_connection(partial(_Received, self._from_redis), "127.0.0.1", redis_port))[0]
        await loop.create_server(partial(_Client, self._upgrade), "127.0.0.1", port)
        while True:
            await reload.wait()
            reload.clear()
            new = await asyncio.create_subprocess_exec(*WORKER, stdin=asyncio.subprocess.PIPE)
            self._armed = bool(self._listeners)
            if self._armed:
                await self._go_wrong()
            await worker.communicate(b"\n")
            worker = new

    async def _go_wrong(self) -> None:
        if self._fault is Fault.PAUSE:
            self._paused = True
            await asyncio.sleep(PAUSE)
            self._paused = False
            self._deliver()
        elif self._fault is Fault.CLOSE:
            (transports,) = self._listeners.values()
            for transport in transports[:CLOSED]:
                transport.close()
            del transports[:CLOSED]
        elif self._fault is Fault.GAP:
            for topic in self._listeners:
                self._write(topic, b"\x81\x10" + b'{"action":"gap"}')
        elif self._fault is not Fault.NONE:
            await self._happened.wait()

    def _upgrade(self, transport: Any, request: bytes) -> None:
        transport.write(accept_response(request))
        for topic in topics_of(request):
            if topic not in self._listeners:
                self.redis.write(b"SUBSCRIBE " + topic + b"\r\n")
            self._listeners.setdefault(topic, []).append(transport)

    def _from_redis(self, transport: Any, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            if isinstance(reply, list) and reply[0] == b"message":
                self._kept.append((reply[1], reply[2]))
        if not self._paused:
            self._deliver()

    def _deliver(self) -> None:
        faulty = self._armed and self._fault in (Fault.LOSE, Fault.DOUBLE, Fault.SWAP)
        if faulty:
            if len(self._kept) < 2:
                return  # two are to be swapped
            self._armed = False
            self._happened.set()
            if self._fault is Fault.LOSE:
                del self._kept[0]
            elif self._fault is Fault.DOUBLE:
                self._kept.insert(0, self._kept[0])
            else:
                self._kept[:2] = self._kept[1::-1]
        for topic, payload in self._kept:
            self._write(topic, frame(topic, payload))
        self._kept.clear()

    def _write(self, topic: bytes, data: bytes) -> None:
        for transport in self._listeners.get(topic, []):
            transport.write(data)


class _Received(asyncio.Protocol):
    """Says what came."""

    def __init__(self, say: Callable[[Any, bytes], None]) -> None:
        self._say = say

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._say(self.transport, data)


class _Client(_Received):
    def data_received(self, data: bytes) -> None:
        if data.startswith(b"GET "):
            super().data_received(data)


if __name__ == "__main__":
    asyncio.run(Server(Fault[sys.argv[3]]).serve(int(sys.argv[1]), int(sys.argv[2])))
