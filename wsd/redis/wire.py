"""One connection to a Redis server: its bytes, the login, and which answer belongs to which command.

RESP3 with hiredis for the parser: redis-py's ``PubSub`` costs 5 µs a message, feeding ``hiredis.Reader`` from a
protocol 0.3 µs, and a burst arrives as one batch (see DESIGN.md, "What the libraries really do").

A burst is handled in slices of time. The socket isn't read from while the parser holds something, or while the fan-out
is full (`Wire.hold`): that is backpressure. What Redis has more waits in the sockets and in its output buffer.

Called by the transport (`Wire.data_received`); calls ``on_message`` and ``on_change``, which are methods of `Link`.

Replies carry no numbers; Redis answers in order. ``_commands`` holds what is unanswered, oldest first. A SUBSCRIBE or
UNSUBSCRIBE of n channels is answered by n pushes, or by one error for all of them; every other command by one reply.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from reprlib import Repr
from time import monotonic, perf_counter
from typing import Any, cast

import hiredis

from wsd.deployment import Address
from wsd.errors import LinkError
from wsd.logs import BoundedLogger
from wsd.redis.race import AllFailed, interleave, race
from wsd.redis.slots import key_slot

__all__ = ["CLASSIC", "MESSAGE_MOST", "SHARDED", "Dialect", "Reply", "Wire", "bugs", "connect", "public"]

CONNECT_TIMEOUT = 5.0
"""Seconds for connecting, TLS and HELLO together, unless the heartbeat is shorter."""

ATTEMPT_DELAY = 0.25
"""Seconds until the next address of a name is tried beside the one before (RFC 8305, section 5)."""

ADDRESSES_MOST = 8
"""Addresses of a name that are tried. All of them are begun within half of `CONNECT_TIMEOUT`."""

REPLY_MOST = 16_777_216
"""Bytes of one reply, until a link has come up. The largest that is right is CLUSTER SLOTS: 16,384 slots that belong to
another node each."""

MESSAGE_MOST = 512 * 1_048_576 + REPLY_MOST
"""Bytes of one message or reply after that: a payload of 512 MiB, the largest that Redis takes (proto-max-bulk-len)."""

ELEMENTS_MOST = 1_048_576
"""Elements of one reply. CLUSTER SLOTS, the longest, has 16,384 at most."""

BUG_LOG_RATE = 1 / 30
"""Lines a second of each kind of bug; each has a traceback."""

Reply = Any
"""What hiredis makes of a reply; an error is a ``hiredis.ReplyError``."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """The words of one of Redis's two kinds of Pub/Sub."""

    subscribe: str
    unsubscribe: str
    publish: str
    numsub: str  # of PUBSUB: how many subscribers a channel has
    message: bytes  # kinds of pushes
    subscribed: bytes
    unsubscribed: bytes
    count: str  # in CLIENT INFO: how many subscriptions the connection has
    by_slot: bool  # whether the channels of one command must belong to one slot


CLASSIC = Dialect(
    "SUBSCRIBE", "UNSUBSCRIBE", "PUBLISH", "NUMSUB", b"message", b"subscribe", b"unsubscribe", "sub", by_slot=False
)
SHARDED = Dialect(
    "SSUBSCRIBE",
    "SUNSUBSCRIBE",
    "SPUBLISH",
    "SHARDNUMSUB",
    b"smessage",
    b"ssubscribe",
    b"sunsubscribe",
    "ssub",
    by_slot=True,
)


class _Command:
    """A command that Redis hasn't answered yet."""

    __slots__ = ("key", "name", "on_reply", "sent_at", "waiting")

    def __init__(
        self, name: str, on_reply: Callable[[Reply], object], channels: Iterable[bytes], key: bytes, sent_at: float
    ) -> None:
        self.name = name
        self.sent_at = sent_at
        self.on_reply = on_reply
        self.waiting = dict.fromkeys(channels)  # the channels that are unanswered, in order
        self.key = key  # decides the slot, for commands that have one; else empty


READ_SLICE = 0.002
"""Seconds of handling what Redis sent before the loop gets a turn."""

READ_STEP = 16
"""Messages between two looks at the clock; one takes 1 to 2 µs, a look 40 ns. Together they hold no more than what
uvloop hands over at a time, 256 KiB, unless one is longer."""

SHOWN_MOST = 200  # letters of a reply that are shown to people

_UNREADABLE = (hiredis.HiredisError, MemoryError, OverflowError, RecursionError, TypeError, ValueError)
"""What the parser raises: also of an array longer than the memory, or of a map whose keys are arrays."""

_NOTHING = object()  # what the parser returns when it needs more data

_AGGREGATES = (b"*", b"~", b">", b"%", b"|")
"""The first byte of a reply that has elements. https://redis.io/docs/latest/develop/reference/protocol-spec/"""

logger = logging.getLogger(__name__)
bugs = BoundedLogger(logger, rate=BUG_LOG_RATE)  # for all who handle what comes from Redis


class Wire(asyncio.Protocol):
    """A connection to a server.

    Args:
        dialect: which pushes to look for.
        on_message: called with channel and payload.
        on_change: called with a channel, whether it is subscribed now, and whether a command asked for that.
    """

    def __init__(
        self,
        dialect: Dialect,
        on_message: Callable[[bytes, bytes], None],
        on_change: Callable[[bytes, bool, bool], None],
    ) -> None:
        self._dialect = dialect
        self._on_message = on_message
        self._on_change = on_change
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._commands: deque[_Command] = deque()  # unanswered, oldest first
        self._held = False  # whether nothing more should be handled for now
        self._paused_at: float | None = None  # since when we don't read from the socket; None: we do
        self._paused = 0.0  # seconds for which we did not
        self._lost: tuple[Exception | None] | None = None  # how the connection ended, while something is to be handled
        self._output: list[bytes] = []  # commands that leave at the end of this pass, in one write
        self.received_at = monotonic()  # when Redis last sent anything
        # True for fakeredis (`wsd dev`): it answers HELLO 3, but as in RESP2 a subscribed connection may send PING
        # alone. So nothing is probed or audited.
        self.is_fakeredis = False
        self._unfinished = 0  # bytes at least that have come of something that isn't whole yet
        self.reply_most: float = REPLY_MOST  # how many they may be
        self.closed: asyncio.Future[str] = self._loop.create_future()  # with the reason
        self.given_up = False  # whether it was closed from this side
        self.torn = False  # whether it was closed from the other side in the middle of something
        self.stumbled = False  # whether it was closed because of a bug

    # Commands.

    def send(
        self,
        name: str,
        *words: str | bytes,
        on_reply: Callable[[Reply], object],
        channels: Iterable[bytes] = (),
        key: bytes = b"",
    ) -> None:
        """Send a command, with others of this pass in one write.

        Args:
            name: the command.
            words: its arguments.
            on_reply: called with the reply; of a command with channels only with an error.
            channels: more arguments: channels whose subscription changes.
            key: the channel that decides the slot, if it is one of ``words``.
        """
        command = _Command(name, on_reply, channels, key, self._reading_time(monotonic()))
        self._commands.append(command)
        if not self._output:
            self._loop.call_soon(self.flush)
        # Its stub lacks the "...".
        self._output.append(hiredis.pack_command((name, *words, *command.waiting)))  # type: ignore[arg-type]

    async def ask(self, name: str, *words: str | bytes) -> Reply:
        """Send a command and wait for its reply.

        Raises:
            LinkError: if the connection is lost before.
        """
        answer: asyncio.Future[Reply] = self._loop.create_future()
        self.send(name, *words, on_reply=answer.set_result)
        await asyncio.wait((answer, self.closed), return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise LinkError(self.closed.result())
        return answer.result()

    @property
    def unanswered(self) -> str:
        """The oldest command that is unanswered, or ``""``."""
        return self._commands[0].name if self._commands else ""

    def waiting(self, now: float) -> float:
        """For how many seconds that command has been unanswered, while we read what Redis sends."""
        return self._reading_time(now) - self._commands[0].sent_at if self._commands else 0.0

    def _reading_time(self, now: float) -> float:
        """A clock that stands still while we don't read."""
        return (now if self._paused_at is None else self._paused_at) - self._paused

    def stood_still(self, seconds: float) -> None:
        """Nothing was read for so long, because our event loop stood still."""
        if self._paused_at is None:  # else that counts already
            self._paused += seconds

    @property
    def behind(self) -> bool:
        """Whether something that Redis sent waits for us to handle it. Then silence tells nothing about Redis."""
        return self._paused_at is not None

    def hold(self, full: bool) -> None:
        """Handle nothing more until called with False, because the fan-out is full.

        Some messages that have come already are handled all the same: those of a step.
        """
        self._held = full
        if full and not self._transport.is_closing():
            self._pause()
        elif not full and self.behind:
            self._loop.call_soon(self.read_on)

    def limit_unacknowledged(self, seconds: float) -> None:
        """Let the kernel end the connection when the other host acknowledges for so long nothing of what is sent.

        See TCP_USER_TIMEOUT in tcp(7). A Unix socket has nothing like it, and needs nothing.
        """
        if self._transport.is_closing():
            return
        sock: socket.socket = self._transport.get_extra_info("socket")
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))

    def fail(self, reason: str) -> None:
        """Give the connection up."""
        self.given_up = True
        if not self.closed.done():
            self.closed.set_result(reason)
        self._transport.abort()

    def flush(self) -> None:
        """Write the commands of this pass now. Without it they leave in the next turn of the loop."""
        output, self._output = self._output, []
        if output and not self._transport.is_closing():
            self._transport.write(b"".join(output))

    # What the transport says.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transport is no subclass, but has the methods

    def connection_lost(self, exc: Exception | None) -> None:
        if self.behind and not self.given_up:
            self._lost = (exc,)  # what came before is handled first
        else:
            self._end(exc)

    def _end(self, exc: Exception | None) -> None:
        self.torn = not self.given_up and self._reader.has_data()
        if not self.closed.done():
            self.closed.set_result(
                f"connection lost: {exc}" if exc else "Redis closed the connection; its log may say why"
            )

    def data_received(self, data: bytes) -> None:
        self._unfinished += len(data)
        try:
            if b"\r" not in data[:7] and data[:1] in _AGGREGATES and not self._reader.has_data():
                _check_count(data)  # a count of six digits or more
            self._reader.feed(data)
        except LinkError as exc:
            self.fail(str(exc))
        except _UNREADABLE as exc:
            self.fail(f"Redis sent what can't be read: {str(exc) or type(exc).__name__}")
        else:
            self._handle()

    def _handle(self) -> None:
        """Handle what has come, for a slice of time; go on when the loop has had its turn."""
        self.received_at = monotonic()
        gets = self._reader.gets
        message = self._dialect.message
        changes = (self._dialect.subscribed, self._dialect.unsubscribed)
        deadline = perf_counter() + READ_SLICE
        left = READ_STEP
        try:
            while True:
                try:
                    item = gets()
                except _UNREADABLE as exc:
                    raise LinkError(f"Redis sent what can't be read: {str(exc) or type(exc).__name__}") from None
                if item is _NOTHING:
                    break
                self._unfinished = 0
                # Pushes are told by their content, not by their type, because fakeredis sends them as plain arrays.
                kind = item[0] if isinstance(item, list) and item else None
                if kind == message and len(item) == 3 and type(item[1]) is type(item[2]) is bytes:
                    self._on_message(item[1], item[2])
                elif kind in changes and len(item) > 1 and type(item[1]) is bytes:
                    self._receive_change(item[1], kind == self._dialect.subscribed)
                elif kind == message or kind in changes:
                    raise LinkError(f"Redis sent a message that is none: {public(item)}")
                else:
                    self._receive_reply(item)
                    if self.given_up:
                        return  # for what it has said: what it says behind that counts no more
                left -= 1
                if not left:
                    left = READ_STEP
                    if self._held or perf_counter() >= deadline:
                        self._pause()
                        return
            if self._unfinished > self.reply_most:
                raise LinkError(f"Redis sent more than {self.reply_most} bytes that belong to one reply")
        except LinkError as exc:
            self.fail(str(exc))
        except Exception as exc:
            # Not left to the loop's handler, because a burst is handled outside of the transport's call: the link would
            # stay paused for ever.
            self.stumbled = True
            bugs.exception(f"reply: {type(exc).__name__}", "what Redis sent could not be handled")
            self.fail(f"what Redis sent could not be handled, because of a bug: {str(exc) or type(exc).__name__}")
        else:
            if not self._held:  # else what comes next, however little it is, waits, too
                self._resume()

    def _pause(self) -> None:
        """Don't read from the socket until what has come is handled."""
        if self._paused_at is None:
            self._paused_at = monotonic()
            self._transport.pause_reading()
        if not self._held:
            self._loop.call_soon(self.read_on)

    def read_on(self) -> None:
        """Go on with what has come."""
        if self.behind and not self._held and not self.given_up:
            self._handle()

    def _resume(self) -> None:
        if self._paused_at is None:
            return
        self._paused += monotonic() - self._paused_at
        self._paused_at = None
        if self._lost is not None:
            self._end(*self._lost)
        elif not self._transport.is_closing():
            self._transport.resume_reading()

    def _receive_change(self, channel: bytes, subscribed: bool) -> None:
        commands = self._commands
        asked = bool(commands) and channel in commands[0].waiting
        if asked:
            del commands[0].waiting[channel]
            if not commands[0].waiting:
                commands.popleft()
        self._on_change(channel, subscribed, asked)

    def _receive_reply(self, reply: Reply) -> None:
        if isinstance(reply, hiredis.PushNotification):
            return  # of a kind that we have not asked for
        commands = self._commands
        if isinstance(reply, hiredis.ReplyError) and self._is_second_answer(str(reply)):
            return
        if not commands:
            raise LinkError(f"Redis sent something that nobody asked for: {public(reply)}")
        commands.popleft().on_reply(reply)

    def _is_second_answer(self, error: str) -> bool:
        """Whether an error belongs to a command whose answer seemed complete.

        A slot moves while an SUNSUBSCRIBE for it is on its way: first Redis takes the channels away by itself, with the
        very pushes that would answer the command, and then it answers the command with MOVED.
        """
        if not error.startswith("MOVED "):
            return False
        command = self._commands[0] if self._commands else None
        key = (next(iter(command.waiting), b"") or command.key) if command is not None else b""
        return not key or error.split(" ")[1] != str(key_slot(key))


async def connect(address: Address, make_wire: Callable[[], Wire], patience: float) -> tuple[Wire, dict[str, str]]:
    """Connect and log in.

    Args:
        address: the server.
        make_wire: makes the protocol.
        patience: seconds for all of it.

    Returns:
        The connection, and what the server says of itself, for people: at least its ``server``, ``version``, ``mode``,
        ``role`` if it is a Redis.

    Raises:
        LinkError: if Redis refuses.
        OSError: if it can't be reached; ssl.SSLError is one.
    """
    patience = min(patience, CONNECT_TIMEOUT)
    attempt = _Attempt(address, make_wire)
    try:
        async with asyncio.timeout(patience):
            return await attempt.run()
    except TimeoutError:
        # A Redis without TLS waits for the end of what it takes for a command.
        asked = "connection" if address.tls is None else "connection with TLS"
        did = "answer to HELLO" if attempt.connected else asked
        raise LinkError(f"no {did} within {patience:g} s") from None
    except OSError:
        raise
    except ValueError as exc:  # from the resolver's codec, for example
        raise LinkError(f"there is no way to connect to it: {exc}") from None


class _Attempt:
    """An attempt to connect to a server and to log in, at all the addresses that its name has.

    Args:
        address: the server.
        make_wire: makes the protocol.
    """

    def __init__(self, address: Address, make_wire: Callable[[], Wire]) -> None:
        self._address = address
        self._make_wire = make_wire
        self._loop = asyncio.get_running_loop()
        self._tls: ssl.SSLContext | None = None
        self.connected = False  # whether one of the addresses has let us connect

    async def run(self) -> tuple[Wire, dict[str, str]]:
        """Return what `connect` does."""
        if self._address.path:
            return await self._log_in(self._loop.create_unix_connection(self._make_wire, self._address.path))
        if self._address.tls is not None:
            self._tls = await asyncio.to_thread(self._address.tls.renewed)
        first, *others = hosts = await self._resolve()
        if not others:
            return await self._enter(first)
        attempts = [partial(self._enter, host) for host in hosts]
        try:
            return await race(attempts, ATTEMPT_DELAY, lambda entered: entered[0].fail("another address was quicker"))
        except AllFailed as exc:
            bug = next((reason for reason in exc.reasons if not isinstance(reason, LinkError | OSError)), None)
            if bug is not None:
                raise bug from None
            texts = [f"{host}: {reason}" for host, reason in zip(hosts, exc.reasons, strict=True)]
            raise LinkError("; ".join(texts)) from None

    async def _resolve(self) -> list[str]:
        if ":" in self._address.host:
            return [self._address.host]  # an IPv6 address; uvloop's resolver would lose its zone
        found = await self._loop.getaddrinfo(self._address.host, self._address.port, type=socket.SOCK_STREAM)
        # A name's zone stands beside the address: a link-local one means nothing without it.
        hosts = [
            (int(family), f"{place[0]}%{place[3]}" if len(place) > 3 and place[3] else str(place[0]))
            for family, _, _, _, place in found
        ]
        if not hosts:
            raise LinkError("its name has no address")
        return interleave(hosts)[:ADDRESSES_MOST]

    async def _enter(self, host: str) -> tuple[Wire, dict[str, str]]:
        connecting = self._loop.create_connection(
            self._make_wire,
            host,
            self._address.port,
            ssl=self._tls,
            server_hostname=self._address.host if self._tls is not None else None,
        )
        try:
            return await self._log_in(connecting)
        except (ssl.SSLError, ConnectionResetError) as exc:
            if self._tls is not None and _speaks_no_tls(exc):
                raise LinkError("it closed the TLS handshake; a port without TLS is redis:// in redis_url") from None
            raise

    async def _log_in(self, connecting: Awaitable[tuple[object, Wire]]) -> tuple[Wire, dict[str, str]]:
        _, wire = await connecting
        self.connected = True
        try:
            server = await _log_in(wire, self._address)
        except BaseException:
            wire.fail("could not log in")
            raise
        wire.is_fakeredis = server.get("server") == "fakeredis"
        return wire, server


def _speaks_no_tls(exc: OSError) -> bool:
    # A server that takes the handshake for rubbish answers in its own way, or closes; then the error has no text.
    if isinstance(exc, ssl.SSLError):
        return isinstance(exc, ssl.SSLEOFError) or exc.reason in ("WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG")
    return not exc.errno


async def _log_in(wire: Wire, address: Address) -> dict[str, str]:
    # https://redis.io/docs/latest/commands/hello/
    reply = await wire.ask("HELLO", "3", *address.login, "SETNAME", address.client_name)
    if isinstance(reply, hiredis.ReplyError):
        raise LinkError(_why_hello_failed(str(reply), address))
    if not isinstance(reply, dict):
        raise LinkError(f"Redis answered HELLO with {public(reply)}, which is not RESP3")
    return {
        public(key): public(value)
        for key, value in reply.items()
        if isinstance(key, bytes) and isinstance(value, bytes)
    }


def _check_count(data: bytes) -> None:
    """Refuse a reply that says it has more elements than any has.

    hiredis makes a list of that length at once. A list of 2,000,000,000 elements takes no memory while it is empty, but
    the garbage collector walks over it for 9 s.

    Raises:
        LinkError: if it says so.
    """
    count = data[1 : data.find(b"\r")] if b"\r" in data[:32] else data[1:32]
    if len(count) > 18 or (count.isdigit() and int(count) > ELEMENTS_MOST):
        raise LinkError(f"Redis sent what can't be read: a reply of {public(count)} elements")


def public(reply: object) -> str:
    """A reply of Redis for people: bounded, and without control characters."""
    if isinstance(reply, bytes):
        text = reply[:SHOWN_MOST].decode("utf-8", "replace")
    else:
        text = str(reply) if isinstance(reply, str | int | float | Exception) else _SHORT.repr(reply)
    return ascii(text[:SHOWN_MOST])[1:-1]


_SHORT = Repr()  # of a list of a million replies it writes the first few
_SHORT.maxother = _SHORT.maxstring = SHOWN_MOST


def _why_hello_failed(error: str, address: Address) -> str:
    """Say why Redis refused HELLO. Its own text is not repeated: an old Redis quotes the command, password included."""
    if error.startswith("WRONGPASS") and not address.password:
        return "Redis wants a password of the user that redis_url names; put it there, or give the user nopass in Redis"
    reasons = {
        "WRONGPASS": "Redis refuses the user or the password; check redis_url",
        "NOAUTH": "Redis asks for a password; put it into redis_url",
        "NOPERM": "the Redis user may not say HELLO; permit it +@connection +@pubsub",
        "DENIED": "Redis runs in protected mode and refuses other hosts; give it a password, or bind it to this one",
        "LOADING": "Redis is loading its data",
        "MASTERDOWN": "the replica has lost its master and serves nothing",
        "NOPROTO": "Redis does not speak RESP3; version 6.0 or later is needed",
    }
    code = error.split(" ", 1)[0]
    if code in reasons:
        return reasons[code]
    if "max number of clients" in error:
        return "Redis has as many clients as it may; raise its maxclients"
    if "unknown command" in error:
        return "Redis does not know HELLO; version 6.0 or later is needed"
    return f"Redis answered HELLO with the error {public(code)}"
