"""What one client has asked for and received, and what of that must not be whatever was published.

A diary knows no socket. A client tells it what it sends and what it reads; the diary matches replies with requests, and
keeps the numbers of each topic as runs without a hole. What can't be judged without the publisher's book is judged at
the end, by :mod:`tests.handover.judge`.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.handover.numbers import PLACE

__all__ = ["EXPECTED", "GAP", "Diary", "End", "Request", "Run", "Stretch"]

MOST_PROBLEMS = 20
"""Problems that a diary keeps: the first say what is wrong, and the others repeat it."""

REVOKED = re.compile(r"the new token does not permit (\S+); it is unsubscribed")


class Run(NamedTuple):
    """Numbers that came one after the other, without a hole."""

    first: int
    last: int


GAP = Run(0, 0)
"""In place of numbers, which begin with 1: a ``gap`` message."""


@dataclass
class Stretch:
    """What came on a topic between ``context subscribed`` and ``context unsubscribed``."""

    since: float  # when the client had read that it is subscribed, on the monotonic clock
    runs: list[Run] = field(default_factory=list)
    over: bool = False  # whether the client has been unsubscribed

    def note(self, number: int) -> None:
        """Note a number."""
        if self.runs and self.runs[-1].last + 1 == number and self.runs[-1] is not GAP:
            self.runs[-1] = Run(self.runs[-1].first, number)
        else:
            self.runs.append(Run(number, number))


class Request(NamedTuple):
    """A request that is not answered yet."""

    action: str
    context: str
    id: str | int | None
    expected: Collection[str]  # what the reply may say: a message of the contract, or the code of an error


class End(NamedTuple):
    """How a connection ended."""

    code: int | None  # None without a close frame: 1006
    reason: str
    when: float


EXPECTED = {
    "authorization": ("session authenticated",),
    "subscribe": ("context subscribed",),
    "unsubscribe": ("context unsubscribed",),
    "ping": ("pong",),
}
"""What a request is answered with if nothing is wrong with it."""

ACTIONS = {
    "session authenticated": "session",
    "session unauthorized": "session",
    "context subscribed": "subscribe",
    "context unsubscribed": "unsubscribe",
}
"""The action of each message of the contract."""


class Diary:
    """What one client has sent and received.

    Args:
        name: of the client, for problems.
        tolerated: codes of errors that any request may be answered with, because of what happens in the scene.
    """

    def __init__(self, name: str, tolerated: Collection[str] = ()) -> None:
        self.name = name
        self.problems: list[str] = []
        self.owed: deque[Request] = deque()  # requests without a reply, in order
        self.pings: deque[bytes] = deque()  # payloads of protocol pings without a pong, in order
        self.topics: dict[str, list[Stretch]] = {}
        self.replies = 0  # how many came
        self.messages = 0  # the same of messages
        self.gaps = 0  # the same of gap messages
        self.end: End | None = None  # how the server ended the connection, if it did
        self.left = False  # whether the client has ended it
        self._tolerated = frozenset(tolerated)
        self._greeted = 0  # messages of the greeting that came

    def problem(self, what: str) -> None:
        """Note what must not be."""
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(f"{self.name}: {what}")

    def stretches(self) -> Iterator[tuple[str, list[Stretch]]]:
        """The stretches of each topic."""
        yield from self.topics.items()

    def listening(self, topic: str) -> Stretch | None:
        """The stretch that a topic is in; None if it is not subscribed, as far as the client has been told."""
        stretches = self.topics.get(topic)
        return stretches[-1] if stretches and not stretches[-1].over else None

    def is_beyond(self, closed: Mapping[str, int]) -> bool:
        """Whether a number beyond these has come on every topic that is subscribed.

        Args:
            closed: numbers of any place, by topic.
        """
        for topic in self.topics:
            stretch = self.listening(topic)
            if stretch is not None and (not stretch.runs or stretch.runs[-1].last % PLACE <= closed[topic]):
                return False
        return True

    # What the client does.

    def asks(
        self, action: str, context: str = "", request_id: str | int | None = None, expected: Collection[str] = ()
    ) -> None:
        """The client sends a request."""
        self.owed.append(Request(action, context, request_id, expected or EXPECTED[action]))

    def pinged(self, payload: bytes) -> None:
        """The client sends a protocol ping."""
        self.pings.append(payload)

    def leaves(self) -> None:
        """The client ends the connection."""
        self.left = True

    # What it gets.

    def ponged(self, payload: bytes) -> None:
        """A pong came. The server answers every ping, in order."""
        if not self.pings:
            self.problem(f"a pong {payload!r} that nobody waits for")
        elif self.pings[0] != payload:
            self.problem(f"the pong {payload!r} came in place of {self.pings[0]!r}")
            while self.pings and self.pings.popleft() != payload:
                pass
        else:
            self.pings.popleft()

    def ended(self, code: int | None, reason: str, when: float) -> None:
        """The server ended the connection."""
        if not self.left and self.end is None:
            self.end = End(code, reason, when)

    def received(self, message: dict[str, Any], now: float) -> None:
        """A text message came.

        Args:
            message: as it was parsed.
            now: when the client had read it.
        """
        if message.get("action") == "message":
            self._message(message)
        elif self._greeted < 2:
            self._greeting(message)
        elif message.get("action") == "gap":
            self._gap(str(message.get("topic")))
        elif not self._unasked(message):
            self._reply(message, now)

    def greeted(self) -> None:
        """Somebody else has read the greeting."""
        self._greeted = 2

    def _greeting(self, message: dict[str, Any]) -> None:
        expected = ("connection established", "waiting for create session")[self._greeted]
        if message.get("message") != expected:
            self.problem(f"{message} came in place of {expected!r}")
        self._greeted += 1

    def _message(self, message: dict[str, Any]) -> None:
        topic, number = message.get("topic"), message.get("snapshot")
        stretch = self.listening(str(topic))
        if stretch is None or type(number) is not int:
            self.problem(f"{message} came while the topic was not subscribed")
            return
        self.messages += 1
        stretch.note(number)

    def _gap(self, topic: str) -> None:
        stretch = self.listening(topic)
        if stretch is None:
            self.problem(f"a gap of {topic}, which was not subscribed")
            return
        self.gaps += 1
        stretch.runs.append(GAP)

    def _unasked(self, message: dict[str, Any]) -> bool:
        """Take a message that answers no request; return whether it is one."""
        if message.get("action") != "error" or "id" in message:
            return False
        text = str(message.get("message"))
        if found := REVOKED.fullmatch(text):
            if (stretch := self.listening(found[1])) is None:
                self.problem(f"{found[1]} was taken away, and was not subscribed")
            else:
                stretch.over = True
            return True
        return "is not delivered now" in text and "unavailable" in self._tolerated

    def _reply(self, message: dict[str, Any], now: float) -> None:
        if not self.owed:
            self.problem(f"{message} answers no request")
            return
        request = self.owed.popleft()
        self.replies += 1
        said = str(message.get("code", message.get("message", message.get("action"))))
        if message.get("id") != request.id:
            self.problem(f"{message} came in place of the reply to {request}")
        elif said not in request.expected and not (message.get("action") == "error" and said in self._tolerated):
            self.problem(f"{message} answers {request}")
        elif message.get("action") != ACTIONS.get(said, message.get("action")):
            self.problem(f"{message} has the wrong action")
        elif said == "context subscribed" and self.listening(request.context) is None:
            self.topics.setdefault(request.context, []).append(Stretch(now))
        elif said == "context unsubscribed" and (stretch := self.listening(request.context)) is not None:
            stretch.over = True
