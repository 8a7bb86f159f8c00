"""Messages between two processes of this host, with descriptors.

A message is a JSON object in one packet of a Unix socket (SOCK_SEQPACKET, unix(7)): it arrives whole or not at all, so
that nothing is half read when a process executes itself or dies. Descriptors travel with it (SCM_RIGHTS). A message
that is too long for a packet travels in a file in memory (memfd_create(2)), whose descriptor is the last one.

What is sent waits here if the other side is slow, and while the kernel has no room for descriptors: nothing raises.
"""

from __future__ import annotations

import array
import asyncio
import errno
import json
import os
import socket
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, TypeAlias

__all__ = ["MAX_DESCRIPTORS", "Message", "Pipe", "pair"]

Message: TypeAlias = dict[str, Any]

PACKET = 65_536
"""Bytes of a packet. The kernel takes 212,992 by default (net.core.wmem_default)."""

MAX_DESCRIPTORS = 252
"""Descriptors of a message. The kernel takes 253 (SCM_MAX_FD), of which a long message needs one for itself."""

READ_MOST = 64
"""Messages handled before the event loop gets a turn."""

PATIENCE = 1.0
"""Seconds that the other side may take to read what waits, before this side hangs up."""

RETRY = 0.01
"""Seconds until the kernel is asked again that had no room for descriptors."""

_ROOM = socket.CMSG_SPACE((MAX_DESCRIPTORS + 1) * array.array("i").itemsize)

_INTEGERS = partial(array.array, "i")

_IN_MEMORY = b"@"
"""The packet of a long message. A JSON object begins with another byte."""

_NO_ROOM = frozenset((errno.ETOOMANYREFS, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
"""Errors that pass: too many descriptors are on their way, or open."""

_NOBODY = frozenset((errno.EPIPE, errno.ECONNRESET))
"""Errors of a message to somebody who has hung up or has died. What he has said before may wait to be read still."""


def pair() -> tuple[socket.socket, socket.socket]:
    """Make the two ends of a pipe. They are closed in a new program unless they are passed on."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class _Waiting(NamedTuple):
    """A message that has not been sent yet."""

    packet: bytes
    descriptors: Sequence[int]
    on_sent: Callable[[], object] | None
    closing: Sequence[int]  # those of the descriptors that are ours to close


class Pipe:
    """One end of a pipe.

    Args:
        sock: what :func:`pair` has returned, or the descriptor of such a socket as a socket object. It is closed with
            the pipe.
        on_message: called with each message and its descriptors, which belong to the callee. When this process has no
            room for descriptors, the message comes without them.
        on_closed: called once, when the other side has closed the pipe or has died; not after :meth:`close`.
    """

    def __init__(
        self,
        sock: socket.socket,
        on_message: Callable[[Message, list[int]], object],
        on_closed: Callable[[], object],
    ) -> None:
        self._sock = sock
        self._on_message = on_message
        self._on_closed = on_closed
        self._queue: deque[_Waiting] = deque()
        self._blocked = False  # whether the queue waits for the kernel
        self._flushed = asyncio.Event()
        self._flushed.set()
        self._ended = asyncio.Event()
        self.open = True
        sock.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._watch()

    @property
    def waiting(self) -> int:
        """Messages that have not been sent yet."""
        return len(self._queue)

    def send(
        self,
        message: Mapping[str, Any],
        descriptors: Sequence[int] = (),
        on_sent: Callable[[], object] | None = None,
        *,
        gives: bool = False,
    ) -> None:
        """Send a message, or keep it until there is room. What is sent to nobody is dropped.

        Args:
            message: JSON values.
            descriptors: are duplicated for the other side. They must stay open until the message is sent.
            on_sent: called when the kernel has taken the message.
            gives: whether the descriptors are given away: they are closed here when the message is sent, or dropped.
        """
        closing = list(descriptors) if gives else []
        if not self.open:
            _close(*closing)
            return
        packet = json.dumps(message, separators=(",", ":")).encode()
        if len(packet) > PACKET:
            memory = os.memfd_create("message")
            with open(memory, "wb", closefd=False) as file:
                file.write(packet)
            packet = _IN_MEMORY
            descriptors = [*descriptors, memory]
            closing.append(memory)
        self._queue.append(_Waiting(packet, descriptors, on_sent, closing))
        self._flushed.clear()
        if not self._blocked:
            self._write()

    async def flush(self) -> None:
        """Wait until everything is sent, or there is nobody to send it to."""
        await self._flushed.wait()

    def close(self) -> None:
        """Close this end. What waits is dropped."""
        if self.open:
            self.detach().close()

    async def hang_up(self) -> None:
        """Say what waits, hear what the other side has said until now, and close. ``on_closed`` is called.

        Whatever the other side says later fails there: afterwards both know which messages have come.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await self.flush()
        if self.open:
            with suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)  # what has come stays readable, and behind it is the end
            await self._ended.wait()

    def detach(self) -> socket.socket:
        """Give the socket back, open, to somebody who goes on with it. Messages that were not read stay in it."""
        self.open = False
        self._ended.set()
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._drop()
        return self._sock

    def _drop(self) -> None:
        """Forget what waits to be sent."""
        for waiting in self._queue:
            _close(*waiting.closing)
        self._queue.clear()
        self._flushed.set()

    # Writing.

    def _write(self) -> None:
        self._blocked = False
        while self._queue:
            packet, descriptors, on_sent, closing = self._queue[0]
            try:
                self._sock.sendmsg([packet], _rights(descriptors))
            except BlockingIOError:
                self._blocked = True
                self._loop.add_writer(self._sock.fileno(), self._write)
                return
            except OSError as exc:
                self._loop.remove_writer(self._sock.fileno())
                if exc.errno in _NO_ROOM:
                    self._blocked = True
                    self._loop.call_later(RETRY, self._retry)
                elif exc.errno in _NOBODY:
                    self._drop()  # the end is found by who reads, behind all that the other side has said
                    self._watch()
                else:
                    self._loop.call_soon(self._end)  # not from within the caller
                return
            self._queue.popleft()
            _close(*closing)
            if on_sent is not None:
                on_sent()
        self._flushed.set()
        if self.open:
            self._loop.remove_writer(self._sock.fileno())

    def _retry(self) -> None:
        if self.open:
            self._write()

    # Reading.

    def _watch(self) -> None:
        """Let the event loop look for what comes; anew after an error, because libuv looks no more then."""
        self._loop.remove_reader(self._sock.fileno())
        self._loop.add_reader(self._sock.fileno(), self._read)

    def _read(self) -> None:
        for _ in range(READ_MOST):
            if not self.open:
                return
            try:
                packet, ancillary, flags, _ = self._sock.recvmsg(PACKET, _ROOM, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return
            except ConnectionResetError:  # the other side has died before it had read everything
                self._watch()
                continue  # what it has said comes next
            except OSError:
                packet, ancillary, flags = b"", [], 0
            descriptors = [descriptor for _, _, data in ancillary for descriptor in _INTEGERS(data)]
            if not packet:
                self._end()
                return
            if flags & socket.MSG_CTRUNC:
                # Out of descriptors: which of them have come is not known.
                _close(*descriptors)
                descriptors.clear()
            if packet == _IN_MEMORY:
                if not descriptors:
                    self._end()  # what it said is lost, so nothing behind it can be trusted
                    return
                packet = _read_memory(descriptors.pop())
            self._on_message(json.loads(packet), descriptors)

    def _end(self) -> None:
        if self.open:
            self.close()
            self._on_closed()


def _rights(descriptors: Sequence[int]) -> list[tuple[int, int, array.array[int]]]:
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []


def _read_memory(descriptor: int) -> bytes:
    with open(descriptor, "rb") as file:
        file.seek(0)
        return file.read()


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        with suppress(OSError):
            os.close(descriptor)
