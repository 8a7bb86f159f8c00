"""Replies in the order of the requests.

A reply to ``subscribe`` waits until Redis has answered, and every reply behind it waits for its turn. Most of the time
a session holds nothing back, so it makes a :class:`Replies` when it needs one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from wsd.clients.record import OwedReply
from wsd.codes import ErrorCode, Refusal
from wsd.protocol import messages

__all__ = ["UNKNOWN", "Replies", "Reply"]


class Reply(NamedTuple):
    """A text message to the client. One of the effects of a session (see `wsd.clients.session`)."""

    payload: bytes
    refusal: Refusal | None = None  # what the request is refused with, for the metrics and the log
    reason: str = ""  # for the log: why it is a refusal, or what it says
    subject: str = ""  # the `sub` of a token that is refused although its signature is good, for the log


UNKNOWN = Reply(b"")
"""A reply that is not known yet, because Redis has not answered."""


@dataclass(slots=True)
class _Held:
    """A reply in its place in the queue."""

    reply: Reply
    topic: str  # the topic that the reply waits for, or starts; "" for other replies
    request_id: str | int | None
    deadline: float  # when Redis must have answered
    size: int  # bytes that are held for it, roughly


class Replies(deque[_Held]):
    """The replies of one session that are held back, the oldest first.

    A deque itself, because one is made for most subscriptions and thrown away with the answer: to make an object that
    has a deque takes a tenth more of the time of a subscription.
    """

    __slots__ = ("size",)

    size: int
    """Bytes that are held, roughly. Set with the first reply."""

    def hold(self, reply: Reply, topic: str, request_id: str | int | None, deadline: float) -> None:
        """Put a reply behind the others.

        Args:
            reply: the reply; :data:`UNKNOWN` if :meth:`settle` will say what it is.
            topic: the topic that the reply waits for, or starts; ``""`` for other replies.
            request_id: the ``id`` of the request, for a reply that is not known yet.
            deadline: the monotonic time at which Redis must have answered. Every reply waits equally long, so the first
                in the queue has the first deadline.
        """
        size = 128 + len(reply.payload) + (4 * len(request_id) if isinstance(request_id, str) else 0)
        self.size = self.size + size if self else size
        self.append(_Held(reply, topic, request_id, deadline, size))

    def settle(self, topic: str, code: ErrorCode | None = None, message: str = "") -> None:
        """Decide what the replies of a topic say: subscribed, or an error with this code and message."""
        payload = messages.error(code, message) if code else messages.SUBSCRIBED
        for held in self:
            if held.topic == topic:
                held.reply = Reply(messages.with_id(payload, held.request_id), code, message)

    def forget(self, topic: str) -> None:
        """Let the replies of a topic start nothing, even if the client subscribes to it again before their turn."""
        for held in self:
            if held.topic == topic:
                held.topic = ""

    def ask_anew(self, topics: Container[str]) -> None:
        """Make the replies of these topics unknown again."""
        for held in self:
            if held.topic in topics:
                held.reply = UNKNOWN

    def pack(self, now: float) -> tuple[OwedReply, ...]:
        """Write the replies into a record.

        What is known starts nothing any more, so its topic and its request's id are left out: see :meth:`ask_anew`.
        """
        return tuple(
            OwedReply(None, held.topic, held.request_id, None, "", "", held.deadline - now)
            if held.reply is UNKNOWN
            else OwedReply(held.reply.payload, "", None, *held.reply[1:], held.deadline - now)
            for held in self
        )

    def unpack(self, owed: Iterable[OwedReply], now: float) -> None:
        """Take the replies of a record."""
        for each in owed:
            reply = UNKNOWN if each.payload is None else Reply(each.payload, each.refusal, each.reason, each.subject)
            self.hold(reply, each.topic, each.request_id, now + each.seconds)

    def take(self) -> list[_Held]:
        """Take the replies whose turn has come."""
        taken = []
        while self and self[0].reply is not UNKNOWN:
            held = self.popleft()
            self.size -= held.size
            taken.append(held)
        return taken
