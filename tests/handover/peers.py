"""Clients by hand, which do what no library lets one do: send half a frame, read slowly, read nothing.

Each kind has a life that it lives until it is told to stop, and two moments: :meth:`Peer.poise`, right before
something happens to the daemon, and :meth:`Peer.go_on`, after it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import orjson

from tests.faults.ledger import split_frames
from tests.handover.diary import Diary
from tests.lib.clients import CLOSE, PING, PONG, TEXT, Client, Closed, frame
from tests.lib.waiting import PATIENCE

__all__ = [
    "Churner",
    "Fragmenter",
    "Halver",
    "Laggard",
    "Listener",
    "Peer",
    "Pinger",
    "Reauthorizer",
    "Sleeper",
    "Visitor",
    "World",
]


@dataclass(frozen=True)
class World:
    """What clients have to do with.

    Args:
        port: where the daemon listens for clients.
        topics: with numbers; the last ones have long messages.
        token: signs a fresh token that permits these topics.
        seed: of what is done by chance.
        tolerated: codes of errors that requests may be answered with.
    """

    port: int
    topics: Sequence[str]
    token: Callable[[Sequence[str]], str]
    seed: int
    tolerated: Collection[str] = ()


class Peer:
    """A client that writes its diary.

    Args:
        world: what it has to do with.
        name: of its diary.
        receive_buffer: bytes that the kernel keeps for it; 0 for as many as it likes.
    """

    def __init__(self, world: World, name: str, receive_buffer: int = 0) -> None:
        self.world = world
        self.name = name
        self.random = random.Random(f"{world.seed} {name}")
        self.diary = Diary(name, world.tolerated)
        self._ids = itertools.count(1)
        self._receive_buffer = receive_buffer
        self._came = asyncio.Event()  # something has come since somebody looked
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._half_sent = False  # whether half a frame has been sent, into which nothing else may come
        self._pongs: list[bytes] = []  # that are due then
        self._over = False  # whether its life is to end
        self._newest: Client
        self._reading: asyncio.Task[None]
        self._living: asyncio.Task[None]

    @property
    def diaries(self) -> list[Diary]:
        """What it wrote down, in all connections that it had."""
        return [self.diary]

    @property
    def gone(self) -> bool:
        """Whether the server has closed it, and it does not come again."""
        return self.diary.end is not None

    @property
    def port(self) -> int:
        """That of its socket, the one that it connects with now included; 0 if it never had one."""
        return self._newest.local_port

    async def __aenter__(self) -> Self:
        await self.connect()
        try:
            await self.prepare()
        except BaseException:
            self._living = self._reading
            await self.__aexit__(None, None, None)
            raise
        self._living = asyncio.create_task(self.live())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.diary.leaves()
        self._living.cancel()
        self._reading.cancel()
        for result in await asyncio.gather(self._living, self._reading, return_exceptions=True):
            if isinstance(result, Exception):
                self.diary.problem(f"{type(result).__name__}: {result}")
        self.client.writer.transport.abort()

    async def connect(self) -> None:
        """Connect, and begin to read.

        Raises:
            Closed: if it is not let in.
        """
        client = self._newest = Client(self.world.port, receive_buffer=self._receive_buffer)
        try:
            await client.__aenter__()
        except (OSError, EOFError, AssertionError) as exc:
            raise Closed(None, f"not let in: {type(exc).__name__}: {exc}") from None
        self.client = client
        self.diary.greeted()
        self._reading = asyncio.create_task(self._read(self.client, self.diary))

    # What a kind of peer does.

    async def prepare(self) -> None:
        """Do what must be done before anything happens."""
        await self.authorize()

    async def live(self) -> None:
        """Live while it is :attr:`going`."""

    @property
    def going(self) -> bool:
        """Whether its life goes on."""
        return not self._over and self.diary.end is None

    async def poise(self) -> None:
        """Get ready for what happens to the daemon."""

    async def go_on(self) -> None:
        """It has happened."""

    async def settle(self) -> None:
        """Come to rest: nothing is owed, and everything is read."""
        await self.stop_living()
        await self.until(lambda: not self.diary.owed and not self.diary.pings)

    async def stop_living(self) -> None:
        """Do nothing more but read."""
        self._over = True
        with suppress(Exception):  # told when it is left
            await self._living

    async def catch_up(self, closed: Mapping[str, int]) -> None:
        """Read until a number beyond these has come on every topic that it is subscribed to."""
        await self.until(lambda: self.diary.is_beyond(closed))

    # Reading.

    async def _read(self, client: Client, diary: Diary) -> None:
        rest = b""
        code, reason = None, ""
        with suppress(OSError):
            while data := await client.reader.read(65_536):
                frames, rest = split_frames(rest + data)
                now = time.monotonic()
                for opcode, payload in frames:
                    if opcode == TEXT:
                        diary.received(orjson.loads(payload), now)
                    elif opcode == PING:
                        self._pongs.append(payload)
                        self._answer_pings()
                    elif opcode == PONG:
                        diary.ponged(payload)
                    elif opcode == CLOSE:
                        code, reason = int.from_bytes(payload[:2], "big"), payload[2:].decode()
                    else:
                        diary.problem(f"a frame of kind {opcode}: {payload!r}")
                self._came.set()
                if code is not None:
                    break
                await self._may_read.wait()
        diary.ended(code, reason, time.monotonic())
        self._came.set()
        if code is not None:
            client.writer.close()

    def send(self, data: bytes) -> None:
        """Send bytes. What can't be sent is found by who reads: the connection has ended."""
        with suppress(RuntimeError):  # uvloop's, of a transport that is closed
            self.client.writer.write(data)

    def _answer_pings(self) -> None:
        if not self._half_sent:
            for payload in self._pongs:
                self.send(frame(PONG, payload))
            self._pongs.clear()

    async def until(self, condition: Callable[[], bool], patience: float = PATIENCE) -> bool:
        """Wait for what reading brings about; return whether it came true. The end of the connection ends the wait."""
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while not condition() and self.diary.end is None:
                    self._came.clear()
                    await self._came.wait()
        return condition()

    def pause_reading(self) -> None:
        """Read nothing more."""
        self._may_read.clear()

    def resume_reading(self) -> None:
        """Read on."""
        self._may_read.set()

    # Asking.

    def encode(self, action: str, context: str = "", expected: Collection[str] = ()) -> bytes:
        """Note a request, and return it."""
        number = next(self._ids)
        self.diary.asks(action, context, number, expected)
        return json.dumps(
            {"action": action, "id": number}
            if action == "ping"
            else {"action": action, "session": self.client.session, "context": context, "id": number}
        ).encode()

    def ask(self, action: str, context: str = "", expected: Collection[str] = ()) -> None:
        """Send a request."""
        self.send(frame(TEXT, self.encode(action, context, expected)))

    async def answered(self) -> bool:
        """Wait until no reply is owed; return whether that is so."""
        return await self.until(lambda: not self.diary.owed)

    async def authorize(self, topics: Sequence[str] = ("*",)) -> None:
        """Send a fresh token, and wait for the reply."""
        self.ask("authorization", self.world.token(topics))
        await self.answered()

    async def subscribe(self, *topics: str) -> None:
        """Subscribe, and wait for the replies."""
        for topic in topics:
            self.ask("subscribe", topic)
        await self.answered()

    async def pause(self, least: float, most: float) -> None:
        """Do nothing for a while."""
        await asyncio.sleep(self.random.uniform(least, most))

    def some(self, count: int) -> list[str]:
        """Some topics."""
        return self.random.sample(list(self.world.topics), count)


class Listener(Peer):
    """Subscribes to some topics, and listens."""

    def __init__(self, world: World, name: str, topics: Sequence[str]) -> None:
        super().__init__(world, name)
        self._topics = topics

    async def prepare(self) -> None:
        """See :meth:`Peer.prepare`."""
        await super().prepare()
        await self.subscribe(*self._topics)


class Churner(Peer):
    """Subscribes and unsubscribes all the time, several at once, and some twice."""

    async def live(self) -> None:
        """See :meth:`Peer.live`."""
        while self.going:
            for topic in self.some(self.random.randint(1, 4)):
                action = "subscribe" if self.diary.listening(topic) is None else "unsubscribe"
                if self.random.random() < 0.1:
                    self.ask("subscribe", topic)
                    self.ask("unsubscribe", topic)
                    action = "subscribe"
                self.ask(action, topic)
            if self.random.random() < 0.7:
                await self.answered()
            await self.pause(0.04, 0.12)


class Reauthorizer(Peer):
    """Sends fresh tokens, which permit everything and half of it in turn."""

    async def prepare(self) -> None:
        """See :meth:`Peer.prepare`."""
        topics = self.some(6)
        self._lasting, self._passing = topics[:3], topics[3:]
        await super().prepare()
        await self.subscribe(*topics)

    async def live(self) -> None:
        """See :meth:`Peer.live`."""
        while self.going:
            await self.authorize(self._lasting)
            self.ask("subscribe", self.random.choice(self._passing), ("forbidden_topic",))
            await self.answered()
            await self.pause(0.01, 0.1)
            await self.authorize()
            await self.subscribe(*self._passing)
            await self.pause(0.02, 0.15)

    async def settle(self) -> None:
        """See :meth:`Peer.settle`."""
        await super().settle()
        await self.authorize()


class Pinger(Peer):
    """Sends pings of both kinds, a few ahead of the replies."""

    async def prepare(self) -> None:
        """See :meth:`Peer.prepare`."""
        await super().prepare()
        await self.subscribe(*self.some(3))

    async def live(self) -> None:
        """See :meth:`Peer.live`."""
        for number in itertools.count():
            if not self.going:
                return
            payload = b"ping %d" % number
            self.diary.pinged(payload)
            self.send(frame(PING, payload))
            self.ask("ping")
            if number % 3 == 0:
                await self.until(lambda: not self.diary.pings and not self.diary.owed)
            await self.pause(0.02, 0.08)


SPLITS = (1, 2, 3, 5, 8, 20)
"""Bytes of a frame that are sent first: a client's short header has 2 bytes and a mask of 4."""


class Halver(Peer):
    """Sends half a frame before it happens, and the rest after it.

    Args:
        split: bytes that it sends first.
        early: whether the daemon has time to read them before it happens.
    """

    def __init__(self, world: World, name: str, split: int, *, early: bool) -> None:
        super().__init__(world, name)
        self._split = split
        self._early = early
        self._rest = b""

    async def prepare(self) -> None:
        """See :meth:`Peer.prepare`."""
        await super().prepare()
        self._topics = self.some(3)
        await self.subscribe(*self._topics[:2])

    async def poise(self) -> None:
        """See :meth:`Peer.poise`."""
        if self.diary.end is not None:
            return
        topic = self._topics[2]
        action = "subscribe" if self.diary.listening(topic) is None else "unsubscribe"
        data = frame(TEXT, self.encode(action, topic), mask=self.random.randbytes(4))
        first, self._rest = data[: self._split], data[self._split :]
        self.send(first)
        self._half_sent = True
        if self._early:
            await asyncio.sleep(0.05)

    async def go_on(self) -> None:
        """See :meth:`Peer.go_on`."""
        # What is behind it is handled after it: also the next one's first half.
        self.send(self._rest)
        self._rest, self._half_sent = b"", False
        self._answer_pings()
        self.ask("ping")

    async def settle(self) -> None:
        """See :meth:`Peer.settle`."""
        if self._rest:
            await self.go_on()
        await super().settle()


class Fragmenter(Peer):
    """Sends a message in fragments: the first before it happens, a ping between them, the last after it."""

    async def prepare(self) -> None:
        """See :meth:`Peer.prepare`."""
        await super().prepare()
        self._topics = self.some(3)
        self._last = b""
        self._number = 0
        await self.subscribe(*self._topics[:2])

    async def poise(self) -> None:
        """See :meth:`Peer.poise`."""
        if self.diary.end is not None:
            return
        topic = self._topics[2]
        action = "subscribe" if self.diary.listening(topic) is None else "unsubscribe"
        # White space that JSON doesn't mind: the message is longer than what is read at a time.
        request = self.encode(action, topic) + b" " * self.random.choice((0, 100, 9000))
        third = len(request) // 3
        self.send(frame(TEXT, request[:third], fin=False))
        self._ping()
        self.send(frame(0, request[third : 2 * third], fin=False))
        self._last = request[2 * third :]

    def _ping(self) -> None:
        self._number += 1
        payload = b"between %d" % self._number
        self.diary.pinged(payload)
        self.send(frame(PING, payload))

    async def go_on(self) -> None:
        """See :meth:`Peer.go_on`."""
        self._ping()
        self.send(frame(0, self._last))
        self._last = b""

    async def settle(self) -> None:
        """See :meth:`Peer.settle`."""
        if self._last:
            await self.go_on()
        await super().settle()


class Laggard(Peer):
    """Reads nothing for a while, and then catches up."""

    def __init__(self, world: World, name: str, topics: Sequence[str]) -> None:
        super().__init__(world, name, receive_buffer=4096)
        self._topics = topics
        self._fast = False

    async def prepare(self) -> None:
        """See :meth:`Peer.prepare`."""
        await super().prepare()
        await self.subscribe(*self._topics)

    async def live(self) -> None:
        """See :meth:`Peer.live`."""
        while self.going:
            self.pause_reading()
            self.ask("ping")  # its reply comes amid what waits
            await self.pause(0.5, 3.0)
            self.resume_reading()
            await self.answered()
            await self.pause(0.05, 0.5)

    async def settle(self) -> None:
        """See :meth:`Peer.settle`."""
        await self.stop_living()
        self.resume_reading()
        await super().settle()


class Sleeper(Peer):
    """Reads nothing any more, from the first time on that it happens. The server gives it up one day."""

    def __init__(self, world: World, name: str, topics: Sequence[str]) -> None:
        super().__init__(world, name, receive_buffer=4096)
        self._topics = topics

    async def prepare(self) -> None:
        """See :meth:`Peer.prepare`."""
        await super().prepare()
        await self.subscribe(*self._topics)

    async def poise(self) -> None:
        """See :meth:`Peer.poise`."""
        self.pause_reading()

    async def settle(self) -> None:
        """See :meth:`Peer.settle`."""
        self.diary.leaves()

    async def catch_up(self, closed: Mapping[str, int]) -> None:
        """See :meth:`Peer.catch_up`."""


class Visitor(Peer):
    """Comes, listens for a moment, and leaves, again and again: politely, or not."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self._diaries: list[Diary] = []

    @property
    def diaries(self) -> list[Diary]:
        """See :attr:`Peer.diaries`."""
        return [*self._diaries, self.diary]

    @property
    def gone(self) -> bool:
        """See :attr:`Peer.gone`."""
        return self._living.done()

    async def live(self) -> None:
        """See :meth:`Peer.live`."""
        try:
            while not self._over:
                await self.subscribe(*self.some(2))
                await self.pause(0.0, 0.4)
                await self._leave()
                await self.pause(0.0, 0.1)
                await self._come()
        except Closed as exc:
            self.diary.ended(exc.code, exc.reason, time.monotonic())

    async def _leave(self) -> None:
        self._diaries.append(self.diary)
        if self.diary.end is None:
            self.diary.leaves()
            if self.random.random() < 0.5:
                self.send(frame(CLOSE, (1000).to_bytes(2, "big")))
                await self._reading  # the server closes
            else:
                self._reading.cancel()
        self.client.writer.transport.abort()

    async def _come(self) -> None:
        self.diary = Diary(f"{self.name}, {len(self._diaries) + 1}. time", self.world.tolerated)
        await self.connect()
        await self.authorize()
