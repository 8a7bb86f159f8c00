"""What one client has proved and asked for: PROTOCOL.md's rules, without I/O.

A session is fed with requests and with what became of its subscriptions, and returns effects for its connection to
carry out in order. It never waits. Every ``now`` is a monotonic time in seconds; only a token's ``exp`` is about the
wall clock, which goes on while the machine is suspended, and may be set.

States::

    state          | request                        | becomes
    ---------------+--------------------------------+---------------------------------------------
    ANONYMOUS      | authorization, good token      | AUTHENTICATED
    ANONYMOUS      | authorization, bad token       | ANONYMOUS      "session unauthorized"
    ANONYMOUS      | subscribe, unsubscribe         | ANONYMOUS      "session unauthorized"
    ANONYMOUS      | (deadline)                     | CLOSED         4001
    AUTHENTICATED  | authorization, good token      | AUTHENTICATED  with the new grant
    AUTHENTICATED  | authorization, bad token       | AUTHENTICATED  with the old grant, "session unauthorized"
    AUTHENTICATED  | subscribe, unsubscribe         | AUTHENTICATED
    AUTHENTICATED  | (the token expires)            | CLOSED         4003
    any            | ping                           | the same
    any            | too many bad requests          | CLOSED         1008
    any            | too many bad tokens in a row   | CLOSED         1008
    CLOSED         | anything                       | CLOSED         without effects

Topics of a session::

    (none) --subscribe--> PENDING --Redis confirms--> CONFIRMED --the reply's turn--> LISTENING

Replies come in the order of the requests, so a reply that waits for Redis holds back those behind it. Requests don't
wait: each takes effect when it is read, and 100 pipelined subscriptions reach Redis together. A topic that Redis has
confirmed while its reply is held back (CONFIRMED) isn't delivered yet: no message comes before ``context subscribed``.
An ``unsubscribe`` that overtakes its ``subscribe`` settles both: both are answered, and nothing is delivered in
between. The first reply then claims ``context subscribed`` although Redis has confirmed nothing. That is harmless,
because the second reply follows in the same write.

A session that moves to another process is suspended: it waits for no topic, and those that were CONFIRMED are PENDING
again, because no client has heard of that. Its record goes on in the new process, or the session goes on here if that
can't take it; either way :meth:`Session.resume` says which topics to wait for.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import NamedTuple, Self

from wsd.auth.grant import Authenticator, Grant
from wsd.clients.allowance import Allowance
from wsd.clients.record import SessionRecord
from wsd.clients.replies import UNKNOWN, Replies, Reply
from wsd.codes import UNAUTHORIZED, Close, ErrorCode, Remedy, TokenReason
from wsd.errors import RequestError, TokenError
from wsd.protocol import messages
from wsd.protocol.messages import Request

__all__ = ["Closing", "Effect", "Leave", "Limits", "Listen", "Session", "State", "Wait"]

SUBSCRIBE_TIMEOUT = 5.0
"""Seconds for Redis to confirm a subscription; then the client gets ``unavailable``."""

MAX_HELD = 262_144
"""Bytes of replies, their ids included, that may wait behind a subscription. 128 subscriptions take about 20,000."""

BURST_SECONDS = 5.0
"""A client that was quiet may send this many seconds' worth of requests at once: a reconnect with all its topics."""

MAX_BAD_TOKENS = 10
"""Tokens refused in a row before a session is closed with 1008. An honest client has one, and a fresh one after it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a session may do. The settings of the same names say it in full."""

    auth_timeout: float  # seconds
    max_topics: int
    max_violations: int
    max_request_rate: float  # requests a second; 0 switches the limit off


# The effects, Reply among them. They are tuples: there are several per request, and a frozen dataclass takes twice as
# long to make (0.9 µs).


class Wait(NamedTuple):
    """Wait for a topic. Answer with :meth:`Session.confirmed` or :meth:`Session.refused`."""

    topic: str


class Listen(NamedTuple):
    """Deliver a topic from now on."""

    topic: str


class Leave(NamedTuple):
    """Stop waiting for a topic, or listening to it."""

    topic: str


class Closing(NamedTuple):
    """Close the connection."""

    code: Close
    reason: str


Effect = Reply | Wait | Listen | Leave | Closing


class State(Enum):
    """Where a session is; see the table above."""

    ANONYMOUS = "anonymous"
    AUTHENTICATED = "authenticated"
    CLOSED = "closed"


class _Topic(Enum):
    PENDING = 1
    CONFIRMED = 2
    LISTENING = 3


class Session:
    """The state machine of one client.

    Args:
        authenticator: checks tokens.
        limits: what the session may do.
        now: the monotonic time at which it starts.
        wall: the clock that a token's ``exp`` is about, in seconds since the epoch.
    """

    __slots__ = (
        "_authenticator",
        "_bad_tokens",
        "_effects",
        "_expires",
        "_grant",
        "_limits",
        "_replies",
        "_topics",
        "_violations",
        "_wall",
        "allowance",
        "id",
        "state",
    )

    def __init__(
        self,
        authenticator: Authenticator,
        limits: Limits,
        now: float,
        wall: Callable[[], float] = time.time,
    ) -> None:
        # 128 random bits in 22 URL-safe characters: nobody guesses another client's session.
        self.id = secrets.token_urlsafe(16)
        rate = limits.max_request_rate
        self.allowance = Allowance(rate, rate * BURST_SECONDS, now)  # frames that the client may send
        self._authenticator = authenticator
        self._limits = limits
        self._wall = wall
        self._effects: list[Effect] = []  # of the call in progress
        self._replies: Replies | None = None  # that are held back; None while there are none
        self._topics: dict[str, _Topic] = {}
        self._violations = 0
        self._bad_tokens = 0  # in a row
        self._grant = authenticator.initial
        if self._grant is None:
            self.state = State.ANONYMOUS
            self._expires = now + limits.auth_timeout  # when the state ends by itself
        else:
            self.state = State.AUTHENTICATED
            self._expires = inf

    @classmethod
    def unpack(
        cls,
        record: SessionRecord,
        authenticator: Authenticator,
        limits: Limits,
        now: float,
        wall: Callable[[], float] = time.time,
    ) -> Self:
        """Make the session of a record, suspended.

        The authenticator and the limits are this process's own, and a reload may have changed them. The session keeps
        what it has: its grant until that expires, also one that a new key would not give; topics above a new
        ``max_topics``, though it gets no more of them; the time that it had been given to authorize. The next bad
        request closes it if ``max_violations`` is no more than what it has already. If clients need no token any more,
        neither does this one.

        Args:
            record: what :meth:`pack` has returned in another process.
            authenticator, limits, now, wall: as for a new session.
        """
        session = cls(authenticator, limits, now, wall)
        session.id = record.id
        session.allowance.resume(record.allowance)
        session._violations = record.violations
        session._bad_tokens = record.bad_tokens
        session._topics = dict.fromkeys(record.listening, _Topic.LISTENING)
        session._topics |= dict.fromkeys(record.waiting, _Topic.PENDING)
        if record.replies:
            session._replies = Replies()
            session._replies.unpack(record.replies, now)
        if record.grant is not None:
            session._grant = record.grant
            session.state = State.AUTHENTICATED
            session._expires = now + (record.grant.expires_at - wall())
        elif session._grant is None and record.seconds_to_authorize is not None:
            session._expires = now + record.seconds_to_authorize
        return session

    @property
    def subject(self) -> str:
        """Who the client is, for the log: the ``sub`` of its token."""
        return "" if self._grant is None else self._grant.subject

    @property
    def topics(self) -> int:
        """How many topics it has asked for."""
        return len(self._topics)

    @property
    def listening(self) -> list[str]:
        """Its topics that are delivered."""
        return [topic for topic, stage in self._topics.items() if stage is _Topic.LISTENING]

    @property
    def waiting(self) -> list[str]:
        """Its topics that aren't delivered yet, in the order of the requests."""
        return [topic for topic, stage in self._topics.items() if stage is not _Topic.LISTENING]

    @property
    def deadline(self) -> float:
        """The time at which :meth:`timed_out` must be called; infinity if there is none."""
        return self._expires if self._replies is None else min(self._expires, self._replies[0].deadline)

    # Requests.

    def receive(self, text: str, now: float) -> list[Effect]:
        """Take one text message from the client. Charge it to the :attr:`allowance` first."""
        if self.state is State.CLOSED:
            return []
        request_id = None
        try:
            request = messages.parse_request(text)
            request_id = request.request_id
            self._handle(request, now)
        except RequestError as exc:
            self._refuse(exc.code, exc.message, request_id if exc.request_id is None else exc.request_id, now)
        return self._take()

    def receive_binary(self, now: float) -> list[Effect]:
        """Take one binary message from the client: there are none in this protocol."""
        if self.state is not State.CLOSED:
            self._refuse(ErrorCode.MALFORMED, "expected a text message, got a binary one", None, now)
        return self._take()

    def _handle(self, request: Request, now: float) -> None:
        action, session, context, request_id = request
        if self.allowance.left < 0.0:
            rate = self._limits.max_request_rate
            raise RequestError(
                ErrorCode.RATE_LIMITED, f"more than {rate:g} requests a second; slow down and send it again"
            )
        if action == "ping":
            return self._reply(messages.PONG, request_id, now)
        if session != self.id:
            raise RequestError(
                ErrorCode.WRONG_SESSION, "this is not the session of this connection; send the id it received"
            )
        if action == "authorization":
            return self._authorize(context, request_id, now)
        if self._grant is None:
            return self._unauthorized(request_id, now, TokenError("no token yet", TokenReason.NO_TOKEN))
        # Unsubscribing needs no permission: a topic may have been permitted when it was subscribed.
        messages.check_topic(context)
        if action == "unsubscribe":
            return self._unsubscribe(context, request_id, now)
        return self._subscribe(context, request_id, self._grant, now)

    def _authorize(self, token: str, request_id: str | int | None, now: float) -> None:
        try:
            grant = self._authenticator.verify(token)
        except TokenError as exc:
            return self._refuse_token(exc, request_id, now)
        self._grant = grant
        self._bad_tokens = 0
        self.state = State.AUTHENTICATED
        self._expires = now + (grant.expires_at - self._wall())
        payload = messages.with_id(messages.SESSION_AUTHENTICATED, request_id)
        self._queue_or_send(Reply(payload, None, "authorized"), now)
        for topic in [topic for topic in self._topics if not grant.permits(topic)]:
            if topic in self._topics:  # the reply before it may have closed the session
                self._revoke(topic, now)
        self._release()

    def _refuse_token(self, why: TokenError, request_id: str | int | None, now: float) -> None:
        self._unauthorized(request_id, now, why)
        self._bad_tokens += 1
        if self._bad_tokens >= MAX_BAD_TOKENS:
            self._close(Close.POLICY_VIOLATION, f"{self._bad_tokens} tokens in a row were refused")

    def _unauthorized(self, request_id: str | int | None, now: float, why: TokenError) -> None:
        payload = messages.unauthorized(why.reason, request_id)
        self._queue_or_send(Reply(payload, UNAUTHORIZED, str(why), why.subject), now)

    def _revoke(self, topic: str, now: float) -> None:
        """Take away a topic that the new grant doesn't cover."""
        code, message = ErrorCode.FORBIDDEN_TOPIC, f"the new token does not permit {topic}; it is unsubscribed"
        if self._topics[topic] is _Topic.LISTENING:
            self._drop(topic)
            self._queue_or_send(Reply(messages.error(code, message), code, message), now)
        else:
            self._settle(topic, code, message)
            self._drop(topic)

    def _subscribe(self, topic: str, request_id: str | int | None, grant: Grant, now: float) -> None:
        if not grant.permits(topic):
            raise RequestError(
                ErrorCode.FORBIDDEN_TOPIC, f"the token does not permit {topic}; get one whose topics cover it"
            )
        stage = self._topics.get(topic)
        if stage is _Topic.LISTENING:
            return self._reply(messages.SUBSCRIBED, request_id, now)
        if stage is None:
            limit = self._limits.max_topics
            if len(self._topics) >= limit:
                raise RequestError(ErrorCode.TOO_MANY_TOPICS, f"already at {limit} topics; unsubscribe from one first")
            self._topics[topic] = _Topic.PENDING
            self._effects.append(Wait(topic))
        reply = Reply(messages.with_id(messages.SUBSCRIBED, request_id)) if stage is _Topic.CONFIRMED else UNKNOWN
        self._hold(reply, topic, request_id, now)

    def _unsubscribe(self, topic: str, request_id: str | int | None, now: float) -> None:
        if topic in self._topics:
            self._settle(topic)
            self._drop(topic)
        self._reply(messages.UNSUBSCRIBED, request_id, now)
        self._release()

    def _refuse(self, code: ErrorCode, message: str, request_id: str | int | None, now: float) -> None:
        self._queue_or_send(Reply(messages.with_id(messages.error(code, message), request_id), code, message), now)
        if code.remedy is Remedy.MEND:
            self._violations += 1
            if self._violations >= self._limits.max_violations:
                self._close(Close.POLICY_VIOLATION, f"{self._violations} bad requests, the last: {code}")

    # What becomes of subscriptions.

    def confirmed(self, topic: str) -> list[Effect]:
        """Redis has confirmed a topic that the session waits for."""
        if self._topics.get(topic) is _Topic.PENDING:
            self._topics[topic] = _Topic.CONFIRMED
            self._settle(topic)
            self._release()
        return self._take()

    def refused(self, topic: str, reason: str) -> list[Effect]:
        """Redis refuses a topic.

        A topic that is PENDING can't be had, and neither can one that is CONFIRMED, because its reply is still held
        back. A topic that is LISTENING stays: it is tried again, and comes back with a gap.
        """
        stage = self._topics.get(topic)
        if stage in (_Topic.PENDING, _Topic.CONFIRMED):
            self._settle(topic, ErrorCode.UNAVAILABLE, reason)
            self._drop(topic)
            self._release()
        elif stage is _Topic.LISTENING:
            message = f"{topic} is not delivered now: {reason}; a gap is announced when it is delivered again"
            self._effects.append(Reply(messages.error(ErrorCode.UNAVAILABLE, message), ErrorCode.UNAVAILABLE, reason))
        return self._take()

    def timed_out(self, now: float) -> list[Effect]:
        """Act on what is over by now: the :attr:`deadline` has passed, or the wall clock has been set."""
        if self.state is State.ANONYMOUS:
            if self._expires <= now:
                limit = self._limits.auth_timeout
                self._close(Close.AUTHORIZATION_TIMEOUT, f"no valid token within {limit:g} seconds")
        elif self.state is State.AUTHENTICATED and self._grant is not None and self._grant.expires_at != inf:
            # The monotonic clock stands still while the machine is suspended; exp means the wall clock.
            seconds = self._grant.expires_at - self._wall()
            self._expires = now + seconds
            if seconds <= 0:
                self._close(Close.TOKEN_EXPIRED, "the token has expired")
        while self._replies is not None and self._replies[0].deadline <= now:
            topic = self._replies[0].topic
            self._settle(topic, ErrorCode.UNAVAILABLE, f"Redis did not confirm {topic} in time; try again later")
            self._drop(topic)
            self._release()
        return self._take()

    def close(self) -> list[Effect]:
        """The connection is closing, or is gone: the session leaves its topics and answers nothing any more."""
        self._effects.extend(Leave(topic) for topic in self._topics)
        self.state = State.CLOSED
        self._expires = inf
        self._replies = None
        self._topics = {}
        return self._take()

    # On the way to another process.

    def suspend(self) -> list[Effect]:
        """Wait for no topic until :meth:`resume`, so that nothing but the client and the time changes the session."""
        waiting = self.waiting
        for topic in waiting:
            self._topics[topic] = _Topic.PENDING
        if self._replies is not None:
            self._replies.ask_anew(waiting)
        self._effects.extend(map(Leave, waiting))
        return self._take()

    def resume(self) -> list[Effect]:
        """Wait again, after :meth:`suspend` or :meth:`unpack`."""
        self._effects.extend(map(Wait, self.waiting))
        return self._take()

    def pack(self, now: float) -> SessionRecord:
        """Write the record of this session, which must be suspended, and not CLOSED."""
        return SessionRecord(
            id=self.id,
            grant=self._grant,
            seconds_to_authorize=None if self._grant is not None else self._expires - now,
            listening=tuple(self.listening),
            waiting=tuple(self.waiting),
            replies=() if self._replies is None else self._replies.pack(now),
            violations=self._violations,
            bad_tokens=self._bad_tokens,
            allowance=self.allowance.left_at(now),
        )

    # Replies in their order.

    def _reply(self, payload: bytes, request_id: str | int | None, now: float) -> None:
        self._queue_or_send(Reply(messages.with_id(payload, request_id)), now)

    def _queue_or_send(self, reply: Reply, now: float) -> None:
        if self._replies is None:
            self._effects.append(reply)
        else:
            self._hold(reply, "", None, now)

    def _hold(self, reply: Reply, topic: str, request_id: str | int | None, now: float) -> None:
        if self._replies is None:
            self._replies = Replies()
        self._replies.hold(reply, topic, request_id, now + SUBSCRIBE_TIMEOUT)
        if self._replies.size > MAX_HELD:
            self._close(Close.POLICY_VIOLATION, f"more than {MAX_HELD} bytes of replies wait for a subscription")

    def _settle(self, topic: str, code: ErrorCode | None = None, message: str = "") -> None:
        """Decide what the replies of a topic say that are held back: subscribed, or an error."""
        if self._replies is not None:
            self._replies.settle(topic, code, message)

    def _release(self) -> None:
        """Send the replies whose turn has come, and start the topics that they announce."""
        replies = self._replies
        if replies is None:
            return
        for held in replies.take():
            self._effects.append(held.reply)
            topic = held.topic
            if topic and self._topics.get(topic) is _Topic.CONFIRMED:
                self._topics[topic] = _Topic.LISTENING
                self._effects.append(Listen(topic))
        if not replies:
            self._replies = None

    def _drop(self, topic: str) -> None:
        """Leave a topic."""
        del self._topics[topic]
        if self._replies is not None:
            self._replies.forget(topic)
        self._effects.append(Leave(topic))

    def _close(self, code: Close, reason: str) -> None:
        if self.state is not State.CLOSED:
            self._effects = [*self.close(), Closing(code, reason)]

    def _take(self) -> list[Effect]:
        effects, self._effects = self._effects, []
        return effects
