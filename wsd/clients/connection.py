"""One client's socket: the library's protocol below, our session above.

A :class:`Connection` is what stands between the transport and the library's sans-I/O
:class:`~websockets.server.ServerProtocol`. It takes the place of the library's ``ServerConnection``, which hands
messages through queues to a task per client: here requests are handled where their bytes arrive, and nothing is
awaited. A connection has no task at all.

A class for each thing that a connection does, each on top of the one before:

- :class:`~wsd.clients.writer.Writer` writes, and bounds what waits when the client can't keep up;
- :class:`Connection` reads, does what the session wants, and closes;
- :class:`~wsd.clients.moving.MovableConnection` leaves for another process;
- :class:`~wsd.clients.acceptance.AcceptedConnection` and :class:`~wsd.clients.arrival.ArrivedConnection` are the two
  ways in: by an opening handshake, or with a record from another process.

How far a connection is stands in :mod:`wsd.clients.phases`, what clients do wrong in :mod:`wsd.clients.refusals`.

Called by the event loop with what a client sends (:meth:`Connection.data_received`), by the topic table with Redis's
answers, by the sweep when a deadline has come; calls the session, and carries out the effects that it returns.

Reading. Bytes are read in slices of 4 KiB, so that a client that sends thousands of tiny frames in one segment doesn't
hold the loop, and what we don't handle yet waits in the kernel; a client above its request rate isn't read from until
it has earned more.
"""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from typing import Protocol, cast

from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN
from websockets.typing import BytesLike

from wsd.auth.grant import Authenticator
from wsd.auth.jwt import MAX_TOKEN
from wsd.clients import sansio
from wsd.clients.phases import Phase
from wsd.clients.refusals import Refusals
from wsd.clients.replies import Reply
from wsd.clients.session import Effect, Leave, Limits, Listen, Session, State, Wait
from wsd.clients.writer import Writer
from wsd.codes import Close, HandshakeReason
from wsd.deadlines import Sweep
from wsd.delivery.fanout import Bounds, Fanout
from wsd.delivery.topics import TopicTable
from wsd.logs import fields
from wsd.metrics import Metrics
from wsd.protocol.frames import PING, text_frame
from wsd.protocol.messages import SESSION_AUTHENTICATED
from wsd.slices import Slices

__all__ = ["MAX_UNAUTHORIZED", "TOO_SLOW", "Connection", "Door", "Shared"]

READ_SLICE = 4096
"""Bytes handled before the loop gets a turn. That many bytes can hold 680 empty pings, about 4 ms of work."""

MAX_LINGER = 262_144
"""Bytes read from a connection that ends: a close frame may lie behind what the client had sent before."""

MAX_UNAUTHORIZED = MAX_TOKEN + 4096
"""Bytes of a message before authorization: a token, and what stands around it."""

MAX_PAUSE = 5.0
"""Seconds for which nothing is read from a client that is far above its request rate."""

MAX_REASON = 123
"""Bytes of the reason in a close frame: a control frame's 125 less the code (RFC 6455, section 5.5)."""

TOO_SLOW = "slow consumer: reconnect and fetch the state anew"
"""The reason of the close frame of a client for which too much waits."""

_BUFFER = bytearray(READ_SLICE)
"""Where sockets are read into, all of them: bytes are taken out before the next one is read."""

logger = logging.getLogger(__name__)


class Door(Protocol):
    """Who lets connections in, and sees them out."""

    def refusal(self) -> HandshakeReason | None:
        """Why no client is let in now; None if one may come."""

    def admitted(self) -> None:
        """A client was let in; it is sent the response."""

    def refused(self, connection: Connection) -> None:
        """A handshake was refused; the socket lingers until the client closes."""

    def entered(self, connection: Connection) -> bool:
        """A socket was accepted. Returns whether there is room for it; if not, it is aborted."""

    def left(self, connection: Connection) -> None:
        """A socket is gone."""

    def arrived(self, connection: Connection) -> None:
        """A socket has come from another process, with a client that was let in there."""

    def moved_out(self, connection: Connection) -> None:
        """A socket is gone, because another process has it."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What all connections of a worker share."""

    door: Door
    topics: TopicTable
    fanout: Fanout
    sweep: Sweep
    slices: Slices  # for what many may cause at once: that they leave
    metrics: Metrics
    authenticator: Authenticator
    limits: Limits
    ping_interval: float  # seconds
    ping_timeout: float  # seconds
    bounds: Bounds  # of what may wait for a client
    refusals: Refusals  # what clients do wrong
    max_size: int  # bytes of a client's message


class Connection(Writer):
    """A client's socket and its session.

    Args:
        shared: what all connections share.
        protocol: the library's sans-I/O protocol.
        phase: in which it begins.
    """

    # Thousands of these: an instance dictionary of so many names takes 1.5 KiB.
    __slots__ = (
        "_ends_at",
        "_linger",
        "_message",
        "_message_opcode",
        "_next_ping",
        "_outgoing",
        "_pong_due",
        "_reading",
        "_reads_at",
        "_shared",
        "_timer",
        "protocol",
        "session",
    )

    def __init__(self, shared: Shared, protocol: sansio.Protocol, phase: Phase) -> None:
        super().__init__(shared.bounds, shared.sweep, phase)
        self._shared = shared
        self.protocol = protocol
        self.session: Session | None = None  # of a client that was let in
        self._ends_at = shared.sweep.time() + (phase.seconds or 0.0)  # if the phase has an end
        self._next_ping = 0.0  # when the next ping is due; while open
        self._pong_due: float | None = None  # when the pong is late; None while no ping is unanswered
        self._linger = MAX_LINGER  # bytes that may still be read of a connection that ends
        self._message: bytearray | None = None  # what has come of a fragmented message
        self._message_opcode = Opcode.TEXT  # of that message
        self._reading = True  # False while we don't read from the socket
        self._reads_at = 0.0  # when we read on, or have last done so, by the loop's clock
        self._timer: asyncio.Handle | None = None  # reads on then; None while we read
        self._outgoing: list[bytes] | None = None  # answers to one slice, written together; None between slices

    # Life and death.

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._break_off(HandshakeReason.EOF)
        self._enter(Phase.GONE)
        self._drop_backlog()
        self.lagging = False  # the transport, which knows what it holds, is closed
        self._shared.sweep.remove(self)
        self._shared.slices.do(self._clear_away)

    def _clear_away(self) -> None:
        """Leave nothing behind of a socket that is gone."""
        self.protocol.receive_eof()  # does nothing the second time; the state becomes CLOSED
        self._leave()
        self._shared.sweep.remove(self)
        self._shared.door.left(self)
        if logger.isEnabledFor(logging.DEBUG):
            self._debug("the connection is gone")
        sansio.undo_circle(self.protocol)

    def close_with(self, code: Close, reason: str) -> None:
        """Close an open connection; abort it if the client doesn't answer in time.

        Args:
            code: the close code.
            reason: at most 123 bytes of UTF-8 (RFC 6455, section 5.5); the rest is cut off.
        """
        if self.phase is Phase.OPEN:
            self._close(code, reason)

    def _close(self, code: Close, reason: str) -> None:
        if self.protocol.state is OPEN:  # else the client's close frame was read, or a breach, and answered
            self.protocol.send_close(code, reason.encode()[:MAX_REASON].decode(errors="ignore"))
            self._end(self.protocol.data_to_send())

    def abort(self) -> None:
        """End the connection at once, without a close frame."""
        self._enter(Phase.GONE)
        self._shared.sweep.remove(self)
        self.transport.abort()

    def _enter(self, phase: Phase) -> None:
        """Go on to another phase."""
        super()._enter(phase)
        if phase.seconds is not None:
            self._ends_at = self._shared.sweep.time() + phase.seconds
            self._shared.sweep.hasten(self, self._ends_at)

    def _end(self, last: list[bytes]) -> None:
        """Say the last words, and leave all topics.

        Args:
            last: the close frame, if one is to be sent, and ``b""`` if nothing more is expected from the client.
        """
        self._write_outgoing()
        before, expects_more = self.phase, b"" not in last
        if not expects_more or before is Phase.DOOMED:
            # It isn't wanted any more. The last words go behind the portion in progress, which is whole frames.
            self._drop_backlog()
        self._enter(Phase.CLOSING if expects_more else Phase.ENDING)
        with suppress(OSError, RuntimeError):  # uvloop raises RuntimeError on a closing transport
            for data in last:
                if data:
                    self._write_last(data)
                else:
                    self._write_end()
        if before is not Phase.CLOSING:
            self._log_close()
        self._shared.slices.do(self._leave)

    def _leave(self) -> None:
        if self.session is not None:
            self._carry_out(self.session.close())

    def _log_close(self) -> None:
        """Log a close that the client has caused, and not we."""
        close = self.protocol.close_sent
        if (
            close is None
            or self.protocol.close_rcvd_then_sent
            or close.code in (Close.SERVICE_RESTART, Close.SLOW_CONSUMER)
        ):
            return
        if close.code == Close.INTERNAL_ERROR:
            self._shared.refusals.bug(self.protocol.parser_exc)
        self._shared.refusals.closed(close, self.peer, self._subject)

    def visit(self, now: float) -> float:
        """Act on deadlines that have passed; return the next one. Called by the sweep."""
        session = self.session
        if self.phase is Phase.OPEN and session is not None:
            self._visit_open(session, now)
        elif self.phase.seconds is not None and now >= self._ends_at and not self._break_off(HandshakeReason.TIMEOUT):
            self.abort()
        if self.phase is not Phase.OPEN or session is None:
            return self._ends_at
        pong_due = inf if self._pong_due is None else self._pong_due
        return min(session.deadline, self.backlog_deadline, self._next_ping, pong_due)

    def _visit_open(self, session: Session, now: float) -> None:
        # Also before its deadline: a token expires by the wall clock, and that may have been set.
        self._carry_out(session.timed_out(now))
        if self.phase is not Phase.OPEN:
            return
        waits_for_pong = self._pong_due is not None
        if self.lagging:
            # A ping would wait behind the backlog; the backlog's own bound tells the dead from the slow.
            self._next_ping = now + self._shared.ping_interval
            if waits_for_pong:
                self._pong_due = now + self._shared.ping_timeout
            if now >= self.backlog_deadline:
                self._give_up("age", self.backlog_bytes, self.backlog_age)
        elif self._pong_due is not None and now >= self._pong_due:
            if self._reading:
                self._shared.metrics.ping_timeouts += 1
                self.abort()
            else:
                self._pong_due = now + self._unread_patience()
        elif now >= self._next_ping:
            self.write(PING)
            self._next_ping = now + self._shared.ping_interval
            if not waits_for_pong:
                self._pong_due = now + self._shared.ping_timeout

    def _unread_patience(self) -> float:
        """Seconds more for a pong that may lie behind requests that we don't read yet, because they came too fast."""
        return self._shared.ping_timeout

    # Reading.

    def get_buffer(self, sizehint: int) -> bytearray:
        """Where the transport reads to: one slice, and what is behind it stays in the kernel."""
        return _BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        """Handle what the transport has read."""
        self.data_received(bytes(_BUFFER[:nbytes]))

    def data_received(self, data: bytes) -> None:
        """Handle what the client sent; if it has sent more, or must wait, stop reading until later."""
        full = len(data) >= READ_SLICE
        if self.phase.early:
            data = self._receive_early(data)
        seconds = self._receive(data) if data and self.phase.takes_frames else 0.0
        if self.phase is Phase.CLOSING or self.phase is Phase.ENDING:
            self._linger -= len(data)
            if self._linger <= 0:
                self._enter(Phase.DEAF)
                self._pause_reading()
        if (seconds or full) and self.phase.reads:
            self._read_in(min(seconds, MAX_PAUSE))

    def eof_received(self) -> bool:
        """The client sends nothing more.

        Returns:
            Whether :meth:`_end_of_stream` closes the socket; if not, uvloop does. Either closes a socket when it has
            taken what waits.
        """
        if self._break_off(HandshakeReason.EOF):
            return False
        self._shared.slices.do(self._end_of_stream)
        return True

    def _end_of_stream(self) -> None:
        if self.phase is Phase.GONE or self.phase is Phase.AWAY:  # whoever reads on comes upon the end again
            return
        if self.phase.takes_frames:
            self.protocol.receive_eof()
            self._end(self.protocol.data_to_send())
        if self.phase is not Phase.DEAF:
            self._enter(Phase.DEAF)
        self.transport.close()

    def _pause_reading(self) -> None:
        self._reading = False
        self.transport.pause_reading()

    def _read_in(self, seconds: float) -> None:
        """Read nothing for so many seconds."""
        self._pause_reading()
        if self._timer is not None:
            self._timer.cancel()
        self._reads_at = self.loop.time() + seconds
        self._timer = self.loop.call_later(seconds, self._read_on)

    def _read_on(self) -> None:
        self._timer = None
        if self.phase.reads and not self.transport.is_closing():
            self._reading = True
            self.transport.resume_reading()

    def _receive(self, data: bytes) -> float:
        """Handle frames from the client, or look for its close frame.

        Returns:
            Seconds for which nothing more should be read: 0 if the client is within its rate.
        """
        seconds = 0.0
        self._outgoing = []
        self.protocol.receive_data(data)
        own = self.protocol.data_to_send()  # the library's: pongs in the order of pings, then what ends the connection
        for event in self.protocol.events_received():
            if self.phase is not Phase.OPEN:
                break  # behind our close frame
            frame = cast(Frame, event)
            if frame.opcode is Opcode.PING:
                self._outgoing.append(own.pop(0))
            seconds = self._receive_frame(frame)
        self._write_outgoing()
        self._outgoing = None
        if self.protocol.eof_sent and self.phase.takes_frames:
            # A close frame was received, or a breach was found.
            self._end(own)
        return seconds

    def _receive_frame(self, frame: Frame) -> float:
        session = self.session
        assert session is not None  # the handshake has made it
        now = self._shared.sweep.time()
        seconds = session.allowance.charge(now)
        opcode = frame.opcode
        if opcode is Opcode.TEXT or opcode is Opcode.BINARY:
            if frame.fin:
                self._receive_message(session, opcode, frame.data, now)
            else:
                self._message_opcode = opcode
                self._message = bytearray(frame.data)
        elif opcode is Opcode.CONT:
            assert self._message is not None  # the library has checked that there is something to continue
            self._message += frame.data
            if frame.fin:
                message, self._message = self._message, None
                self._receive_message(session, self._message_opcode, message, now)
        elif opcode is Opcode.PONG:
            self._pong_due = None
        return seconds

    def _receive_message(self, session: Session, opcode: Opcode, data: BytesLike, now: float) -> None:
        if opcode is Opcode.BINARY:
            self._carry_out(session.receive_binary(now))
            return
        try:
            text = str(data, "utf-8")
        except UnicodeDecodeError as exc:
            # RFC 6455, section 8.1: the connection must be failed.
            self.close_with(Close.INVALID_DATA, f"a text message is not UTF-8: {exc.reason} at byte {exc.start}")
            return
        self._carry_out(session.receive(text, now))
        if session.state is State.AUTHENTICATED:
            self.protocol.max_message_size = self._shared.max_size

    # Before it is open.

    @abstractmethod
    def _receive_early(self, data: bytes) -> bytes:
        """Take bytes that have come before the connection is open.

        Returns:
            What is to be read as frames: nothing unless the connection is open now.
        """

    def _break_off(self, reason: HandshakeReason) -> bool:
        """Refuse a handshake of which nothing more will come; return whether there is one."""
        return False

    def _begin(self, session: Session, next_ping: float) -> None:
        """Be open.

        Args:
            session: the client's.
            next_ping: when the first ping is due.
        """
        self.session = session
        self._enter(Phase.OPEN)
        if session.state is State.ANONYMOUS:
            self.protocol.max_message_size = min(MAX_UNAUTHORIZED, self._shared.max_size)
        self._next_ping = next_ping
        self._sweep.schedule(self, min(next_ping, session.deadline))

    # What the session wants.

    def topic_confirmed(self, topic: str) -> None:
        """Redis has confirmed a topic. Called by the topic table."""
        if self.session is not None:
            self._carry_out(self.session.confirmed(topic))

    def topic_refused(self, topic: str, reason: str) -> None:
        """Redis refuses a topic. Called by the topic table."""
        if self.session is not None:
            self._carry_out(self.session.refused(topic, reason))

    def _carry_out(self, effects: list[Effect]) -> None:
        shared, session = self._shared, self.session
        assert session is not None
        debug = logger.isEnabledFor(logging.DEBUG)
        for effect in effects:
            if debug:
                self._debug_effect(effect)
            if isinstance(effect, Reply):
                self._reply(effect)
            elif isinstance(effect, Wait):
                shared.topics.wait(effect.topic, self)  # the answer may come from within
            elif isinstance(effect, Listen):
                shared.topics.listen(effect.topic, self)
            elif isinstance(effect, Leave):
                if session.state is not State.CLOSED:  # then nothing more is written
                    shared.fanout.settle(self)
                shared.topics.leave(effect.topic, self)
            else:
                self.close_with(effect.code, effect.reason)
        shared.sweep.hasten(self, session.deadline)

    def _debug_effect(self, effect: Effect) -> None:
        if isinstance(effect, Wait):
            self._debug("asks for the topic", effect.topic)
        elif isinstance(effect, Listen):
            self._debug("listens to the topic", effect.topic)
        elif isinstance(effect, Leave):
            self._debug("leaves the topic", effect.topic)
        elif isinstance(effect, Reply) and effect.payload.startswith(SESSION_AUTHENTICATED[:-1]):
            self._debug("authorized")

    def _debug(self, what: str, topic: str = "") -> None:
        values = {"peer": self.peer, "subject": "", "session": ""}
        if self.session is not None:
            values |= {"subject": self.session.subject, "session": self.session.id}
        if topic:
            values["topic"] = topic
        subject = f" of {values['subject']!a}" if values["subject"] else ""
        logger.debug("%s%s: %s%s", self.peer, subject, what, f" {topic!a}" if topic else "", extra=fields(**values))

    def _reply(self, reply: Reply) -> None:
        if reply.refusal:
            self._shared.refusals.request(reply, self.peer, self._subject)
        frame = text_frame(reply.payload)
        if self._outgoing is None:
            self.write(frame)
        else:
            self._outgoing.append(frame)

    @property
    def peer(self) -> str:
        """The client's address, for the log."""
        address = self.transport.get_extra_info("peername")
        return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else "unknown"

    @property
    def _subject(self) -> str:
        """The ``sub`` of its token, for the log."""
        return self.session.subject if self.session is not None else ""

    # Writing.

    def _write_outgoing(self) -> None:
        if self._outgoing:
            data = b"".join(self._outgoing)
            self._outgoing.clear()
            self.write(data)

    def _give_up(self, bound: str, waiting: int, age: float) -> None:
        self._shared.refusals.slow(bound, waiting, age, self.peer, self._subject)
        if self.phase is Phase.OPEN or self.phase is Phase.DOOMED:  # else it has ended since it was doomed
            self._drop_backlog()
            self._close(Close.SLOW_CONSUMER, TOO_SLOW)
