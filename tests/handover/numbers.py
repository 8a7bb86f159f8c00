"""Numbered messages, published by a process of their own: ``python -m tests.handover.numbers``.

On every topic the numbers 1, 2, 3 … are published at a steady rate, come what may. The process is not the one of the
clients, because a publisher must not stand still when the clients are busy. It takes one line of JSON on standard
input, publishes until the end of its input, and writes what it did as lines of JSON: per batch the tick, the time, and
what became of it.

A number has a *place*: where it was published, of several Redis servers or channel prefixes. Numbers of the second
place begin with :data:`PLACE`. So it can be told which of two servers a message came through.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
import threading
import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any, Self

from bench.processes import Program
from tests.lib.routes import Route, Server, ToMaster, ToOwners
from tests.lib.waiting import PATIENCE

__all__ = ["PLACE", "Book", "Numbers", "Orders", "TopicBook", "place_of"]

PLACE = 1_000_000_000
"""From one place's numbers to the next one's."""

TICK = 0.0025
"""Seconds between two batches."""

ROUND = 5
"""Ticks in which every topic gets one message. With 25 topics: 2,000 messages a second."""

TELL = 0.05
"""Seconds after which the process tells what it did."""


@dataclass(frozen=True)
class Orders:
    """What to publish where.

    Args:
        kind: of route: ``server``, ``sentinel`` or ``cluster``.
        ports: of the servers, Sentinels or nodes. A second list is a second place.
        prefixes: of the channels. A second one is a second place, too.
        padding: bytes that a topic's messages are longer, by topic.
    """

    kind: str
    ports: Sequence[Sequence[int]]
    topics: Sequence[str]
    prefixes: Sequence[str] = ("",)
    padding: Mapping[str, int] = field(default_factory=dict)

    @property
    def places(self) -> int:
        """How many places there are."""
        return len(self.ports) * len(self.prefixes)


def place_of(number: int) -> int:
    """The place at which a number was published."""
    return number // PLACE


# The process.


def _route(kind: str, ports: Sequence[int]) -> Route:
    match kind:
        case "sentinel":
            return ToMaster(ports)
        case "cluster":
            return ToOwners(ports)
        case _:
            return Server(ports[0])


def _batches(orders: Orders) -> Iterator[tuple[float, int, list[list[bool | None]]]]:
    """Publish one batch after the other, each when its time has come."""
    routes = [_route(orders.kind, ports) for ports in orders.ports]
    due = time.monotonic()
    tick = 0
    while True:
        topics = orders.topics[tick % ROUND :: ROUND]
        number = tick // ROUND + 1
        fates, place = [], 0
        sent = time.monotonic()
        for route in routes:
            for prefix in orders.prefixes:
                batch = [
                    (prefix + topic, b"%d%s" % (place * PLACE + number, b" " * orders.padding.get(topic, 0)))
                    for topic in topics
                ]
                fates.append(route.publish(batch))
                place += 1
        yield sent, tick, fates
        tick += 1
        due = max(due + TICK, time.monotonic() - 10 * TICK)  # what was missed is not made up for
        while (wait := due - time.monotonic()) > 0:
            time.sleep(wait)


def main() -> int:
    """Publish until standard input ends."""
    orders = Orders(**json.loads(sys.stdin.readline()))
    untold: list[Any] = []
    told_at = time.monotonic()
    for sent, tick, fates in _batches(orders):
        known = all(accepted is True for at_place in fates for accepted in at_place)
        untold.append([sent, tick, None if known else fates])
        if sent - told_at >= TELL:
            told_at = sent
            sys.stdout.write(json.dumps(untold) + "\n")
            sys.stdout.flush()
            untold.clear()
            if select.select([sys.stdin], [], [], 0)[0]:
                break
    return 0


# Its other half.


class TopicBook:
    """What has become of the numbers of one topic at one place.

    A number is *accepted* when Redis has answered PUBLISH with a count, *refused* when Redis has answered with an error
    or could not be reached, and *uncertain* when the connection ended before the answer.
    """

    def __init__(self) -> None:
        self.sent = array("d")  # when each was published, on the monotonic clock; the first is that of number 1
        self.refused: set[int] = set()
        self.uncertain: set[int] = set()

    def note(self, when: float, accepted: bool | None) -> None:
        """Note the next number."""
        self.sent.append(when)
        if accepted is None:
            self.uncertain.add(len(self.sent))
        elif not accepted:
            self.refused.add(len(self.sent))

    @property
    def last(self) -> int:
        """The number published last."""
        return len(self.sent)

    def first_after(self, when: float) -> int:
        """The first number that was published after some time."""
        low, high = 0, len(self.sent)
        while low < high:
            middle = (low + high) // 2
            if self.sent[middle] <= when:
                low = middle + 1
            else:
                high = middle
        return low + 1

    def accepted(self, first: int, last: int) -> list[int]:
        """Those of a range that were accepted, both ends included."""
        last = min(last, self.last)
        return [n for n in range(first, last + 1) if n not in self.refused and n not in self.uncertain]


class Book:
    """What has become of all numbers.

    Args:
        topics: their names.
        places: how many there are.
    """

    def __init__(self, topics: Sequence[str], places: int = 1) -> None:
        self.places = [{topic: TopicBook() for topic in topics} for _ in range(places)]

    def at(self, topic: str, place: int) -> TopicBook:
        """What has become of the numbers of a topic at a place."""
        return self.places[place][topic]

    def last(self) -> dict[str, int]:
        """By topic, the number that was published last."""
        return {topic: book.last for topic, book in self.places[0].items()}


class Numbers:
    """Publishes while it is entered, in a process of its own.

    Args:
        orders: what to publish where.
    """

    def __init__(self, orders: Orders) -> None:
        self.book = Book(orders.topics, orders.places)
        self._orders = orders

    def __enter__(self) -> Self:
        self._process = Program(
            [sys.executable, "-m", "tests.handover.numbers"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._process.stdin.write(json.dumps(asdict(self._orders)).encode() + b"\n")
        self._process.stdin.flush()
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _read(self) -> None:
        for line in self._process.stdout:
            for sent, tick, fates in json.loads(line):
                topics = self._orders.topics[tick % ROUND :: ROUND]
                for place in range(self._orders.places):
                    for number, topic in enumerate(topics):
                        accepted = True if fates is None else fates[place][number]
                        self.book.at(topic, place).note(sent, accepted)

    def stop(self) -> None:
        """Publish no more. All that was published is in the book then."""
        if self._process.stdin.closed:
            return
        self._process.stdin.close()
        self._reading.join(PATIENCE)
        self._process.terminate(patience=PATIENCE)
        self._process.stdout.close()

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid


if __name__ == "__main__":
    sys.exit(main())
