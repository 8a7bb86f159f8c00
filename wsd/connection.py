"""One client's socket: the library's protocol below, our session above.

``websockets.serve`` makes one :class:`Connection` per accepted socket, and gives it the library's sans-I/O
:class:`~websockets.server.ServerProtocol`. This class is what stands between that and the transport. It takes the place
of the library's ``ServerConnection``, which hands messages through queues to a task per client: here the handshake is
answered and requests are handled where their bytes arrive, and nothing is awaited. A connection has no task at all.

Writing, and what happens when the client can't keep up, is the other half: :mod:`wsd.writer`.

Reading. Bytes are handled in slices of 4 KiB, so that a client that sends thousands of tiny frames in one segment
doesn't hold the loop; a client above its request rate isn't read from until it has earned more.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from math import inf
from typing import Protocol, cast

from websockets.asyncio.server import Server
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import CLOSED, CONNECTING, OPEN
from websockets.server import ServerProtocol
from websockets.typing import BytesLike

from wsd.auth import Authenticator
from wsd.backoff import spread
from wsd.fanout import Bounds, Fanout
from wsd.frames import PING, text_frame
from wsd.logs import BoundedLogger
from wsd.metrics import Metrics
from wsd.protocol import CONNECTED, Close, session_created
from wsd.session import Effect, Leave, Limits, Listen, Reply, Session, State, Wait
from wsd.sweep import Sweep
from wsd.topics import TopicTable
from wsd.writer import Writer

__all__ = ["CLOSE_TIMEOUT", "Connection", "Door", "Shared"]

HANDSHAKE_TIMEOUT = 10.0
"""Seconds from accepting a connection to its complete request."""

MAX_REQUEST = 32768
"""Bytes of an opening handshake, cookies included. The library alone would buffer 1 MiB for each half-open client."""

CLOSE_TIMEOUT = 2.0
"""Seconds for the client to answer a close frame; then the connection is aborted."""

READ_SLICE = 4096
"""Bytes handled before the loop gets a turn. That many bytes can hold 680 empty pings, about 4 ms of work."""

MAX_PAUSE = 5.0
"""Seconds for which nothing is read from a client that is far above its request rate."""

MAX_REASON = 123
"""Bytes of the reason in a close frame: a control frame's 125 less the code (RFC 6455, section 5.5)."""

_GREETING = text_frame(CONNECTED)


class Door(Protocol):
    """Who lets connections in, and sees them out."""

    def admit(self, connection: Connection, request: Request) -> Response | None:
        """Refuse a handshake with a response, or accept it with None."""

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
    metrics: Metrics
    authenticator: Authenticator
    limits: Limits
    ping_interval: float  # seconds
    ping_timeout: float  # seconds
    bounds: Bounds  # of what may wait for a client
    refusals: BoundedLogger  # for what clients do wrong


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
        "_message",
        "_message_opcode",
        "_next_ping",
        "_outgoing",
        "_pong_due",
        "_reading",
        "_request_bytes",
        "_shared",
        "_unread",
        "protocol",
        "session",
    )

    def __init__(self, shared: Shared, protocol: ServerProtocol, server: Server, **options: object) -> None:
        super().__init__(shared.bounds, shared.sweep)
        self._shared = shared
        self.protocol = protocol
        self.session: Session | None = None  # from the handshake on
        self._accepted_at = self._shared.sweep.time()
        self._abort_at = self._accepted_at + HANDSHAKE_TIMEOUT  # infinity while the connection is open
        self._next_ping = inf
        self._pong_due = inf  # infinity when no ping is unanswered
        self._message: bytearray | None = None  # what has come of a fragmented message
        self._message_opcode = Opcode.TEXT  # of that message
        self._request_bytes = 0  # received of the opening handshake
        self._unread = b""  # received, not handled yet
        self._reading = True  # False while we don't read from the socket
        self._outgoing: list[bytes] | None = None  # replies to one slice, written together; None between slices

    # Life and death.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a new socket."""
        super().connection_made(transport)
        if self._shared.door.entered(self):
            self._shared.sweep.schedule(self, self._abort_at)
        else:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self.protocol.receive_eof()  # does nothing the second time; the state becomes CLOSED
        self._depart()
        self._drop_backlog()
        self._unread = b""
        self._shared.sweep.remove(self)
        self._shared.door.left(self)
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
        if self.protocol.state is OPEN:
            self._write_outgoing()
            self.protocol.send_close(code, reason.encode()[:MAX_REASON].decode(errors="ignore"))
            self.send_data()
            self._depart()

    def abort(self) -> None:
        """End the connection at once, without a close frame."""
        self.transport.abort()

    def _depart(self) -> None:
        """Leave all topics and send no more frames: the connection is closing."""
        self._stop_writing()
        self._next_ping = self._pong_due = inf
        self._abort_at = self._shared.sweep.time() + CLOSE_TIMEOUT
        self._shared.sweep.hasten(self, self._abort_at)
        if self.session is not None:
            self._carry_out(self.session.close())

    def visit(self, now: float) -> float:
        """Act on deadlines that have passed; return the next one. Called by the sweep."""
        if now >= self._abort_at:
            self.abort()
        elif self.session is not None and self.protocol.state is OPEN:
            self._visit_open(self.session, now)
        session_deadline = inf if self.session is None else self.session.deadline
        return min(self._abort_at, session_deadline, self.backlog_deadline, self._next_ping, self._pong_due)

    def _visit_open(self, session: Session, now: float) -> None:
        # Also before its deadline: a token expires by the wall clock, and that may have been set.
        self._carry_out(session.timed_out(now))
        if self._abort_at != inf:
            return  # it is closing now
        if self.lagging:
            # A ping would wait behind the backlog; the backlog's own bound tells the dead from the slow.
            self._next_ping = now + self._shared.ping_interval
            if self._pong_due != inf:
                self._pong_due = now + self._shared.ping_timeout
            if now >= self.backlog_deadline:
                self._give_up("age")
        elif now >= self._pong_due:
            self._shared.metrics.ping_timeouts += 1
            self.abort()
        elif now >= self._next_ping:
            self.write(PING)
            self._next_ping = now + self._shared.ping_interval
            self._pong_due = min(self._pong_due, now + self._shared.ping_timeout)

    # Reading.

    def data_received(self, data: bytes) -> None:
        """Handle what the client sent."""
        self._unread = self._unread + data if self._unread else data
        if self._reading:
            self._read_slice()

    def eof_received(self) -> None:
        """The client sends nothing more; uvloop closes the socket when it has taken what waits."""
        self.protocol.receive_eof()
        self.send_data()
        self._depart()

    def _read_slice(self) -> None:
        """Handle one slice; if there is more, or the client must wait, stop reading until later."""
        data, self._unread = self._unread[:READ_SLICE], self._unread[READ_SLICE:]
        seconds = self._receive(data)
        if seconds or self._unread:
            if self._reading:
                self._reading = False
                self.transport.pause_reading()
            self.loop.call_later(min(seconds, MAX_PAUSE), self._read_on)
        elif not self._reading:
            self._reading = True
            self.transport.resume_reading()

    def _read_on(self) -> None:
        if self.transport.is_closing() or self.protocol.state is CLOSED:
            self._unread = b""
        else:
            self._read_slice()

    def _receive(self, data: bytes) -> float:
        """Handle bytes from the client.

        Returns:
            Seconds for which nothing more should be read: 0 if the client is within its rate.
        """
        self._outgoing = []
        seconds = 0.0
        if self.session is None:
            self._request_bytes += len(data)
        self.protocol.receive_data(data)
        for event in self.protocol.events_received():
            if isinstance(event, Frame):
                seconds = self._receive_frame(event)
            else:
                self._shake_hands(cast(Request, event))
        if self._request_bytes > MAX_REQUEST and self.protocol.state is CONNECTING and not self.protocol.eof_sent:
            self._refuse_handshake(
                self.protocol.reject(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "request too long\n")
            )
        self._write_outgoing()
        self._outgoing = None
        self.send_data()  # the library's own: pongs, the close frame
        if self.protocol.state is not OPEN and self._abort_at == inf:
            self._depart()
        return seconds

    def _receive_frame(self, frame: Frame) -> float:
        session = self.session
        if session is None or self._abort_at != inf:
            return 0.0  # behind our close frame
        now = self._shared.sweep.time()
        seconds = session.charge(now)
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

    def _shake_hands(self, request: Request) -> None:
        """Answer the opening handshake. The greeting leaves in the same write as the response."""
        response = self._shared.door.admit(self, request) or self.protocol.accept(request)
        if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
            self._refuse_handshake(response)
            return
        self.protocol.send_response(response)
        # The library's parser holds on to the request; its headers are 2 KiB that nobody will look at.
        request.headers.clear()
        now = self._shared.sweep.time()
        self._abort_at = inf
        self.session = session = Session(self._shared.authenticator, self._shared.limits, now)
        # A random first interval, so that the pings of a reconnected fleet don't come in step.
        self._next_ping = now + spread(self._shared.ping_interval)
        self._shared.sweep.schedule(self, min(self._next_ping, session.deadline))
        self._shared.metrics.handshakes += 1
        self._shared.metrics.handshake_seconds.observe(now - self._accepted_at)
        self._start_writing()
        self.write(b"".join((*self.protocol.data_to_send(), _GREETING, text_frame(session_created(session.id)))))

    def _refuse_handshake(self, response: Response) -> None:
        """Answer with something else than 101, and end the connection. The response leaves with send_data()."""
        self.protocol.send_response(response)
        self._shared.metrics.refused_handshakes[response.status_code] += 1
        self._abort_at = self._shared.sweep.time() + CLOSE_TIMEOUT
        self._shared.sweep.hasten(self, self._abort_at)

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
        for effect in effects:  # grows on the way
            if session.state is State.CLOSED and isinstance(effect, Wait | Listen):
                continue  # a write on the way has ended the connection, and it has left its topics
            if isinstance(effect, Reply):
                self._reply(effect)
            elif isinstance(effect, Wait):
                if shared.topics.wait(effect.topic, self):
                    effects.extend(session.confirmed(effect.topic))
            elif isinstance(effect, Listen):
                shared.topics.listen(effect.topic, self)
            elif isinstance(effect, Leave):
                if session.state is not State.CLOSED:  # then nothing more is written
                    shared.fanout.settle(self)
                shared.topics.leave(effect.topic, self)
            else:
                self.close_with(effect.code, effect.reason)
        shared.sweep.hasten(self, session.deadline)

    def _reply(self, reply: Reply) -> None:
        if reply.refusal:
            self._shared.metrics.refused_requests[reply.refusal] += 1
            subject = reply.subject or (self.session.subject if self.session else "")
            self._shared.refusals.warning(
                # A refused token has other remedies than a missing one; both are unauthorized. The reason holds
                # numbers that differ each time: "expired 3.2 s ago".
                re.sub(r"\d[\d.]*", "N", f"{reply.refusal}: {reply.reason}" if reply.reason else reply.refusal),
                "refused a request of %a at %s: %s %a",
                *(subject, self.peer, reply.refusal, reply.reason),
                client=self._client(subject),
                peer=self.peer,
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

    def _client(self, subject: str) -> str:
        """Who it is, for a bound on lines about one client: its address and its token's ``sub``."""
        address = self.peer.rpartition(":")[0]
        return f"{subject!a} at {address}" if subject else address

    # Writing.

    def _write_outgoing(self) -> None:
        if self._outgoing:
            data = b"".join(self._outgoing)
            self._outgoing.clear()
            self.write(data)

    def send_data(self) -> None:
        """Write what the library wants to send, in its place behind what waits.

        When the connection ends (the library asks for EOF), what waits isn't wanted any more.
        """
        for data in self.protocol.data_to_send():
            if data:
                (self.write if self.session is not None else self.transport.write)(data)
            else:
                self._drop_backlog()
                with suppress(OSError, RuntimeError):  # uvloop raises RuntimeError on a closing transport
                    self.transport.write_eof()

    def _give_up(self, bound: str) -> None:
        """End a connection that can't keep up. ``bound`` is the one that it passed: bytes or age."""
        shared = self._shared
        subject = self.session.subject if self.session else ""
        shared.metrics.slow_consumers[bound] += 1
        shared.metrics.dropped_bytes += self.backlog_bytes
        shared.refusals.warning(
            "slow consumer",
            "closing the slow consumer %a at %s: %d bytes wait for it, the oldest for %.1f s",
            *(subject, self.peer, self.backlog_bytes, self.backlog_age),
            client=self._client(subject),
            peer=self.peer,
            subject=subject,
            code=int(Close.SLOW_CONSUMER),
            bytes=self.backlog_bytes,
            seconds=round(self.backlog_age, 1),
        )
        self._drop_backlog()
        # The close frame goes behind the portion in progress: that consists of whole frames.
        self._start_writing()
        self.close_with(Close.SLOW_CONSUMER, "slow consumer: reconnect and fetch the state anew")
