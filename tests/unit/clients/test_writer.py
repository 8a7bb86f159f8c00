"""The writing half of a connection, over a transport that takes as much as a test lets it take.

The same over real sockets, and what the client sees of it, is in tests/whole/clients/test_connection.
"""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from wsd.clients.phases import Phase
from wsd.clients.writer import Writer
from wsd.deadlines import Sweep
from wsd.delivery.fanout import LARGE_MESSAGES, Bounds

BOUND = 1000
AGE = 10.0


class Transport:
    """Takes all that is written while `room` is left, and calls the protocol as uvloop's does."""

    def __init__(self) -> None:
        self.protocol: Half
        self.room = 0  # bytes that the socket takes at once
        self.taken = b""
        self.queued = b""
        self.half_closes = True  # whether one side may be closed alone
        self.closed = ""  # how

    def can_write_eof(self) -> bool:
        return self.half_closes

    def write_eof(self) -> None:
        assert self.half_closes
        self.closed = "half"

    def close(self) -> None:
        self.closed = "whole"

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high == 0

    def get_write_buffer_size(self) -> int:
        return len(self.queued)

    def write(self, data: bytes) -> None:
        paused = bool(self.queued)
        fits = 0 if paused else self.room
        self.taken, self.queued, self.room = self.taken + data[:fits], self.queued + data[fits:], self.room - fits
        if self.queued and not paused:
            self.room = 0
            self.protocol.pause_writing()

    def let(self, count: int) -> None:
        """Let the socket take so many bytes more."""
        self.taken, self.queued, self.room = self.taken + self.queued[:count], self.queued[count:], 0
        if not self.queued:
            self.room = count
            self.protocol.resume_writing()


class Half(Writer):
    """A connection that notes why it gives up."""

    def __init__(self, transport: Transport, clock: list[float]) -> None:
        super().__init__(Bounds(BOUND, AGE), Sweep(lambda: clock[0]), Phase.HANDSHAKE)
        self.ended: list[tuple[str, int, float]] = []
        transport.protocol = self
        self.connection_made(cast(asyncio.Transport, transport))
        self._enter(Phase.OPEN)

    def _give_up(self, bound: str, waiting: int, age: float) -> None:
        self.ended.append((bound, waiting, age))

    def visit(self, now: float) -> float:
        raise AssertionError("no test lets the sweep tick")


def half(room: int = 0) -> tuple[Half, Transport, list[float]]:
    """An open connection, its transport, which takes so many bytes, and its clock."""
    transport, clock = Transport(), [100.0]
    transport.room = room
    return Half(transport, clock), transport, clock


async def turn() -> None:
    """Let the loop run what was called soon."""
    await asyncio.sleep(0)


async def test_while_the_client_keeps_up_a_write_is_the_transports_own() -> None:
    writer, transport, _ = half(room=100)
    assert writer.write == transport.write
    writer.write(b"frame")
    assert (transport.taken, writer.backlog_bytes, writer.lagging) == (b"frame", 0, False)


async def test_what_the_socket_does_not_take_waits_and_follows_in_order() -> None:
    writer, transport, _ = half(room=2)
    for frame in (b"first", b"second", b"third"):
        writer.write(frame)
    assert (transport.queued, writer.lagging, writer.backlog_bytes) == (b"rst", True, 14)
    transport.let(3)
    transport.let(100)
    writer.write(b"fourth")
    transport.let(100)
    assert (transport.taken, writer.lagging) == (b"firstsecondthirdfourth", False)


async def test_a_write_that_passes_the_bound_dooms_the_connection_and_ends_it_with_the_next_turn() -> None:
    writer, transport, clock = half()
    writer.write(b"x" * 600)
    clock[0] += 2.0
    writer.write(b"y" * 401)
    assert (writer.phase, writer.ended) == (Phase.DOOMED, [])
    assert writer.backlog_bytes == 600  # the backlog is gone at once; the transport's part can't be taken back
    writer.write(b"z" * 5000)
    assert writer.backlog_bytes == 600
    await turn()
    assert writer.ended == [("bytes", 1001, 2.0)]
    assert transport.queued == b"x" * 600


async def test_some_messages_that_are_longer_than_the_bound_may_wait() -> None:
    writer, _, _ = half()
    for _ in range(LARGE_MESSAGES):
        writer.write(b"x" * (BOUND + 1))
    await turn()
    assert writer.ended == []
    writer.write(b"x" * (BOUND + 1))
    await turn()
    assert len(writer.ended) == 1


async def test_the_age_is_that_of_the_oldest_frame_that_the_socket_has_not_taken() -> None:
    writer, transport, clock = half()
    writer.write(b"first")
    clock[0] += 3.0
    writer.write(b"second")
    clock[0] += 1.0
    assert (writer.backlog_age, writer.backlog_deadline) == (4.0, 100.0 + AGE)
    transport.let(5)  # then the second frame is handed over, and one byte of it does not fit
    assert writer.backlog_age == 1.0
    assert writer.backlog_deadline == 103.0 + AGE


async def test_last_words_go_behind_what_waits_and_nothing_goes_behind_them() -> None:
    writer, transport, _ = half()
    writer.write(b"first")
    writer.write(b"second")
    writer._enter(Phase.CLOSING)
    writer._write_last(b"close")
    writer.write(b"third")
    transport.let(5)
    transport.let(6)
    transport.let(100)
    transport.let(100)
    assert transport.taken == b"firstsecondclose"


@pytest.mark.parametrize(("half_closes", "closed"), [(True, "half"), (False, "whole")])
async def test_the_end_of_the_stream_is_sent_as_the_transport_can(half_closes: bool, closed: str) -> None:
    writer, transport, _ = half()
    transport.half_closes = half_closes
    writer._write_end()
    assert transport.closed == closed
