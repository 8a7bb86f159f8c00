"""One client's socket: the library's protocol below, our session above.

``websockets.serve`` makes one :class:`Connection` per accepted socket, and gives it the library's sans-I/O
:class:`~websockets.server.ServerProtocol`. This class is what stands between that and the transport. It takes the place
of the library's ``ServerConnection``, which hands messages through queues to a task per client: here the handshake is
answered and requests are handled where their bytes arrive, and nothing is awaited. A connection has no task at all.

Writing, and what happens when the client can't keep up, is the other half: :mod:`wsd.clients.writer`.

Reading. Bytes are read in slices of 4 KiB, so that a client that sends thousands of tiny frames in one segment doesn't
hold the loop, and what we don't handle yet waits in the kernel; a client above its request rate isn't read from until
it has earned more. What is read depends on the phase::

    phase     | what is read                                  | becomes
    ----------+-----------------------------------------------+---------------------------------------------
    HANDSHAKE | the head of the request                       | OPEN (101), ENDING (any other answer)
    OPEN      | frames                                        | CLOSING (our close frame), ENDING (its own, a breach)
    CLOSING   | frames, for the client's close frame; bounded | ENDING
    ENDING    | nothing: thrown away, bounded                 | GONE (the client closes, or is aborted)
    GONE      | nothing                                       |

Why anything is read in ENDING: to close a socket with unread bytes resets the connection, and a reset makes the kernel
of the client throw away our last words.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from math import inf
from typing import Protocol, cast

from websockets.asyncio.server import Server
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import OPEN
from websockets.server import ServerProtocol
from websockets.typing import BytesLike, Subprotocol

from wsd.auth.grant import Authenticator
from wsd.auth.jwt import MAX_TOKEN
from wsd.backoff import spread
from wsd.clients.handshake import RequestHead, reason_of, refusal
from wsd.clients.replies import Reply
from wsd.clients.session import Effect, Leave, Limits, Listen, Session, State, Wait
from wsd.clients.writer import Writer
from wsd.deadlines import Sweep
from wsd.delivery.fanout import Bounds, Fanout
from wsd.delivery.topics import TopicTable
from wsd.errors import HandshakeError
from wsd.logs import BoundedLogger, fields
from wsd.metrics import Metrics
from wsd.protocol.codes import UNAUTHORIZED, Close, HandshakeReason
from wsd.protocol.frames import PING, text_frame
from wsd.protocol.messages import CONNECTED, SESSION_AUTHENTICATED, session_created
from wsd.slices import Slices

__all__ = ["CLOSE_TIMEOUT", "LIBRARY", "Connection", "Door", "Shared"]

HANDSHAKE_TIMEOUT = 10.0
"""Seconds from accepting a connection to its complete request."""

CLOSE_TIMEOUT = 2.0
"""Seconds for the client to answer a close frame; then the connection is aborted."""

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

_GREETING = text_frame(CONNECTED)

_BUFFER = bytearray(READ_SLICE)
"""Where sockets are read into, all of them: bytes are taken out before the next one is read."""

LIBRARY = logging.getLogger("wsd.websockets")
LIBRARY.setLevel(logging.CRITICAL + 1)
"""For the library, which would log a traceback for each connection. Its bugs are logged here, bounded."""

logger = logging.getLogger(__name__)


class Door(Protocol):
    """Who lets connections in, and sees them out."""

    def admit(self, connection: Connection) -> HandshakeReason | None:
        """Let a client in, or return the reason for which it is refused."""

    def refused(self, connection: Connection) -> None:
        """A handshake was refused; the socket lingers until the client closes."""

    def entered(self, connection: Connection) -> bool:
        """A socket was accepted. Returns whether there is room for it; if not, it is aborted."""

    def left(self, connection: Connection) -> None:
        """A socket is gone."""


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
    refusals: BoundedLogger  # for what clients do wrong
    max_size: int = 65_536  # bytes of a client's message
    origins: tuple[str, ...] = ()  # that browsers may come from; empty if any may
    subprotocols: tuple[str, ...] = ()  # in the order of preference


class _Phase(Enum):
    """How far a connection is; see the table above."""

    HANDSHAKE = 1
    OPEN = 2
    CLOSING = 3
    ENDING = 4
    GONE = 5


class _Protocol(ServerProtocol):
    """The library's protocol, with two rules of its own."""

    def select_subprotocol(self, subprotocols: Sequence[Subprotocol]) -> Subprotocol | None:
        """Select the first of the operator's that the client offers. No common one is no reason to refuse a client."""
        return next((ours for ours in self.available_subprotocols or () if ours in subprotocols), None)

    def recv_frame(self, frame: Frame) -> None:
        """Take a frame. The library calls a close frame between fragments a breach; RFC 6455 (5.4) permits it."""
        if frame.opcode is Opcode.CLOSE:
            self.current_size = None
        super().recv_frame(frame)


class Connection(Writer):
    """A client's socket and its session.

    Args:
        shared: what all connections share.
        protocol: the library's sans-I/O protocol.
        server: the library's server, which has no part in what follows.
        options: the library's options for its own connections; they have no effect.
    """

    # Thousands of these: an instance dictionary of so many names takes 1.5 KiB.
    __slots__ = (
        "_abort_at",
        "_accepted_at",
        "_head",
        "_linger",
        "_message",
        "_message_opcode",
        "_next_ping",
        "_outgoing",
        "_phase",
        "_pong_due",
        "_reading",
        "_shared",
        "protocol",
        "session",
    )

    def __init__(
        self, shared: Shared, protocol: ServerProtocol, server: Server | None = None, **options: object
    ) -> None:
        super().__init__(shared.bounds, shared.sweep)
        self._shared = shared
        protocol.__class__ = _Protocol  # the library makes one of its own class
        self.protocol = cast(_Protocol, protocol)
        self.session: Session | None = None  # from the handshake on
        self._phase = _Phase.HANDSHAKE
        self._accepted_at = shared.sweep.time()
        self._abort_at = self._accepted_at + HANDSHAKE_TIMEOUT  # infinity while the connection is open
        self._next_ping = inf
        self._pong_due = inf  # infinity when no ping is unanswered
        self._head: RequestHead | None = RequestHead()  # until the handshake is answered
        self._linger = MAX_LINGER  # bytes that may still be read of a connection that ends
        self._message: bytearray | None = None  # what has come of a fragmented message
        self._message_opcode = Opcode.TEXT  # of that message
        self._reading = True  # False while we don't read from the socket
        self._outgoing: list[bytes] | None = None  # answers to one slice, written together; None between slices

    # Life and death.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a new socket."""
        super().connection_made(transport)
        if self._shared.door.entered(self):
            self._shared.sweep.schedule(self, self._abort_at)
        else:
            self._refuse_handshake(HandshakeError(HandshakeReason.CROWD))

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        if self._phase is _Phase.HANDSHAKE:
            self._refuse_handshake(HandshakeError(HandshakeReason.EOF if self._head else HandshakeReason.SILENT))
        self._phase = _Phase.GONE
        self._stop_writing()
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
        # The library's parser, and what ended it, refer to the protocol in a circle. Undone, it is freed now; else it
        # waits for the collector, which seldom looks: 5 MiB more after 30,000 clients had come and gone in ten minutes.
        self.protocol.parser.close()
        self.protocol.parser_exc = self.protocol.handshake_exc = None

    def close_with(self, code: Close, reason: str) -> None:
        """Close an open connection; abort it if the client doesn't answer in time.

        Args:
            code: the close code.
            reason: at most 123 bytes of UTF-8 (RFC 6455, section 5.5); the rest is cut off.
        """
        if self._phase is _Phase.OPEN and self.protocol.state is OPEN:
            self.protocol.send_close(code, reason.encode()[:MAX_REASON].decode(errors="ignore"))
            self._end(self.protocol.data_to_send())

    def abort(self) -> None:
        """End the connection at once, without a close frame."""
        self._phase = _Phase.GONE
        self._stop_writing()
        self._shared.sweep.remove(self)
        self.transport.abort()

    def _end(self, last: list[bytes]) -> None:
        """Say the last words and leave: the connection is closing.

        Args:
            last: the close frame, if one is to be sent, and ``b""`` if nothing more is expected from the client.
        """
        self._write_outgoing()
        begins = self._phase is _Phase.OPEN
        self._phase = _Phase.ENDING if b"" in last else _Phase.CLOSING
        if self._phase is _Phase.ENDING:
            self._drop_backlog()  # it isn't wanted any more
            self._start_writing()  # behind the portion in progress: that consists of whole frames
        with suppress(OSError, RuntimeError):  # uvloop raises RuntimeError on a closing transport
            for data in last:
                if data:
                    self.write(data)
                else:
                    self.transport.write_eof()
        if begins:
            self._log_close()
        self._depart()

    def _depart(self) -> None:
        """Leave all topics and send no more frames."""
        self._stop_writing()
        self._next_ping = self._pong_due = inf
        self._abort_at = self._shared.sweep.time() + CLOSE_TIMEOUT
        self._shared.sweep.hasten(self, self._abort_at)
        self._shared.slices.do(self._leave)

    def _leave(self) -> None:
        if self.session is not None:
            self._carry_out(self.session.close())

    def _log_close(self) -> None:
        """Log a close that the client has caused: a bug in it, or an attack. Bugs of the library are logged as bugs."""
        close = self.protocol.close_sent
        if (
            close is None
            or self.protocol.close_rcvd_then_sent
            or close.code in (Close.SERVICE_RESTART, Close.SLOW_CONSUMER)
        ):
            return
        if close.code == Close.INTERNAL_ERROR:
            self._log_bug(self.protocol.parser_exc)
        self._warn(
            f"close {int(close.code)}",
            "closing the connection of %a at %s with %d: %a",
            *(self._subject, self.peer, int(close.code), close.reason),
            subject=self._subject,
            code=int(close.code),
            reason=close.reason,
        )

    def _log_bug(self, exc: Exception | None) -> None:
        self._shared.metrics.internal_errors += 1
        exc = exc or AssertionError("the library gave no reason")
        self._shared.refusals.exception("library", "the library failed on what a client sent", exc=exc)

    def visit(self, now: float) -> float:
        """Act on deadlines that have passed; return the next one. Called by the sweep."""
        session_deadline = inf
        if now >= self._abort_at:
            if self._phase is _Phase.HANDSHAKE:
                self._refuse_handshake(
                    HandshakeError(HandshakeReason.TIMEOUT if self._head else HandshakeReason.SILENT)
                )
            else:
                self.abort()
        elif self.session is not None and self._phase is _Phase.OPEN:
            self._visit_open(self.session, now)
            session_deadline = self.session.deadline
        return min(self._abort_at, session_deadline, self.backlog_deadline, self._next_ping, self._pong_due)

    def _visit_open(self, session: Session, now: float) -> None:
        # Also before its deadline: a token expires by the wall clock, and that may have been set.
        self._carry_out(session.timed_out(now))
        if self._phase is not _Phase.OPEN:
            return
        if self.lagging:
            # A ping would wait behind the backlog; the backlog's own bound tells the dead from the slow.
            self._next_ping = now + self._shared.ping_interval
            if self._pong_due != inf:
                self._pong_due = now + self._shared.ping_timeout
            if now >= self.backlog_deadline:
                self._give_up("age")
        elif now >= self._pong_due and not self._reading:
            # The pong may lie behind requests that we don't read yet, because they came too fast.
            self._pong_due = now + self._shared.ping_timeout
        elif now >= self._pong_due:
            self._shared.metrics.ping_timeouts += 1
            self.abort()
        elif now >= self._next_ping:
            self.write(PING)
            self._next_ping = now + self._shared.ping_interval
            self._pong_due = min(self._pong_due, now + self._shared.ping_timeout)

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
        if self._phase is _Phase.HANDSHAKE:
            data = self._receive_request(data)
        seconds = self._receive(data) if data else 0.0
        if self._phase is _Phase.CLOSING or self._phase is _Phase.ENDING:
            self._linger -= len(data)
            if self._linger <= 0:
                self._pause_reading()  # for good: it will be aborted
                return
        if (seconds or full) and self._phase is not _Phase.GONE:
            self._pause_reading()
            self.loop.call_later(min(seconds, MAX_PAUSE), self._read_on)

    def eof_received(self) -> bool:
        """The client sends nothing more. Returns whether the socket is closed by :meth:`_end_of_stream`, not by uvloop.

        A socket is closed when it has taken what waits, whoever does it.
        """
        if self._phase is _Phase.HANDSHAKE:
            self._refuse_handshake(HandshakeError(HandshakeReason.EOF if self._head else HandshakeReason.SILENT))
            return False
        self._shared.slices.do(self._end_of_stream)
        return True

    def _end_of_stream(self) -> None:
        if self._phase is _Phase.OPEN or self._phase is _Phase.CLOSING:
            self.protocol.receive_eof()
            self._end(self.protocol.data_to_send())
        self.transport.close()

    def _pause_reading(self) -> None:
        self._reading = False
        self.transport.pause_reading()

    def _read_on(self) -> None:
        if self._phase is not _Phase.GONE and not self.transport.is_closing() and self._linger > 0:
            self._reading = True
            self.transport.resume_reading()

    def _receive(self, data: bytes) -> float:
        """Handle frames from the client, or look for its close frame.

        Returns:
            Seconds for which nothing more should be read: 0 if the client is within its rate.
        """
        if self._phase is not _Phase.OPEN and self._phase is not _Phase.CLOSING:
            return 0.0
        seconds = 0.0
        self._outgoing = []
        self.protocol.receive_data(data)
        own = self.protocol.data_to_send()  # the library's: pongs in the order of pings, then what ends the connection
        for event in self.protocol.events_received():
            if self._phase is not _Phase.OPEN:
                break  # behind our close frame
            frame = cast(Frame, event)
            if frame.opcode is Opcode.PING:
                self._outgoing.append(own.pop(0))
            seconds = self._receive_frame(frame)
        self._write_outgoing()
        self._outgoing = None
        if self.protocol.eof_sent and self._phase in (_Phase.OPEN, _Phase.CLOSING):
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
            self._pong_due = inf
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

    # The opening handshake.

    def _receive_request(self, data: bytes) -> bytes:
        """Take a part of the request, and answer it when its head is whole.

        Returns:
            What came behind it and is to be read as frames: nothing unless the handshake is done.
        """
        assert self._head is not None
        try:
            parts = self._head.receive(data)
            if parts is None:
                return b""
            head, rest = parts
            # The library gets no more, because it would answer frames before the handshake.
            self.protocol.receive_data(head)
            events = self.protocol.events_received()
            if not events:
                raise reason_of(self.protocol, self._head.method)
            self._shake_hands(cast(Request, events[0]))
        except HandshakeError as exc:
            self._refuse_handshake(exc)
            return b""
        return rest

    def _shake_hands(self, request: Request) -> None:
        """Accept the opening handshake. The greeting leaves in the same write as the response."""
        shared = self._shared
        response = self.protocol.accept(request)
        if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
            raise reason_of(self.protocol, request.method)
        if reason := shared.door.admit(self):
            raise HandshakeError(reason)
        if self.protocol.subprotocol is None and "Sec-WebSocket-Protocol" in request.headers:
            # The names may hold a token, so they are not logged.
            self._warn(
                "subprotocol",
                "%s offers subprotocols, of which none is in the setting subprotocols; browsers then close",
                self.peer,
            )
        self.protocol.send_response(response)
        # The library's parser holds on to the request; its headers are 2 KiB that nobody will look at.
        request.headers.clear()
        self._head = None
        now = shared.sweep.time()
        self._abort_at = inf
        self._phase = _Phase.OPEN
        self.session = session = Session(shared.authenticator, shared.limits, now)
        if session.state is State.ANONYMOUS:
            self.protocol.max_message_size = min(MAX_UNAUTHORIZED, shared.max_size)
        # A random first interval, so that the pings of a reconnected fleet don't come in step.
        self._next_ping = now + spread(shared.ping_interval)
        shared.sweep.schedule(self, min(self._next_ping, session.deadline))
        shared.metrics.handshakes += 1
        shared.metrics.handshake_seconds.observe(now - self._accepted_at)
        if logger.isEnabledFor(logging.DEBUG):
            self._debug("connected")
        self._start_writing()
        self.write(b"".join((*self.protocol.data_to_send(), _GREETING, text_frame(session_created(session.id)))))

    def _refuse_handshake(self, error: HandshakeError) -> None:
        """Answer with something else than 101 where there is somebody to answer, and end the connection."""
        shared = self._shared
        shared.metrics.refused_handshakes[error.reason] += 1
        status, cause = error.reason.status, error.reason.cause
        if error.reason is HandshakeReason.ERROR:
            self._log_bug(self.protocol.handshake_exc)
        if error.reason is not HandshakeReason.SILENT:
            self._warn(
                f"handshake: {error.reason}",
                "refused a handshake of %s with %s: %s%s",
                *(self.peer, status or "no answer", cause, f" ({error.detail})" if error.detail else ""),
                code=status,
                reason=error.reason,
            )
        method = self._head.method if self._head is not None else ""
        self._head = None
        self._phase = _Phase.ENDING
        self._abort_at = shared.sweep.time() + CLOSE_TIMEOUT
        response = refusal(self.protocol, error, method)
        if response is None:
            self.abort()
            return
        shared.sweep.schedule(self, self._abort_at)
        with suppress(OSError, RuntimeError):  # uvloop raises RuntimeError on a closing transport
            self.transport.write(response.serialize())
            self.transport.write_eof()
        shared.door.refused(self)

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
        for effect in effects:  # grows on the way
            if debug:
                self._debug_effect(effect)
            if session.state is State.CLOSED and isinstance(effect, Wait | Listen):
                continue  # a write on the way has ended the connection, and it has left its topics
            if isinstance(effect, Reply):
                self._reply(effect)
            elif isinstance(effect, Wait):
                if shared.topics.wait(effect.topic, self):
                    effects.extend(session.confirmed(effect.topic))
                elif refusal := shared.topics.refusal(effect.topic):
                    shared.topics.leave(effect.topic, self)
                    effects.extend(session.refused(effect.topic, refusal))
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
            self._shared.metrics.refused_requests[reply.refusal] += 1
            subject = reply.subject or self._subject
            self._warn(
                # A refused token has other remedies than a missing one; both are unauthorized. The reason holds
                # numbers that differ each time: "expired 3.2 s ago".
                # Other reasons hold what the client chose, a topic for one, so they make no kinds.
                re.sub(r"\d[\d.]*", "N", f"unauthorized: {reply.reason}")
                if reply.refusal == UNAUTHORIZED
                else reply.refusal,
                "refused a request of %a at %s: %s %a",
                *(subject, self.peer, reply.refusal, reply.reason),
                subject=subject,
                code=reply.refusal,
                reason=reply.reason,
            )
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

    def _warn(self, kind: str, message: str, *args: object, subject: str | None = None, **values: object) -> None:
        """Log what the client does wrong, bounded by kind and client: its address, and its token's ``sub``.

        Args:
            kind: see :meth:`wsd.logs.BoundedLogger.warning`, as for the message, its arguments and the values.
            subject: the ``sub``; None before there can be one.
        """
        peer = self.peer
        client = peer.rpartition(":")[0]
        if subject is not None:
            values["subject"] = subject
            client = f"{subject!a} at {client}" if subject else client
        self._shared.refusals.warning(kind, message, *args, client=client, peer=peer, **values)

    # Writing.

    def _write_outgoing(self) -> None:
        if self._outgoing:
            data = b"".join(self._outgoing)
            self._outgoing.clear()
            self.write(data)

    def _give_up(self, bound: str) -> None:
        """End a connection that can't keep up. ``bound`` is the one that it passed: bytes or age."""
        shared = self._shared
        shared.metrics.slow_consumers[bound] += 1
        shared.metrics.dropped_bytes += self.backlog_bytes
        self._warn(
            "slow consumer",
            "closing the slow consumer %a at %s: %d bytes wait for it, the oldest for %.1f s",
            *(self._subject, self.peer, self.backlog_bytes, self.backlog_age),
            subject=self._subject,
            code=int(Close.SLOW_CONSUMER),
            bytes=self.backlog_bytes,
            seconds=round(self.backlog_age, 1),
        )
        self._drop_backlog()
        # The close frame goes behind the portion in progress: that consists of whole frames.
        self._start_writing()
        self.close_with(Close.SLOW_CONSUMER, "slow consumer: reconnect and fetch the state anew")
