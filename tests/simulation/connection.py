"""A connection of a simulated client: what is sent and received on it, and what of that must not be."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Iterator
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from tests.handover.diary import EXPECTED, GAP, Diary, Request
from tests.simulation.network import Endpoint, Transport
from tests.simulation.sites import WSD

if TYPE_CHECKING:
    from tests.simulation.world import World

__all__ = ["LATE", "PORT", "Connection", "Token"]

PORT = 3000
"""The port of wsd."""

BUGS = frozenset((1002, 1003, 1007, 1008, 1009))
"""Close codes for a client that has a bug, and sends rubbish."""

FLOOD = 800
"""Requests that a client sends at once that sends more than it may."""

MISTAKES = 8
"""Bad requests that a client sends on a connection, at most: with two more it would be closed (max_violations)."""

LATE = 9.0
"""Seconds after which a message is late: wsd ends a connection for which something has waited a second longer."""


class Token(NamedTuple):
    """A token."""

    text: str
    expires: float  # when it is good no more, on the wall
    topics: frozenset[str]  # that it permits


class Connection(asyncio.Protocol):
    """A connection of a client.

    Args:
        world: where.
        diary: what it writes.
        random: of what it does by chance.
        numbers: of its requests.
    """

    def __init__(self, world: World, diary: Diary, random: Random, numbers: Iterator[int]) -> None:
        self.diary = diary
        self.transport: Transport  # once there is one
        self.made = False  # whether there is one
        self.ready = asyncio.Event()  # set when the greeting has come
        self.over = asyncio.Event()
        self.judged = True  # whether what comes is held against what is promised
        self.excuses: set[int] = set()  # close codes with which the server may end it, whatever else is so
        self.expires = float("inf")  # when its token does, on the wall
        self.since = world.loop.now
        self.greeted_at = float("inf")
        self.reading = True  # whether it reads: some stop for a while
        self.still = False  # whether it does not even send
        self.lazy = False  # whether it never authorizes
        self.acts = False  # whether it does what clients do: it has authorized
        self.flooded = False  # whether it has sent more than it may
        self.lag: tuple[int, float] = (0, 0.0)  # when it ended: bytes, and seconds, that it was behind
        self.late_at = -LATE  # when it last read a message that was so old
        self._world = world
        self._random = random
        self._numbers = numbers
        self._permitted: frozenset[str] | None = None  # the topics of its token; None: it has none
        self._protocol = ClientProtocol(parse_uri(f"ws://{WSD}:{PORT}/"), max_size=None)
        self._session = ""
        self._halved = False  # whether the first part of a frame has been sent, into which nothing else may come
        self._tokens: deque[Token] = deque()  # those that nobody has answered yet
        self._refused = False
        self._mistakes = 0  # bad requests that it has sent
        self._replies = (0.0, 0.0)  # when the last two were read, the newer one first
        self._newest = 0  # the serial number of the message that was published last of those that have come

    @property
    def is_open(self) -> bool:
        """Whether the client may send something now."""
        return self._protocol.state is State.OPEN and not (self._halved or self.still or self.over.is_set())

    @property
    def settled(self) -> bool:
        """Whether it reads, and every token that it has sent is answered."""
        return self.reading and not self._tokens and not self.over.is_set()

    def peer(self) -> Endpoint | None:
        """The other end of it; None if it is not open yet."""
        return self.transport.endpoint.outgoing.receiver if self.made else None

    def is_held(self) -> bool:
        """Whether wsd still has the other end."""
        return self.made and self.transport.endpoint.has_peer

    # What comes.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        assert isinstance(transport, Transport)
        self.transport, self.made = transport, True
        self._protocol.send_request(self._protocol.connect())
        self._flush()

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        self._protocol.receive_data(data)
        self._handle()

    def eof_received(self) -> bool:
        """See asyncio."""
        self._protocol.receive_eof()
        self._handle()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        received, now = self._protocol.close_rcvd, self._world.loop.now
        code = received.code if received else None
        self.diary.ended(code, received.reason if received else str(exc or ""), now)
        self.lag = self._world.lag(self)
        if not self.diary.left and not self._refused:
            self._world.note(f"{self.diary.name} has ended with {code} {received.reason if received else exc or ''}")
        self.over.set()

    def _handle(self) -> None:
        now = self._world.loop.now
        for event in self._protocol.events_received():
            if not isinstance(event, Frame):
                continue  # the response to the handshake
            if event.opcode is Opcode.TEXT:
                self._receive(orjson.loads(event.data), now)
            elif event.opcode is Opcode.PONG:
                self.diary.ponged(bytes(event.data))
        self._flush()
        if self._protocol.handshake_exc is not None:
            self._refused = True
            self.transport.abort()

    def _receive(self, message: dict[str, Any], now: float) -> None:
        known = len(self.diary.problems)
        request = self.diary.owed[0] if self.diary.owed else None
        self.diary.received(message, now)
        if self.diary.owed and self.diary.owed[0] is request:
            request = None  # this does not answer it
        if request is not None:
            self._check_reply(request, message)
            self._replies = (now, self._replies[0])
        if message.get("action") == "message":
            self._check_message(message, now)
        elif message.get("action") == "gap":
            self._check_gap(str(message.get("topic")), now)
        for problem in self.diary.problems[known:]:
            if self.judged:
                self._world.note(f"PROBLEM {problem}")
        self._world.outcome.messages += 1
        if "session" in message and not self._session:
            self._session = message["session"]
            self.greeted_at = now
            self.ready.set()
        elif self._tokens and request is not None and request.action == "authorization":
            token = self._tokens.popleft()
            if message.get("message") == "session authenticated":
                self.expires, self._permitted = token.expires, token.topics
            elif self.expires == float("inf"):  # it has none yet
                self.excuses.add(4001)
                self._world.loop.call_later(0.5 + self._random.random(), self.authorize)

    def _check_reply(self, request: Request, message: dict[str, Any]) -> None:
        """A subscription is refused if the token does not permit the topic, and only then."""
        if request.action != "subscribe":
            return
        if message.get("message") == "context subscribed" and self.judged:  # rubbish may have been answered, too
            self._world.has_come(request.context)
        if self._permitted is None:
            return
        # One that waited for Redis is answered before the tokens that were sent meanwhile.
        permits = {request.context in topics for topics in (self._permitted, *(token.topics for token in self._tokens))}
        said = message.get("code", message.get("message"))
        if (said == "forbidden_topic" and permits == {True}) or (said == "context subscribed" and permits == {False}):
            self.diary.problem(f"{message} answers {request}; the token permits {sorted(self._permitted)}")

    def _check_message(self, message: dict[str, Any], now: float) -> None:
        """One Redis delivers in the order of publication, whatever the topics are, and nobody gets what he may not."""
        if self._world.age(message) > LATE:
            self.late_at = now
        if self._permitted is not None and not self._tokens and message.get("topic") not in self._permitted:
            self.diary.problem(f"{message} came, and the token permits only {sorted(self._permitted)}")
        serial = self._world.serial(message)
        if serial and serial < self._newest:
            self.diary.problem(f"{message} came after what was published later, on another topic")
        self._newest = max(self._newest, serial)

    def _check_gap(self, topic: str, now: float) -> None:
        """Whoever has just been told that he is subscribed has missed nothing."""
        stretch = self.diary.listening(topic)
        if self.excuses or now < self._world.calm_since or "the_network_is_bad" in self._world.swarm.faults:
            return  # they may have been sent at different times, and were read at once
        newer, older = self._replies
        if newer != now or newer - older < 2 * self._world.slowest:
            return  # the confirmation may have waited for an earlier reply, and they were read in pieces
        if stretch is not None and stretch.runs == [GAP] and stretch.since == now:
            self.diary.problem(f"a gap of {topic} came with the confirmation of its subscription")

    # What it sends.

    def _flush(self) -> None:
        if self._halved:
            return
        for data in self._protocol.data_to_send():
            if data:
                self.transport.write(data)
            elif self.transport.can_write_eof():
                self.transport.write_eof()

    def ask(self, action: str, context: str = "", expected: Collection[str] = (), *, whole: bool = False) -> None:
        """Send a request, perhaps in fragments, and perhaps half a frame now and the rest a little later.

        Args:
            action: of the request.
            context: the same.
            expected: what the reply may say; by default what is said if all is well.
            whole: whether it goes at once, and in one piece.
        """
        if not self.is_open:
            return
        number = next(self._numbers)
        request = {"action": action, "session": self._session, "id": number}
        if context:
            request["context"] = context
        expected = (*(expected or EXPECTED[action]), *(("rate_limited",) if self.flooded else ()))
        if action != "ping":
            expected = (*expected, *self._world.refusals(self))
        if action == "subscribe":
            expected = (*expected, "forbidden_topic")  # see _check_reply()
        self.diary.asks(action, context if action != "authorization" else "", number, expected)
        text, random = orjson.dumps(request), self._random
        if not whole and random.random() < 0.1:
            at = 1 + int(random.random() * (len(text) - 1))
            self._protocol.send_text(text[:at], fin=False)
            self._protocol.send_continuation(text[at:], fin=True)
        else:
            self._protocol.send_text(text)
        data = b"".join(self._protocol.data_to_send())
        if not whole and random.random() < 0.1:
            at = 1 + int(random.random() * (len(data) - 1))
            self.transport.write(data[:at])
            self._halved = True
            self._world.loop.call_later(2 * random.random(), self._other_half, data[at:])
        else:
            self.transport.write(data)

    def _other_half(self, data: bytes) -> None:
        self._halved = False
        if not self.over.is_set():
            self.transport.write(data)
            self._flush()

    def authorize(self, *, badly: bool = False) -> None:
        """Send a token, or one with a wrong signature: then, what the one before has granted stays."""
        if self.is_open:
            token = self._world.token(self._random)
            self._tokens.append(token)
            if badly:
                self.ask("authorization", f"{token.text[:-4]}AAAA", ("session unauthorized",))
            else:
                self.ask("authorization", token.text)

    def flood(self) -> None:
        """Send far more requests than a client may. Who does so again and again, and reads no reply, is closed."""
        if self.flooded:
            self.excuses.add(1008)
        self.flooded = True
        for _ in range(FLOOD):
            self.ask("ping", whole=True)

    def err(self) -> None:
        """Send a bad request. It is refused in its turn."""
        if self.is_open and self._mistakes < MISTAKES:
            self._mistakes += 1
            if self._random.random() < 0.5:
                self.ask("sing", "", ("unknown_action",))
            else:
                self.ask("subscribe", "no topic", ("invalid_topic",))

    def ping(self) -> None:
        """Send a ping of the protocol."""
        if self.is_open:
            payload = b"%d" % next(self._numbers)
            self.diary.pinged(payload)
            self._protocol.send_ping(payload)
            self._flush()

    def leave(self) -> None:
        """Close the connection as one should."""
        if self.is_open:
            self.diary.leaves()
            self._protocol.send_close(1000)
            self._flush()

    def vanish(self) -> None:
        """End it at once."""
        self.diary.leaves()
        if self.made:
            self.transport.abort()

    def stop_reading(self, seconds: float) -> None:
        """Read nothing for a while."""
        if self.reading:
            self.reading = False
            self.excuses.update((1006, 1012))
            self.transport.pause_reading()
            self._world.loop.call_later(seconds, self.read_again)

    def stand_still(self, seconds: float) -> None:
        """Neither read nor send for so long that wsd should find out."""
        if self.reading and self.is_open:
            self.excuses.update((1006, 1011, 1012, 4008))
            self.reading, self.still = False, True
            self.transport.pause_reading()
            self._world.loop.call_later(seconds, self._go_on, self._world.accident)

    def _go_on(self, accident: float) -> None:
        if self.still and self.is_held() and self._world.accident == accident:
            self._world.problem(f"{self.diary.name} stood still, and wsd has not found out")
        self.read_again()

    def read_again(self) -> None:
        """Go on reading."""
        self.reading, self.still = True, False
        if not self.over.is_set():
            self.transport.resume_reading()

    def send_rubbish(self) -> None:
        """Send what no client should. What comes then is not judged; nobody else may notice."""
        random = self._random
        self.excuses |= BUGS
        self.judged = False
        match int(random.random() * 5):
            case 0:
                self.transport.write(random.randbytes(1 + int(random.random() * 200)))
            case _ if not self.is_open:
                pass
            case 1:
                self._protocol.send_text(random.randbytes(20))
            case 2:
                self._protocol.send_binary(random.randbytes(20))
            case 3:
                self._protocol.send_text(b'{"action":"subscribe","session":"%d","context":[]}' % random.getrandbits(64))
            case 4:
                self._protocol.send_text(b" " * 100_000)
        self._flush()
