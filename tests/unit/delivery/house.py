"""The fan-out, a topic table and the loop's queue, with connections played, for the tests of delivery."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import pytest

from wsd.delivery import fanout as fanout_module
from wsd.delivery import shares as shares_module
from wsd.delivery.fanout import Bounds, Fanout
from wsd.delivery.topics import TopicTable
from wsd.metrics import Metrics
from wsd.protocol.frames import text_frame
from wsd.protocol.messages import gap, message_head

__all__ = ["Ear", "House", "cut_into_slices", "message", "notice"]

BOUNDS = Bounds(max_backlog=1 << 20, max_backlog_age=10.0)


class Loop:
    """The loop's queue of callbacks."""

    def __init__(self) -> None:
        self.queue: deque[Callable[[], None]] = deque()

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.queue.append(callback)

    def run_one(self) -> None:
        self.queue.popleft()()

    def run(self) -> None:
        """Until nothing is left to do; a hundred steps are far more than any test here needs."""
        for _ in range(100):
            if not self.queue:
                return
            self.run_one()
        raise AssertionError("the fan-out never comes to an end")


class Ear:
    """A connection that records what is written to it."""

    def __init__(self, name: str = "", then: Callable[[], object] = lambda: None) -> None:
        self.name = name
        self.writes: list[bytes] = []
        self.then = then  # what else happens in a write

    def write(self, data: bytes, /) -> object:
        self.writes.append(data)
        return self.then()

    def ignore(self, data: bytes, /) -> object:
        """What the ``write`` of a connection becomes that is gone."""

    def topic_confirmed(self, topic: str) -> None:
        """All of its topics are."""

    def topic_refused(self, topic: str, reason: str) -> None:
        raise AssertionError("not the fan-out's to say")


class House:
    """The fan-out, a topic table and a loop, and what connections do with them."""

    def __init__(self, bounds: Bounds = BOUNDS, *, gap_notices: bool = True) -> None:
        self.loop = Loop()
        self.held: list[bool] = []  # what the source was told
        self.metrics = Metrics()
        self.topics = TopicTable("", self._confirm, lambda channel: None)
        self.fanout = Fanout(
            self.topics, self.metrics, bounds, self.loop.call_soon, self.held.append, gap_notices=gap_notices
        )

    def _confirm(self, channel: bytes) -> None:
        self.topics.confirm(channel)

    def join(self, ear: Ear, *topics: str) -> Ear:
        for topic in topics:
            self.topics.wait(topic, ear)
            self.topics.listen(topic, ear)
        return ear

    def ears(self, count: int, *topics: str) -> list[Ear]:
        return [self.join(Ear(str(number)), *topics) for number in range(count)]

    def leave(self, ear: Ear, topic: str) -> None:
        """As a connection does at an unsubscribe."""
        self.fanout.settle(ear)
        self.topics.leave(topic, ear)

    def vanish(self, ear: Ear, *topics: str) -> None:
        """As a connection does when it closes."""
        ear.write = ear.ignore  # type: ignore[method-assign]
        for topic in topics:
            self.topics.leave(topic, ear)

    def publish(self, topic: str, *payloads: str) -> None:
        for payload in payloads:
            self.fanout.publish(topic.encode(), payload.encode())


def cut_into_slices(monkeypatch: pytest.MonkeyPatch, writes: int) -> None:
    """Let the loop turn after so many writes, as if the time were up."""
    monkeypatch.setattr(fanout_module, "SLICE", 0.0)
    monkeypatch.setattr(fanout_module, "STEP", writes)
    monkeypatch.setattr(shares_module, "SORT_STEP", 1 << 20)


def message(topic: str, *payloads: str) -> bytes:
    """The frames of some messages of a topic, joined."""
    return b"".join(text_frame(message_head(topic) + payload.encode() + b"}") for payload in payloads)


def notice(topic: str) -> bytes:
    """The frame of a gap notice."""
    return text_frame(gap(topic))
