"""How a connection leaves for another process of the host.

Whoever moves connections (the mover) calls, in this order::

    movable                    may it move at all?
    hold_still(on_end)         from here on nothing but the time changes its session
    listening, waiting         its topics
      ... the mover lets somebody else listen in its place, and no pass of the fan-out owes it anything ...
    when_sent(callback)        from here on the transport gets nothing more
      ... callback ...
    pack(), descriptor         what the other process needs; the connection is AWAY
      ... the other process has both ...
    let_go()                   or go_on(), at any time before: the connection stays here

A connection that is held still may end: its token expires, too much waits for it, the daemon drains. Then it ends as it
would have without the mover, who is told by ``on_end``. What is written to a connection that is AWAY is lost, so the
mover must see to it that nobody writes.

In the other process see :mod:`wsd.clients.arrival`.
"""

from __future__ import annotations

from collections.abc import Callable

from websockets.frames import Opcode
from websockets.protocol import OPEN

from wsd.clients import sansio
from wsd.clients.connection import Connection, Shared
from wsd.clients.phases import Phase
from wsd.clients.record import Record, WaitingFrame
from wsd.clients.session import State
from wsd.codes import Close

__all__ = ["MovableConnection"]

READING_TIME = 1.0
"""Seconds, at the least, for a pong that may have come while the connection was not read from."""


class MovableConnection(Connection):
    """A connection that can go on in another process.

    Args:
        shared: what all connections share.
        protocol: the library's sans-I/O protocol.
        phase: in which it begins.
    """

    __slots__ = ("_asked_to_close", "_on_end")

    def __init__(self, shared: Shared, protocol: sansio.Protocol, phase: Phase) -> None:
        super().__init__(shared, protocol, phase)
        self._asked_to_close: tuple[Close, str] | None = None  # what for, while it is on its way
        self._on_end: Callable[[], None] | None = None  # told if it ends while it is held still; None: it isn't held

    @property
    def movable(self) -> bool:
        """Whether it may move: no handshake is in progress, and it is not closing."""
        return (
            self.phase is Phase.OPEN
            and self.session is not None
            and self.session.state is not State.CLOSED
            and self.protocol.state is OPEN
            and not self.transport.is_closing()
        )

    @property
    def listening(self) -> list[str]:
        """Its topics that are delivered."""
        return [] if self.session is None else self.session.listening

    @property
    def waiting(self) -> list[str]:
        """Its topics that Redis has yet to confirm."""
        return [] if self.session is None else self.session.waiting

    @property
    def unsent(self) -> int:
        """Bytes that the transport holds, because the socket has not taken them."""
        return self.transport.get_write_buffer_size()

    @property
    def descriptor(self) -> int:
        """Of its socket, which stays the transport's."""
        number: int = self.transport.get_extra_info("socket").fileno()
        return number

    def hold_still(self, on_end: Callable[[], None]) -> None:
        """Read nothing, and wait for no topic, until :meth:`go_on`. Messages are delivered as before.

        Args:
            on_end: called once if the connection closes or is lost before :meth:`go_on` or :meth:`let_go`; it isn't
                held then any more.
        """
        assert self.movable and self._on_end is None and self.session is not None
        self._on_end = on_end
        self._pause_reading()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._carry_out(self.session.suspend())

    def when_sent(self, callback: Callable[[], None]) -> None:
        """Hand the transport nothing more: what is due waits in the backlog, within its bounds.

        Args:
            callback: called when the socket has taken what the transport holds: at once, if that is nothing.
        """
        assert self._on_end is not None
        self._keep_back(callback)

    def pack(self) -> Record:
        """Write the record. The connection is AWAY from now on.

        It must be held still and :attr:`movable`, and nothing may be :attr:`unsent`.
        """
        session, message = self.session, self._message
        assert self._on_end is not None and self.movable and not self.unsent and session is not None
        now = self._sweep.time()
        record = Record(
            session=session.pack(now),
            unread=sansio.unread(self.protocol),
            message=None if message is None else bytes(message),
            binary=message is not None and self._message_opcode is Opcode.BINARY,
            seconds_to_ping=self._next_ping - now,
            seconds_to_pong=None if self._pong_due is None else self._pong_due - now,
            seconds_to_read=max(self._reads_at - self.loop.time(), 0.0),
            backlog=tuple(WaitingFrame(now - due, data) for due, data in self._backlog or ()),
        )
        self._enter(Phase.AWAY)
        self._sweep.remove(self)
        return record

    def let_go(self) -> None:
        """The other process has the socket: close ours. Nothing is sent, logged or counted as closed.

        To abort is to close the descriptor. The kernel ends the TCP connection with the last descriptor, and the other
        process has one.
        """
        assert self.phase is Phase.AWAY
        self._on_end = None
        self._enter(Phase.GONE)
        self._leave()
        self._sweep.remove(self)
        self._shared.door.moved_out(self)
        self.transport.abort()

    def go_on(self) -> None:
        """Stay here: hand over what waits, read on, and wait for topics again. Does nothing if it isn't held still."""
        if self._on_end is None:
            return
        if self.phase is Phase.AWAY:
            self._enter(Phase.OPEN)
            self._sweep.schedule(self, self._sweep.time())  # deadlines may have passed
        self._release()
        self._expect_pong()
        assert self.session is not None
        self._carry_out(self.session.resume())
        self._close_as_asked()

    def close_with(self, code: Close, reason: str) -> None:
        """Close an open connection; one that is on its way closes when it is open again, or here."""
        if self.phase is Phase.AWAY or self.phase is Phase.ARRIVING:
            self._asked_to_close = (code, reason)
        else:
            super().close_with(code, reason)

    def _close_as_asked(self) -> None:
        if self._asked_to_close is not None:
            self.close_with(*self._asked_to_close)

    def _unread_patience(self) -> float:
        # It is read at once where the connection goes on. More would be granted again and again to who moves often.
        return super()._unread_patience() if self._on_end is None else READING_TIME

    def _expect_pong(self) -> None:
        """Give the pong that is waited for, if one is, the time to be read."""
        if self._pong_due is not None:
            self._pong_due = max(self._pong_due, self._sweep.time() + READING_TIME)

    def _release(self) -> Callable[[], None] | None:
        """Be held no more.

        Returns:
            Whom to tell if that is because the connection ends.
        """
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            self._hand_on()
            self._read_in(max(self._reads_at - self.loop.time(), 0.0))
        return on_end

    def _end(self, last: list[bytes]) -> None:
        on_end = self._release()
        super()._end(last)
        if on_end is not None:
            on_end()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        on_end, self._on_end = self._on_end, None
        super().connection_lost(exc)
        if on_end is not None:
            on_end()
