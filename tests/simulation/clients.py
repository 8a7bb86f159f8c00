"""Clients in the simulated world: each lives by chance, and writes a diary of what it sent and received."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from tests.handover.diary import EXPECTED, Diary, Request
from tests.simulation.loop import Process
from tests.simulation.network import Endpoint, Transport
from tests.simulation.sites import WSD
from tests.simulation.swarm import waits

if TYPE_CHECKING:
    from tests.simulation.world import World

__all__ = ["PORT", "Client", "Connection", "Token"]

PORT = 3000
"""The port of wsd."""

CONNECT_PATIENCE = 30.0
"""Seconds until a client gives up that has not been greeted."""

KEEPALIVE = (20.0, 40.0)
"""Seconds between two pings of a client, at least and at most; without an answer until the next one it goes away, as
libraries do. A client that does not ping never notices that its peer is gone."""

BUGS = frozenset((1002, 1003, 1007, 1008, 1009))
"""Close codes for a client that has a bug, and sends rubbish."""

TOLERATED = ("unavailable",)
"""Codes of errors that any request may be answered with: Redis may be away."""

SUBSCRIBES = (1.0, 20.0)
"""Seconds between two subscriptions of a client, at least and at most."""


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
        client: whose it is.
        diary: what it writes.
    """

    def __init__(self, client: Client, diary: Diary) -> None:
        self.client = client
        self.diary = diary
        self.transport: Transport  # once there is one
        self.made = False  # whether there is one
        self.ready = asyncio.Event()  # set when the greeting has come
        self.over = asyncio.Event()
        self.judged = True  # whether what comes is held against what is promised
        self.excuses: set[int] = set()  # close codes with which the server may end it, whatever else is so
        self.expires = float("inf")  # when its token does, on the wall
        self._permitted: frozenset[str] | None = None  # the topics of its token; None: it has none
        self.since = client.world.loop.now
        self.reading = True  # whether it reads: some stop for a while
        self.lag: tuple[int, float] = (0, 0.0)  # when it ended: bytes, and seconds, that it was behind
        self.late_at = -LATE  # when it last read a message that was so old
        self._world = client.world
        self._random = client.random
        self._protocol = ClientProtocol(parse_uri(f"ws://{WSD}:{PORT}/"), max_size=None)
        self._session = ""
        self._halved = False  # whether the first part of a frame has been sent, into which nothing else may come
        self._tokens: deque[Token] = deque()  # those that nobody has answered yet
        self._refused = False

    @property
    def is_open(self) -> bool:
        """Whether the client may send something now."""
        return self._protocol.state is State.OPEN and not self._halved and not self.over.is_set()

    def peer(self) -> Endpoint | None:
        """The other end of it; None if it is not open yet."""
        return self.transport.endpoint.outgoing.receiver if self.made else None

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
        if request is not None and (not self.diary.owed or self.diary.owed[0] is not request):
            self._check_reply(request, message)
        for problem in self.diary.problems[known:]:
            if self.judged:
                self._world.note(f"PROBLEM {problem}")
        self._world.outcome.messages += 1
        if message.get("action") == "message" and self._world.age(message) > LATE:
            self.late_at = now
        if "session" in message and not self._session:
            self._session = message["session"]
            self.ready.set()
        elif message.get("action") == "session" and self._tokens:
            token = self._tokens.popleft()
            if message["message"] == "session authenticated":
                self.expires, self._permitted = token.expires, token.topics
            elif self.expires == float("inf"):  # it has none yet
                self.excuses.add(4001)
                self._world.loop.call_later(0.5 + self._random.random(), self.authorize)

    def _check_reply(self, request: Request, message: dict[str, Any]) -> None:
        """A subscription is refused if the token does not permit the topic, and only then."""
        if request.action != "subscribe" or self._permitted is None:
            return
        # One that waited for Redis is answered before the tokens that were sent meanwhile.
        permits = {request.context in topics for topics in (self._permitted, *(token.topics for token in self._tokens))}
        said = message.get("code", message.get("message"))
        if (said == "forbidden_topic" and permits == {True}) or (said == "context subscribed" and permits == {False}):
            self.diary.problem(f"{message} answers {request}; the token permits {sorted(self._permitted)}")

    # What it sends.

    def _flush(self) -> None:
        if self._halved:
            return
        for data in self._protocol.data_to_send():
            if data:
                self.transport.write(data)
            elif self.transport.can_write_eof():
                self.transport.write_eof()

    def ask(self, action: str, context: str = "") -> None:
        """Send a request, perhaps in fragments, and perhaps half a frame now and the rest a little later."""
        if not self.is_open:
            return
        number = next(self.client.numbers)
        request = {"action": action, "session": self._session, "id": number}
        if context:
            request["context"] = context
        expected = (*EXPECTED[action], *self._world.refusals(self)) if action != "ping" else ()
        if action == "subscribe":
            expected = (*expected, "forbidden_topic")  # see _check_reply()
        self.diary.asks(action, context if action != "authorization" else "", number, expected)
        text, random = orjson.dumps(request), self._random
        if random.random() < 0.1:
            at = 1 + int(random.random() * (len(text) - 1))
            self._protocol.send_text(text[:at], fin=False)
            self._protocol.send_continuation(text[at:], fin=True)
        else:
            self._protocol.send_text(text)
        data = b"".join(self._protocol.data_to_send())
        if random.random() < 0.1:
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

    def authorize(self) -> None:
        """Send a token."""
        if self.is_open:
            token = self._world.token(self._random)
            self._tokens.append(token)
            self.ask("authorization", token.text)

    def ping(self) -> None:
        """Send a ping of the protocol."""
        if self.is_open:
            payload = b"%d" % next(self.client.numbers)
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

    def read_again(self) -> None:
        """Go on reading."""
        self.reading = True
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


class Client:
    """A client, which connects again whenever its connection has ended.

    Args:
        world: where it lives.
        number: of the client.
        random: of what it does by chance.
        habits: seconds between two times, by what it does.
    """

    def __init__(self, world: World, number: int, random: Random, habits: dict[str, float]) -> None:
        self.world = world
        self.name = f"client-{number}"  # and of the host it runs on
        self.random = random
        self.numbers = itertools.count(1)
        self.process = Process(self.name)
        self.connection: Connection | None = None  # the one that is open, or about to be
        self.connections: list[Connection] = []
        self.calm = False  # whether it does nothing any more but read and ping
        self.silent = False  # whether it does not even ping: what it is owed shall come now
        least, most = SUBSCRIBES
        self._habits = habits | {"subscribes": (least + (most - least) * random.random())}

    def start(self) -> None:
        """Begin to live."""
        self.world.loop.start(self.process, self._live)

    def stop(self) -> None:
        """Go away for good."""
        self.stopped = True
        self.process.on_death.append(self._vanish)
        self.world.loop.kill(self.process)

    def _vanish(self) -> None:
        if self.connection is not None and not self.connection.over.is_set():
            self.connection.diary.leaves()

    async def _live(self) -> None:
        wait = 0.1
        while True:
            connection = self.connection = Connection(self, Diary(f"{self.name}.{len(self.connections)}", TOLERATED))
            if await self._connect(connection):
                self.connections.append(connection)
                wait = 0.1
                keeping = asyncio.ensure_future(self._keep_alive(connection))
                await self._use(connection)
                keeping.cancel()
            self.connection = None
            await asyncio.sleep(wait * (0.5 + self.random.random()))
            wait = min(2 * wait, 10.0)

    async def _connect(self, connection: Connection) -> bool:
        try:
            async with asyncio.timeout(CONNECT_PATIENCE):
                await self.world.network.connect(lambda: connection, WSD, PORT)
                await _first(connection.ready, connection.over)
        except (OSError, TimeoutError):
            connection.vanish()
            return False
        return connection.ready.is_set()

    async def _keep_alive(self, connection: Connection) -> None:
        least, most = (seconds * self.world.swarm.leisure for seconds in KEEPALIVE)
        while True:
            await asyncio.sleep(least + (most - least) * self.random.random())
            unanswered = connection.diary.pings[0] if connection.diary.pings else None
            if not self.silent:
                connection.ping()
            await asyncio.sleep(least)
            if unanswered is not None and connection.reading and unanswered in connection.diary.pings:
                self.world.note(f"{connection.diary.name} hears nothing any more, and goes away")
                connection.vanish()
                return

    async def _use(self, connection: Connection) -> None:
        random = self.random
        acts: dict[str, Callable[[Connection], object]] = {
            "subscribes": self._subscribe,
            "unsubscribes": self._unsubscribe,
            "pings": self._ping,
            "authorizes": self._authorize,
            "leaves": lambda connection: connection.leave(),
            "vanishes": lambda connection: connection.vanish(),
            "stops_reading": lambda connection: connection.stop_reading(30.0 * random.random() * random.random()),
            "reads_slowly": self._read_slowly,
            "sends_rubbish": lambda connection: connection.send_rubbish(),
        }
        rates = {habit: 1 / period for habit, period in self._habits.items()}
        if self.world.swarm.tokens is not None:
            connection.authorize()
        while not connection.over.is_set():
            try:
                async with asyncio.timeout(waits(random, 1 / sum(rates.values()))):
                    await connection.over.wait()
            except TimeoutError:
                at = random.random() * sum(rates.values())
                for habit, rate in rates.items():
                    at -= rate
                    if at < 0:
                        if not self.calm:
                            acts[habit](connection)
                        break

    def _subscribe(self, connection: Connection) -> None:
        topics = self.world.swarm.topics
        connection.ask("subscribe", topics[int(self.random.random() * len(topics))])

    def _unsubscribe(self, connection: Connection) -> None:
        topics = [topic for topic, _ in connection.diary.stretches() if connection.diary.listening(topic)]
        if topics:
            connection.ask("unsubscribe", topics[int(self.random.random() * len(topics))])

    def _ping(self, connection: Connection) -> None:
        if self.random.random() < 0.5:
            connection.ping()
        else:
            connection.ask("ping")

    def _authorize(self, connection: Connection) -> None:
        if self.world.swarm.tokens is not None:
            connection.authorize()

    def _read_slowly(self, connection: Connection) -> None:
        for number in range(20):
            self.world.loop.call_later(number * 0.5, connection.stop_reading, 0.49)


async def _first(*events: asyncio.Event) -> None:
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waiting:
            each.cancel()
