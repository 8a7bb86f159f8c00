"""The way into a connection for a client that comes from another process of the host, with its record.

Whoever moves connections calls, for each::

    connection = ArrivedConnection(shared, record)
    await loop.connect_accepted_socket(lambda: connection, sock)    ARRIVING: it holds a place, and does nothing
      ... the connection is put into the topic table for its `listening` topics ...
    connection.arrive(frames)                                       OPEN

The two last steps belong into one turn of the loop, so that the frames that were kept for the connection come before
what is published then. If the client has gone meanwhile, the connection is GONE, has no topics, and `arrive` does
nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from websockets.frames import Opcode

from wsd.clients import sansio
from wsd.clients.connection import Shared
from wsd.clients.moving import MovableConnection
from wsd.clients.phases import Phase
from wsd.clients.record import Record
from wsd.clients.session import Session

__all__ = ["ArrivedConnection"]

logger = logging.getLogger(__name__)


class ArrivedConnection(MovableConnection):
    """A client's socket that was another process's.

    Args:
        shared: what all connections share.
        record: what the other process has written.
    """

    __slots__ = ("_at_end", "_early", "_record")

    def __init__(self, shared: Shared, record: Record) -> None:
        fragments = None if record.message is None else len(record.message)
        super().__init__(shared, sansio.go_on(shared.max_size, fragments), Phase.ARRIVING)
        self.session = Session.unpack(record.session, shared.authenticator, shared.limits, shared.sweep.time())
        self._record: Record | None = record  # until it is open
        self._early = b""  # what was read before it is open
        self._at_end = False  # whether the client has sent its end before it is open

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the socket. The transport reads from it when this has returned, and can't be told yet not to."""
        super().connection_made(transport)
        self._shared.door.arrived(self)

    def _receive_early(self, data: bytes) -> bytes:
        """Keep what comes before the connection is open, and read no more."""
        self._pause_reading()
        self._early += data
        return b""

    def eof_received(self) -> bool:
        """The client sends nothing more."""
        if self.phase is Phase.ARRIVING:
            self._at_end = True
            return True
        return super().eof_received()

    def arrive(self, frames: Iterable[bytes] = ()) -> None:
        """Go on where the connection was in the other process.

        What waited for the client there is written, then what was kept for it on its way, in portions and within the
        bounds of what may wait. Then what it had sent is handled as if it came now, and reading goes on.

        Args:
            frames: what was published on its topics meanwhile.
        """
        record, session, self._record = self._record, self.session, None
        if self.phase is not Phase.ARRIVING:
            return
        assert record is not None and session is not None
        now = self._sweep.time()
        self._message = None if record.message is None else bytearray(record.message)
        self._message_opcode = Opcode.BINARY if record.binary else Opcode.TEXT
        self._begin(session, now + record.seconds_to_ping)
        if record.seconds_to_pong is not None:
            self._pong_due = now + record.seconds_to_pong
            self._expect_pong()
            self._sweep.hasten(self, self._pong_due)
        if logger.isEnabledFor(logging.DEBUG):
            self._debug("arrived from another process")
        self._write_all([*((now - age, data) for age, data in record.backlog), *((now, frame) for frame in frames)])
        self._carry_out(session.resume())
        if unread := record.unread + self._early:
            self._early = b""
            self.data_received(unread)
        if self._at_end:
            self._shared.slices.do(self._end_of_stream)
        elif self.phase.reads:
            self._read_in(max(record.seconds_to_read, self._reads_at - self.loop.time(), 0.0))
        self._close_as_asked()
