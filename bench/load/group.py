"""A group of connections of the generator: what is asked of it, and what happened to it."""

from __future__ import annotations

import socket
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bench.load.dialects import Setup
from bench.load.histogram import Histogram
from bench.load.pace import Ramp, Returns, Thoughts
from bench.load.scan import Frames, Marks, Notes, Sampler, Scanner, Sequences, Stride, due_by
from bench.load.witness import Pauses, Witness

__all__ = ["Group", "Link", "Plan", "Thought"]

IN_FLIGHT = 1000
"""Handshakes at a time. Less than the accept queues of all servers hold (4,096), and enough that none runs dry."""


@dataclass(slots=True)
class Plan:
    """A group of connections."""

    group: str  # its name
    count: int  # connections
    addresses: list[tuple[str, int]]  # of the replicas, taken in turn
    dialect: str = "wsd"
    topics: int = 1  # topics in all
    topics_each: int = 1  # topics per connection, taken in turn
    first_topic: int = 0  # number of the first of them
    key: str = ""  # the secret that tokens are signed with
    sampled: int = 8  # connections of which every message is looked at
    witnessed: bool = (
        False  # whether the numbers and the pauses of all connections are looked at: see bench.load.witness
    )
    from_start: bool = True  # whether they are subscribed before the publisher begins
    first: int = 0  # number of the first connection: other shards have those before it
    in_flight: int = IN_FLIGHT
    timeout: float = 60.0  # seconds until those that aren't subscribed have failed, beside what ramp and think take
    ramp: float = 0.0  # connections opened per second, at most; 0: as fast as in_flight lets them
    think: float = 0.0  # seconds before each request of a client, give or take a half; 0: all requests at once
    reconnect: bool = False  # whether what ends unasked, or fails, is opened again after a wait: see bench.load.pace
    slow: int = 0  # bytes per second that a connection reads; 0: all that comes
    receive_buffer: int = 0  # bytes, SO_RCVBUF; 0: the system's default

    @property
    def patience(self) -> float:
        """Seconds until those that aren't subscribed have failed."""
        return self.timeout + (self.count / self.ramp if self.ramp else 0.0) + self.think * 1.5 * (1 + self.topics_each)


@dataclass(slots=True, eq=False)
class Link:
    """One connection."""

    socket: socket.socket
    group: Group
    number: int
    scanner: Scanner
    setup: Setup | None  # None once subscribed
    began: int  # nanoseconds
    receive: Callable[[bytearray], int]
    sampler: Sampler | None = None  # the scanner, if it is one
    inbox: bytes = b""  # while setting up: what isn't a whole frame yet
    upgraded: bool = False
    leaving: bool = False  # a close frame is sent
    pauses: Pauses | None = None  # once subscribed, of a group that is witnessed


@dataclass(slots=True, eq=False)
class Thought:
    """What a client will send."""

    link: Link
    data: bytes
    began: int  # nanoseconds


@dataclass(slots=True, eq=False)
class Group:
    """A group and what happened to it."""

    plan: Plan
    stride: Stride = field(default_factory=Stride)
    notes: Notes = field(default_factory=Notes)
    latencies: Histogram = field(default_factory=Histogram)  # publish to receive
    setups: Histogram = field(default_factory=Histogram)  # connect to subscribed
    links: dict[int, Link] = field(default_factory=dict)  # by descriptor, oldest first
    due: deque[int] = field(default_factory=deque)  # numbers of connections to open
    tokens: dict[int, str] = field(default_factory=dict)  # by number
    sequences: list[tuple[Sequences, tuple[int, ...]]] = field(default_factory=list)  # with the topics
    setting_up: int = 0
    subscribed: int = 0  # ever
    messages: int = 0
    bytes: int = 0
    reads: int = 0
    failures: Counter[str] = field(default_factory=Counter)  # handshakes that came to nothing, by reason
    broken: Counter[str] = field(default_factory=Counter)  # subscribed connections that ended unasked, by reason
    left: int = 0  # connections that ended as asked
    last_message: int = 0  # nanoseconds
    opening: dict[str, Any] | None = None  # the command that is answered when all are open
    opened_at: int = 0  # nanoseconds: when the opening began
    opened_cpu: int = 0
    deadline: float = 0.0
    ramp: Ramp = field(default_factory=lambda: Ramp(0.0, 0.0))
    returns: Returns = field(default_factory=Returns)
    returned: int = 0  # connections that were subscribed again after they had ended or failed
    thoughts: Thoughts[Thought] = field(default_factory=Thoughts)
    churn: float = 0.0  # connections replaced per second
    churned: float = 0.0  # fractions of a connection that are due

    def topics_of(self, number: int) -> tuple[int, ...]:
        """The topics of a connection."""
        plan = self.plan
        begin = number * plan.topics_each
        return tuple(plan.first_topic + (begin + place) % plan.topics for place in range(plan.topics_each))

    def sampled(self, number: int) -> bool:
        """Whether a connection is sampled. Samples are spread evenly, because those served first have it best."""
        plan = self.plan
        step = max(plan.count // plan.sampled, 1) if plan.sampled else 0
        place = number - plan.first
        # In steps of one length all of them might be on one replica, or on one topic, because both are taken in turn.
        return bool(step) and place % step == place // step % step and place // step < plan.sampled

    def scanner(self, number: int, topics: tuple[int, ...], joined: bool) -> Scanner:
        """What counts the messages of a connection.

        Args:
            number: of the connection.
            topics: that it subscribes to.
            joined: whether the server joins and splits messages.
        """
        if self.sampled(number):
            sequences = Sequences(self.plan.from_start and number not in self.returns)
            self.sequences.append((sequences, topics))
            return Sampler(self.stride, self.notes, sequences, self.latencies, joined)
        if self.plan.witnessed and len(topics) == 1 and not joined:
            sequences = Sequences(self.plan.from_start and number not in self.returns)
            self.sequences.append((sequences, topics))
            return Witness(self.stride, self.notes, sequences, topics[0])
        return Marks() if joined else Frames(self.stride, self.notes)

    def expected(self, published: int, topics: int) -> int:
        """Messages that all its connections must get together; 0 if they came later or read slowly.

        Args:
            published: messages that were published, over topics in turn.
            topics: how many.
        """
        plan = self.plan
        if not plan.from_start or plan.slow:
            return 0
        if plan.topics == plan.topics_each == 1 and not plan.first_topic:
            return published * plan.count
        listeners = Counter[int]()
        for number in range(plan.first, plan.first + plan.count):
            listeners.update(self.topics_of(number))
        return sum(due_by(published, topics, topic) * count for topic, count in listeners.items() if topic < topics)

    def turn(self, now: int) -> None:
        """A window of the pauses ends, and the next begins.

        Args:
            now: nanoseconds.
        """
        for link in self.links.values():
            if link.pauses is not None:
                link.pauses.turn(now)

    def pauses(self) -> dict[int, list[int]]:
        """The longest pause in each window that is over, in nanoseconds, by the number of the connection."""
        return {link.number: link.pauses.windows for link in self.links.values() if link.pauses is not None}

    def stats(self, published: int | None, topics: int) -> dict[str, Any]:
        """What happened so far: JSON.

        Args:
            published: messages that were published, over topics in turn; None if that isn't known yet.
            topics: how many.
        """
        checked = [(sequences, sequences.lost(published, topics, listens)) for sequences, listens in self.sequences]
        return {
            "connections": sum(link.setup is None for link in self.links.values()),
            "opening": self.opening is not None,
            "setting_up": self.setting_up,
            "subscribed": self.subscribed,
            "returned": self.returned,
            "left": self.left,
            "messages": self.messages,
            "bytes": self.bytes,
            "reads": self.reads,
            "last_message": self.last_message,
            "latencies": self.latencies.dump(),
            "setups": self.setups.dump(),
            "sampled": len(checked),
            "checked": sum(sequences.seen for sequences, _ in checked),
            "lost": sum(lost for _, lost in checked),
            "duplicated": sum(sequences.duplicated for sequences, _ in checked),
            "out_of_order": sum(sequences.out_of_order for sequences, _ in checked),
            "failures": dict(self.failures),
            "broken": dict(self.broken),
            "closes": {str(code): count for code, count in self.notes.closes.items()},
            "pings": self.notes.pings,
            "notes": dict(self.notes.texts.most_common(5)),
        }
