"""Numbered messages: who publishes them, who receives them, and whether the books balance.

On every topic the numbers 1, 2, 3 … are published, come what may. A number is *accepted* when Redis has answered
PUBLISH with a count, *refused* when it has answered with an error or could not be reached, and *uncertain* when the
connection ended before the answer. Each client writes down what it receives. Then:

- on each topic the numbers rise, and none comes twice;
- a number that was accepted and has not been received lies under a gap: a ``gap`` message of its topic stands between
  the number before the hole and the number after it.

What is uncertain may be missing; it may also come late, when a Redis that was frozen goes on.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from tests.lib.clients import PING, PONG, TEXT, Client
from tests.lib.routes import Route
from tests.lib.waiting import eventually

__all__ = ["GAP", "Books", "Idler", "Listener", "Publisher", "Stretch", "balance"]

TICK = 0.01
"""Seconds between two batches of messages."""

ROUND = 5
"""Ticks in which every topic gets one message. With 20 topics: 400 messages a second."""

GAP = 0
"""In a client's books: a ``gap`` message. Numbers begin with 1."""

PORTION = 1000
"""Topics that a client asks for at a time: Redis must confirm each within seconds, which a busy machine can't do for
50,000."""

IDLE = 0.02
"""Seconds that an idler does not read. The kernel keeps some megabytes meanwhile."""

Stretch = tuple[float, float]
"""When something happened, on the monotonic clock: not before the first and not after the second. On a busy machine
seconds may lie between them, and nobody knows more."""


# Publishing.


@dataclass
class Books:
    """What has become of the numbers of one topic, as far as the publisher knows."""

    last: int = 0  # the number given out last
    accepted: dict[int, Stretch] = field(default_factory=dict)  # when: between PUBLISH and its answer
    uncertain: set[int] = field(default_factory=set)
    closed: int = 0  # the number up to which the books are balanced; those after it may be under way


class Publisher:
    """Publishes numbers in a thread of its own, at a steady rate whatever becomes of them.

    A number that could not be published in time is never made up for. While Redis holds a batch back, none is begun.

    Args:
        route: where to.
        topics: which topics, in turn.
        padding: bytes that each message is longer.
    """

    def __init__(self, route: Route, topics: Sequence[str], padding: int = 0) -> None:
        self.books = {topic: Books() for topic in topics}
        self._route = route
        self._padding = b" " * padding  # JSON doesn't mind
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def close_books(self) -> None:
        """Let the books be balanced up to what was published so far.

        What is published on is never the last that a client gets: whatever happens to the link meanwhile, because the
        machine is busy, numbers come after it.
        """
        for book in self.books.values():
            book.closed = book.last

    def stop(self) -> None:
        """Publish no more."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        topics = list(self.books)
        tick = 0
        while not self._ended.wait(TICK):
            self._publish(topics[tick % ROUND :: ROUND])
            tick += 1
        self._route.close()

    def _publish(self, topics: Iterable[str]) -> None:
        batch = []
        for topic in topics:
            self.books[topic].last += 1
            batch.append((topic, b"%d%s" % (self.books[topic].last, self._padding)))
        sent = time.monotonic()
        fates = self._route.publish(batch)
        when = (sent, time.monotonic())
        for (topic, payload), accepted in zip(batch, fates, strict=True):
            if accepted:
                self.books[topic].accepted[int(payload)] = when
            elif accepted is None:
                self.books[topic].uncertain.add(int(payload))


# Receiving.


class _Subscriber:
    """A client that subscribes when it is entered, and reads until it is left.

    Args:
        port: the daemon's.
        topics: what it subscribes to.
    """

    def __init__(self, port: int, topics: Sequence[str]) -> None:
        self._client = Client(port)
        self._topics = topics
        self._reading: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        for start in range(0, len(self._topics), PORTION):
            await self._subscribe(self._topics[start : start + PORTION])
        self._reading = asyncio.create_task(self._read())
        return self

    async def _subscribe(self, topics: Sequence[str]) -> None:
        for topic in topics:
            self._client.request("subscribe", topic)
        for topic in topics:
            reply = await self._client.receive()
            assert reply["action"] == "subscribe", (topic, reply)

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._reading is not None
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        await self._client.__aexit__(kind, value, traceback)

    async def _read(self) -> None:
        """Read until the daemon closes the connection."""
        raise NotImplementedError


class Listener(_Subscriber):
    """A client that writes down what it receives.

    Args:
        port: the daemon's.
        topics: what it subscribes to.
    """

    def __init__(self, port: int, topics: Sequence[str]) -> None:
        super().__init__(port, topics)
        self.seen: dict[str, list[tuple[int, float]]] = {topic: [] for topic in topics}  # numbers and gaps, and when
        self.ended = ""  # why the connection ended, if it did

    async def _read(self) -> None:
        """Read frames as they come: many in one piece, which `Client.receive` would take one by one."""
        rest = b""
        while data := await self._client.reader.read(65_536):
            now = time.monotonic()
            frames, rest = split_frames(rest + data)
            for opcode, payload in frames:
                if opcode == TEXT:
                    self._note(json.loads(payload), now)
                elif opcode == PING:
                    self._client.send_frame(PONG, payload)
                else:
                    self.ended = f"a frame of kind {opcode}: {payload!r}"
        self.ended = self.ended or "the daemon closed the connection"

    def _note(self, message: dict[str, Any], now: float) -> None:
        match message:
            case {"action": "message", "topic": topic, "snapshot": int(number)}:
                self.seen[topic].append((number, now))
            case {"action": "gap", "topic": topic}:
                self.seen[topic].append((GAP, now))
            case {"action": "error", "code": "unavailable", "message": str(text)} if "is not delivered now" in text:
                pass  # Redis refuses the topic: a gap covers what is missed
            case _:
                self.ended = f"an unexpected message: {message}"

    def flowing(self, topic: str, since: float) -> float | None:
        """When the first number came on a topic after `since` and after every gap; None if none has."""
        found = None
        for number, when in reversed(self.seen[topic]):
            if number == GAP or when <= since:
                break
            found = when
        return found

    async def catch_up(self, books: dict[str, Books]) -> None:
        """Wait until numbers have come on each topic beyond those that are balanced."""
        with suppress(AssertionError):  # what is missing is found when the books are balanced
            await eventually(
                lambda: all(self.seen[topic] and self.seen[topic][-1][0] > books[topic].closed for topic in books)
            )


class Idler(_Subscriber):
    """A client that listens and throws away what it receives.

    Args:
        port: the daemon's.
        topics: what it subscribes to.
    """

    def __init__(self, port: int, topics: Sequence[str]) -> None:
        super().__init__(port, topics)
        self.ended = False  # whether the daemon has closed the connection

    async def _read(self) -> None:
        """Look into the socket now and then: this process has no time for each piece of what many idlers get."""
        transport = self._client.writer.transport
        assert isinstance(transport, asyncio.ReadTransport)
        while await self._client.reader.read(2**20):
            transport.pause_reading()
            await asyncio.sleep(IDLE)
            transport.resume_reading()
        self.ended = True


def split_frames(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """Split what a server sends into frames, opcode and payload, and an incomplete rest."""
    frames, start = [], 0
    while len(data) >= start + 2:
        length, head = data[start + 1], start + 2
        if length >= 126:
            size = 2 if length == 126 else 8
            if len(data) < head + size:
                break
            length, head = int.from_bytes(data[head : head + size], "big"), head + size
        if len(data) < head + length:
            break
        frames.append((data[start] & 0x0F, data[head : head + length]))
        start = head + length
    return frames, data[start:]


# Balancing.


@dataclass
class Balance:
    """What was found in the books of all clients."""

    lost: list[tuple[int, str, Stretch]] = field(default_factory=list)  # client, topic, and when it was accepted
    gaps: dict[tuple[int, str], int] = field(default_factory=dict)  # gap messages, by client and topic
    problems: list[str] = field(default_factory=list)  # what must not be

    @property
    def most_lost(self) -> int:
        """How many messages the client lost that lost most."""
        return max(Counter(client for client, _, _ in self.lost).values(), default=0)


def balance(books: dict[str, Books], listeners: Sequence[Listener]) -> Balance:
    """Compare what was published with what was received."""
    found = Balance()
    for client, listener in enumerate(listeners):
        if listener.ended:
            found.problems.append(f"client {client}: {listener.ended}")
        for topic, book in books.items():
            _balance_topic(found, client, topic, book, [number for number, _ in listener.seen[topic]])
    return found


def _balance_topic(found: Balance, client: int, topic: str, book: Books, seen: Sequence[int]) -> None:
    where = f"client {client}, {topic}"
    received = [number for number in seen if number != GAP]
    if len(set(received)) != len(received):
        found.problems.append(f"{where}: a number came twice")
    found.gaps[client, topic] = seen.count(GAP)
    balanced = {number for number in book.accepted if number <= book.closed}
    missing = sorted(balanced - set(received), reverse=True)  # the lowest is the last
    last, gap = 0, False
    for number in seen:
        if number == GAP:
            gap = True
            continue
        if number in book.uncertain:
            continue
        if number <= last:
            found.problems.append(f"{where}: {number} came after {last}")
        hole = []
        while missing and missing[-1] < number:
            hole.append(missing.pop())
        found.lost += [(client, topic, book.accepted[lost]) for lost in hole]
        if hole and not gap:
            found.problems.append(f"{where}: {hole[0]} to {hole[-1]} were lost and no gap was announced")
        last, gap = number, False
    if missing:
        found.lost += [(client, topic, book.accepted[lost]) for lost in missing]
        found.problems.append(f"{where}: {len(missing)} numbers from {missing[-1]} on never came")
