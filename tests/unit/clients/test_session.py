"""The session is held to every rule of PROTOCOL.md, as scripts that one can read, and to a model of its client.

A line of a script is what happens to the session, and behind ``|`` the effects that it returns, in their order::

    subscribe a #1   | wait a
    ping #2          |
    confirmed a      | subscribed #1, listen a, pong #2

``#1`` is the request's id and comes back in the reply. ``after 5`` lets five seconds pass. ``suspend`` and ``move`` are
the two halves of a move to another process: what is left here, and what is waited for there.

A token of these tests is a list of topics, with ``@60`` if it expires 60 seconds after the start; the token ``bad`` is
refused.
"""

from __future__ import annotations

import json
import math
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from wsd.auth.grant import EVERYTHING, Authenticator, Grant, OpenAuthenticator
from wsd.clients import record
from wsd.clients.record import Record
from wsd.clients.replies import Reply
from wsd.clients.session import (
    BURST_SECONDS,
    MAX_BAD_TOKENS,
    MAX_HELD,
    SUBSCRIBE_TIMEOUT,
    Closing,
    Effect,
    Leave,
    Limits,
    Listen,
    Session,
    State,
    Wait,
)
from wsd.codes import TokenReason
from wsd.errors import TokenError

WALL = 1_700_000_000.0  # seconds since the epoch at which tests start


class Tokens:
    """An authenticator that reads tokens like ``a,b*@60``."""

    initial: Grant | None = None

    def verify(self, token: str) -> Grant:
        topics, _, seconds = token.partition("@")
        if topics == "bad":
            raise TokenError("forged", TokenReason[(seconds or "invalid").upper()])
        return Grant(
            subject=token,
            topics=frozenset(topic for topic in topics.split(",") if not topic.endswith("*")),
            prefixes=tuple(topic[:-1] for topic in topics.split(",") if topic.endswith("*")),
            expires_at=WALL + float(seconds) if seconds else math.inf,
        )


TOKENS = Tokens()
DEFAULTS = Limits(auth_timeout=10.0, max_topics=128, max_violations=10, max_request_rate=100.0)


def limits(**changed: float) -> Limits:
    """The default limits but for some."""
    return replace(DEFAULTS, **changed)  # type: ignore[arg-type]  # whole numbers for those that are


# What a reply says, in a word.
WORDS = {
    "context subscribed": "subscribed",
    "context unsubscribed": "unsubscribed",
    "session authenticated": "authenticated",
    "session unauthorized": "unauthorized",
}


def in_words(effect: Effect) -> str:
    if isinstance(effect, Closing):
        return f"close {effect.code}"
    if not isinstance(effect, Reply):
        return f"{type(effect).__name__.lower()} {effect.topic}"
    message = json.loads(effect.payload)
    word = message.get("code") or WORDS.get(message.get("message", "")) or message["action"]
    return f"{word} #{message['id']}" if "id" in message else str(word)


def carried(session: Session, now: float) -> record.SessionRecord:
    """The record of a session that is suspended, after its way through JSON."""
    whole = Record(session.pack(now), b"", None, False, 0.0, None, 0.0, ())
    return record.decode(json.loads(json.dumps(record.encode(whole), allow_nan=False))).session


class Client:
    """A session that is fed with the lines of a script."""

    def __init__(self, limits: Limits = DEFAULTS, authenticator: Authenticator = TOKENS) -> None:
        self.started = self.now = 5_000.0
        self.authenticator = authenticator
        self.limits = limits
        self.session = Session(authenticator, limits, self.now, wall=self.wall)
        self.last: list[Effect] = []  # what the last line brought

    def wall(self) -> float:
        return WALL + self.now - self.started

    def move(self) -> list[Effect]:
        """Go on in another process, whose monotonic clock shows something else."""
        written = carried(self.session, self.now)
        self.now, self.started = self.now - 1000.0, self.started - 1000.0
        self.session = Session.unpack(written, self.authenticator, self.limits, self.now, self.wall)
        return self.session.resume()

    def ask(self, **request: object) -> list[Effect]:
        return self.session.receive(json.dumps({"session": self.session.id} | request), self.now)

    def do(self, line: str) -> list[Effect]:
        """Carry out the left side of a line."""
        words, _, id = line.partition("#")
        verb, _, argument = words.strip().partition(" ")
        happenings: dict[str, Callable[[], list[Effect]]] = {
            "confirmed": lambda: self.session.confirmed(argument),
            "refused": lambda: self.session.refused(argument, "no"),
            "binary": lambda: self.session.receive_binary(self.now),
            "text": lambda: self.session.receive(argument, self.now),
            "after": lambda: self.wait(float(argument)),
            "leave": self.session.close,
            "suspend": self.session.suspend,
            "resume": self.session.resume,
            "move": self.move,
        }
        if verb in happenings:
            return happenings[verb]()
        return self.ask(action=verb, context=argument, **({"id": int(id)} if id else {}))

    def wait(self, seconds: float) -> list[Effect]:
        """Let time pass, and call as the connection does when the deadline has come."""
        self.now += seconds
        effects = self.session.timed_out(self.now) if self.session.deadline <= self.now else []
        assert self.session.deadline > self.now, "the connection would call without end"
        return effects

    def play(self, script: str) -> Client:
        for line in script.strip().splitlines():
            happening, _, effects = line.partition("|")
            self.last = self.do(happening)
            expected = [effect.strip() for effect in effects.split(",") if effect.strip()]
            assert (happening.strip(), [in_words(effect) for effect in self.last]) == (happening.strip(), expected)
        return self

    def errors(self) -> list[str]:
        """The texts of the errors that the last line brought."""
        messages = [json.loads(effect.payload) for effect in self.last if isinstance(effect, Reply)]
        return [message["message"] for message in messages if message["action"] == "error"]


@pytest.fixture
def anonymous() -> Client:
    return Client()


@pytest.fixture
def client() -> Client:
    """One that may subscribe to everything."""
    return Client().play("authorization * | authenticated")


# The session's id.


def test_the_id_is_url_safe_and_has_at_least_128_random_bits() -> None:
    ids = [Client().session.id for _ in range(4000)]
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{22,}", id) for id in ids)
    assert len(set(ids)) == len(ids)
    # How many values each place of it takes: together they tell the bits, if the places are independent.
    assert math.prod(len(set(place)) for place in zip(*ids, strict=True)) >= 2**128


# The table of states, and who may do what.


@pytest.mark.parametrize(
    ("script", "state"),
    [
        ("authorization * #1 | authenticated #1", State.AUTHENTICATED),
        ("authorization bad #1 | unauthorized #1", State.ANONYMOUS),
        ("subscribe a #1 | unauthorized #1", State.ANONYMOUS),
        ("unsubscribe a #1 | unauthorized #1", State.ANONYMOUS),
        ("subscribe __ #1 | unauthorized #1", State.ANONYMOUS),
        ("ping #1 | pong #1", State.ANONYMOUS),
        ("after 10 | close 4001", State.CLOSED),
        ("authorization bad | unauthorized \n after 10 | close 4001", State.CLOSED),
        ("authorization bad | unauthorized \n authorization a | authenticated", State.AUTHENTICATED),
        ("authorization * | authenticated \n authorization bad | unauthorized", State.AUTHENTICATED),
        ("authorization * | authenticated \n after 1000000 |", State.AUTHENTICATED),
        ("authorization *@60 | authenticated \n after 60 | close 4003", State.CLOSED),
    ],
)
def test_each_row_of_the_table_of_states(script: str, state: State, anonymous: Client) -> None:
    assert anonymous.play(script).session.state is state


def test_a_ping_needs_no_session(anonymous: Client) -> None:
    anonymous.play('text {"action":"ping"} | pong')


@pytest.mark.parametrize("action", ["authorization", "subscribe", "unsubscribe"])
@pytest.mark.parametrize("session", ["", "x", "{}x", "{}\0"])
def test_every_other_request_must_name_its_session(action: str, session: str, client: Client) -> None:
    effects = client.ask(action=action, context="*", session=session.format(client.session.id), id=7)
    assert [in_words(effect) for effect in effects] == ["wrong_session #7"]


def test_a_token_is_not_even_looked_at_for_the_wrong_session(anonymous: Client) -> None:
    anonymous.ask(action="authorization", context="*", session=Client().session.id)
    assert anonymous.session.state is State.ANONYMOUS


def test_the_log_learns_why_a_token_was_refused_and_the_client_does_not(anonymous: Client) -> None:
    (reply,) = anonymous.do("authorization bad")
    assert reply == Reply(b'{"action":"session","message":"session unauthorized"}', "unauthorized", "forged")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("authorization bad #1", "invalid"),
        ("authorization bad@expired #1", "expired"),
        ("subscribe a #1", "no_token"),
        ("unsubscribe a #1", "no_token"),
    ],
)
def test_a_client_that_sends_an_id_is_told_a_reason(line: str, reason: str, anonymous: Client) -> None:
    (reply,) = anonymous.do(line)
    assert isinstance(reply, Reply)
    stable = '{"action":"session","message":"session unauthorized"'
    assert reply.payload.decode() == f'{stable},"reason":"{reason}","id":1}}'
    (reply,) = anonymous.do(line.removesuffix(" #1"))
    assert isinstance(reply, Reply)
    assert reply.payload.decode() == f"{stable}}}"


def test_the_subject_is_that_of_the_newest_token(anonymous: Client) -> None:
    assert anonymous.session.subject == ""
    anonymous.play("authorization a | authenticated")
    assert anonymous.session.subject == "a"
    anonymous.play("authorization b | authenticated \n authorization bad | unauthorized")
    assert anonymous.session.subject == "b"


# Subscriptions.


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(
            """
            subscribe a #1   | wait a
            confirmed a      | subscribed #1, listen a
            unsubscribe a #2 | leave a, unsubscribed #2
            """,
            id="once Redis has confirmed",
        ),
        pytest.param(
            """
            unsubscribe a #1 | unsubscribed #1
            """,
            id="unsubscribing what was not subscribed",
        ),
        pytest.param(
            """
            subscribe a #1 | wait a
            subscribe a #2 |
            confirmed a    | subscribed #1, listen a, subscribed #2
            subscribe a #3 | subscribed #3
            confirmed a    |
            """,
            id="twice is once, and each request is answered",
        ),
        pytest.param(
            """
            subscribe a #1   | wait a
            subscribe b #2   | wait b
            confirmed b      |
            subscribe b #3   |
            confirmed a      | subscribed #1, listen a, subscribed #2, listen b, subscribed #3
            """,
            id="a topic that is confirmed early waits for its turn",
        ),
        pytest.param(
            """
            subscribe a #1     | wait a
            ping #2            |
            subscribe b #3     | wait b
            unsubscribe c #4   |
            authorization * #5 |
            authorization bad #6 |
            subscribe __ #7    |
            ping #8            |
            confirmed a        | subscribed #1, listen a, pong #2
            confirmed b        | subscribed #3, listen b, unsubscribed #4, authenticated #5, unauthorized #6, """
            """invalid_topic #7, pong #8
            """,
            id="whatever is behind a pending subscription waits",
        ),
        pytest.param(
            """
            subscribe a #1   | wait a
            unsubscribe a #2 | leave a, subscribed #1, unsubscribed #2
            confirmed a      |
            """,
            id="an unsubscribe overtakes its subscribe",
        ),
        pytest.param(
            """
            subscribe a #1   | wait a
            subscribe b #2   | wait b
            confirmed b      |
            unsubscribe b #3 | leave b
            confirmed a      | subscribed #1, listen a, subscribed #2, unsubscribed #3
            """,
            id="an unsubscribe overtakes a subscribe that is confirmed and waits for its turn",
        ),
        pytest.param(
            """
            subscribe a #1   | wait a
            confirmed a      | subscribed #1, listen a
            subscribe b #2   | wait b
            subscribe a #3   |
            unsubscribe a #4 | leave a
            confirmed b      | subscribed #2, listen b, subscribed #3, unsubscribed #4
            """,
            id="a topic is left at once although the reply waits",
        ),
        pytest.param(
            """
            subscribe a #1   | wait a
            subscribe b #2   | wait b
            unsubscribe b #3 | leave b
            subscribe c #4   | wait c
            subscribe b #5   | wait b
            confirmed b      |
            confirmed a      | subscribed #1, listen a, subscribed #2, unsubscribed #3
            confirmed c      | subscribed #4, listen c, subscribed #5, listen b
            """,
            id="after an unsubscribe nothing is delivered before the next subscribe is answered",
        ),
        pytest.param(
            """
            subscribe a #1   | wait a
            subscribe b #2   | wait b
            confirmed b      |
            unsubscribe b #3 | leave b
            subscribe b #4   | wait b
            confirmed b      |
            confirmed a      | subscribed #1, listen a, subscribed #2, unsubscribed #3, subscribed #4, listen b
            """,
            id="the same for a subscribe that was confirmed",
        ),
        pytest.param(
            """
            subscribe a #1   | wait a
            refused a        | leave a, unavailable #1
            subscribe a #2   | wait a
            confirmed a      | subscribed #2, listen a
            """,
            id="Redis refuses, and then doesn't",
        ),
        pytest.param(
            """
            subscribe a #1 | wait a
            subscribe b #2 | wait b
            subscribe a #3 |
            refused a      | leave a, unavailable #1
            confirmed b    | subscribed #2, listen b, unavailable #3
            """,
            id="a refusal answers every request for the topic, each in its place",
        ),
        pytest.param(
            """
            subscribe a #1 | wait a
            subscribe b #2 | wait b
            confirmed b    |
            refused b      | leave b
            confirmed a    | subscribed #1, listen a, unavailable #2
            """,
            id="Redis takes a topic back before its reply's turn",
        ),
        pytest.param(
            """
            subscribe a #1 | wait a
            confirmed a    | subscribed #1, listen a
            refused b      |
            confirmed b    |
            """,
            id="answers of Redis that nobody waits for",
        ),
        pytest.param(
            """
            subscribe a #1 | wait a
            confirmed a    | subscribed #1, listen a
            refused a      | unavailable
            """,
            id="Redis refuses a topic that is listened to",
        ),
    ],
)
def test_subscribing(script: str, client: Client) -> None:
    client.play(script)


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(
            """
            subscribe a #1 | wait a
            after 4.9      |
            after 0.1      | leave a, unavailable #1
            confirmed a    |
            """,
            id="after 5 seconds, and a late confirmation changes nothing",
        ),
        pytest.param(
            """
            subscribe a #1 | wait a
            subscribe b #2 | wait b
            ping #3        |
            subscribe a #4 |
            after 6        | leave a, unavailable #1, leave b, unavailable #2, pong #3, unavailable #4
            """,
            id="several at once",
        ),
        pytest.param(
            """
            subscribe a #1 | wait a
            after 2        |
            subscribe b #2 | wait b
            confirmed b    |
            after 3        | leave a, unavailable #1, subscribed #2, listen b
            """,
            id="and lets those behind it go",
        ),
        pytest.param(
            """
            subscribe a #1   | wait a
            after 3          |
            unsubscribe a #2 | leave a, subscribed #1, unsubscribed #2
            subscribe a #3   | wait a
            after 3          |
            after 2          | leave a, unavailable #3
            """,
            id="counted anew for a new request",
        ),
        pytest.param(
            """
            subscribe a #1 | wait a
            ping #2        |
            after 4        |
            subscribe b #3 | wait b
            after 1        | leave a, unavailable #1, pong #2
            after 3.5      |
            after 0.5      | leave b, unavailable #3
            """,
            id="each from its own request",
        ),
    ],
)
def test_what_redis_does_not_confirm_is_unavailable(script: str, client: Client) -> None:
    client.play(script)


def test_many_pipelined_subscriptions_are_answered_in_order_whatever_order_redis_takes() -> None:
    client = Client(limits(max_topics=100)).play("authorization * | authenticated")
    for number in range(100):
        client.play(f"subscribe t{number} #{number} | wait t{number}")
    said = [in_words(effect) for number in reversed(range(100)) for effect in client.do(f"confirmed t{number}")]
    assert said == [words for number in range(100) for words in (f"subscribed #{number}", f"listen t{number}")]


def test_too_many_topics_are_refused_pending_ones_counted() -> None:
    client = Client(limits(max_topics=2)).play(
        """
        authorization *  | authenticated
        subscribe a #1   | wait a
        confirmed a      | subscribed #1, listen a
        subscribe b #2   | wait b
        subscribe c #3   |
        subscribe a #4   |
        subscribe b #5   |
        confirmed b      | subscribed #2, listen b, too_many_topics #3, subscribed #4, subscribed #5
        subscribe c #6   | too_many_topics #6
        """
    )
    assert "2 topics" in client.errors()[0]
    assert "unsubscribe" in client.errors()[0]
    client.play(
        """
        unsubscribe a #7 | leave a, unsubscribed #7
        subscribe c #8   | wait c
        after 5          | leave c, unavailable #8
        subscribe a #9   | wait a
        subscribe c #10  |
        refused a        | leave a, unavailable #9, too_many_topics #10
        """
    )
    assert client.session.topics == 1


def test_a_topic_that_the_token_does_not_permit_is_forbidden_and_named() -> None:
    client = Client().play(
        """
        authorization news,chat:* | authenticated
        subscribe news            | wait news
        confirmed news            | subscribed, listen news
        subscribe chat:           | wait chat:
        confirmed chat:           | subscribed, listen chat:
        subscribe newsroom #1     | forbidden_topic #1
        """
    )
    assert "newsroom" in client.errors()[0]
    client.play("unsubscribe newsroom | unsubscribed")


# A fresh token.


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(
            """
            subscribe a        | wait a
            confirmed a        | subscribed, listen a
            subscribe b        | wait b
            confirmed b        | subscribed, listen b
            authorization b #1 | authenticated #1, leave a, forbidden_topic
            subscribe a #2     | forbidden_topic #2
            """,
            id="topics that are listened to",
        ),
        pytest.param(
            """
            subscribe a #1     | wait a
            subscribe a #2     |
            ping #3            |
            authorization b #4 | leave a, forbidden_topic #1, forbidden_topic #2, pong #3, authenticated #4
            confirmed a        |
            """,
            id="topics that are pending",
        ),
        pytest.param(
            """
            subscribe a          | wait a
            confirmed a          | subscribed, listen a
            subscribe b #1       | wait b
            authorization b #2   | leave a
            confirmed b          | subscribed #1, listen b, authenticated #2, forbidden_topic
            """,
            id="in its place behind what is pending",
        ),
        pytest.param(
            """
            subscribe a          | wait a
            authorization a #1   |
            authorization bad #2 |
            confirmed a          | subscribed, listen a, authenticated #1, unauthorized #2
            """,
            id="none if all are still permitted",
        ),
    ],
)
def test_topics_that_a_fresh_token_does_not_permit_are_unsubscribed(script: str, client: Client) -> None:
    client.play(script)


def test_the_client_is_told_each_topic_that_it_lost(client: Client) -> None:
    for topic in ("a", "b", "c"):
        client.play(f"subscribe {topic} | wait {topic} \n confirmed {topic} | subscribed, listen {topic}")
    client.play("authorization b | authenticated, leave a, forbidden_topic, leave c, forbidden_topic")
    assert [text.split(";")[0] for text in client.errors()] == [
        "the new token does not permit a",
        "the new token does not permit c",
    ]


def test_the_client_is_told_that_it_lost_a_topic_whose_reply_was_held_back(client: Client) -> None:
    """Whether the reply itself becomes the error, or an error follows it, it must come."""
    client.play(
        """
        subscribe b #1     | wait b
        subscribe a #2     | wait a
        confirmed a        |
        authorization b #3 | leave a
        """
    )
    client.last = client.do("confirmed b")
    assert [effect for effect in client.last if not isinstance(effect, Reply)] == [Listen("b")]
    assert [text.split(";")[0] for text in client.errors()] == ["the new token does not permit a"]


def test_a_refused_token_changes_nothing(anonymous: Client) -> None:
    anonymous.play(
        """
        authorization a@60   | authenticated
        subscribe a          | wait a
        confirmed a          | subscribed, listen a
        authorization bad    | unauthorized
        subscribe a          | subscribed
        subscribe b          | forbidden_topic
        after 59             |
        after 1              | leave a, close 4003
        """
    )


# Deadlines.


def test_a_fresh_token_takes_over_the_expiry(anonymous: Client) -> None:
    anonymous.play(
        """
        authorization *@60  | authenticated
        after 50            |
        authorization *@120 | authenticated
        after 69            |
        after 1             | close 4003
        """
    )


@pytest.mark.parametrize(("token", "seconds"), [("*@60", 60), ("*@0", 0), ("*@1e300", 1e300), ("*", math.inf)])
def test_the_deadline_is_the_tokens_by_the_wall_clock(token: str, seconds: float, anonymous: Client) -> None:
    anonymous.now += 3
    anonymous.play(f"authorization {token} | authenticated")
    assert anonymous.session.deadline == pytest.approx(anonymous.started + seconds)


def test_a_token_expires_by_the_wall_clock_also_when_the_monotonic_one_stood_still(anonymous: Client) -> None:
    anonymous.play("authorization *@60 | authenticated")
    anonymous.started -= 59  # a machine that was suspended for so long
    assert anonymous.session.timed_out(anonymous.now) == []
    assert anonymous.session.deadline == pytest.approx(anonymous.now + 1)
    anonymous.started -= 1
    assert [in_words(effect) for effect in anonymous.session.timed_out(anonymous.now)] == ["close 4003"]


def test_a_wall_clock_that_is_set_back_gives_a_token_its_time(anonymous: Client) -> None:
    anonymous.play("authorization *@60 | authenticated")
    anonymous.started += 30
    anonymous.play("after 60 | \n after 30 | close 4003")


def test_the_deadline_is_the_earlier_one_of_the_token_and_the_oldest_pending_topic(anonymous: Client) -> None:
    session, started = anonymous.session, anonymous.started
    assert session.deadline == started + DEFAULTS.auth_timeout
    anonymous.play("authorization *@6 | authenticated \n subscribe a | wait a \n after 2 | \n subscribe b | wait b")
    assert session.deadline == started + SUBSCRIBE_TIMEOUT
    anonymous.play("confirmed a | subscribed, listen a")
    assert session.deadline == pytest.approx(started + 6)
    anonymous.play("after 4 | leave a, leave b, close 4003")
    assert session.deadline == math.inf


def test_a_call_before_the_deadline_does_nothing(client: Client) -> None:
    client.play("subscribe a | wait a")
    assert client.session.timed_out(client.now + SUBSCRIBE_TIMEOUT - 0.01) == []


# Too many bad requests.


@pytest.mark.parametrize(
    ("happening", "slug"),
    [
        ("text", "malformed"),
        ("text {}", "malformed"),
        ('text {"action":"ping","id":1.5}', "malformed"),
        ("binary", "malformed"),
        ("dance", "unknown_action"),
        ('text {"action":"subscribe","session":"x","context":"a"}', "wrong_session"),
        ("subscribe __a", "invalid_topic"),
        ("unsubscribe a b", "invalid_topic"),
    ],
)
def test_bad_requests_close_the_connection_in_the_end(happening: str, slug: str) -> None:
    client = Client(limits(max_violations=3)).play("authorization * | authenticated \n subscribe a | wait a")
    client.play("confirmed a | subscribed, listen a")
    client.play(f"{happening} | {slug} \n {happening} | {slug} \n {happening} | {slug}, leave a, close 1008")
    assert client.session.state is State.CLOSED


@pytest.mark.parametrize(
    "happenings",
    [
        "subscribe b | forbidden_topic",
        "subscribe a2 | too_many_topics",
        "subscribe a1 | wait a1 \n refused a1 | leave a1, unavailable",
    ],
)
def test_other_refusals_do_not_count(happenings: str) -> None:
    client = Client(limits(max_violations=1, max_topics=1)).play("authorization a* | authenticated")
    if "too_many_topics" in happenings:
        client.play("subscribe a1 | wait a1 \n confirmed a1 | subscribed, listen a1")
    for _ in range(20):
        client.play(happenings)
    assert client.session.state is State.AUTHENTICATED


def test_too_many_bad_tokens_in_a_row_close_the_connection(anonymous: Client) -> None:
    for _ in range(MAX_BAD_TOKENS - 1):
        anonymous.play("authorization bad | unauthorized")
    anonymous.play("authorization a | authenticated")
    for _ in range(MAX_BAD_TOKENS - 1):
        anonymous.play("authorization bad | unauthorized")
    anonymous.play("authorization bad | unauthorized, close 1008")
    assert anonymous.session.state is State.CLOSED


@pytest.mark.parametrize("refused", ["subscribe __a", "subscribe b", "text", "binary", "dance"])
def test_the_log_learns_what_the_client_is_told(refused: str) -> None:
    client = Client().play("authorization a | authenticated")
    (reply,) = client.do(refused)
    assert isinstance(reply, Reply)
    assert reply.reason == json.loads(reply.payload)["message"] != ""


def test_requests_without_authorization_do_not_count(anonymous: Client) -> None:
    for _ in range(20):
        anonymous.play("subscribe a | unauthorized")


def test_a_close_does_not_wait_for_the_replies_that_are_held_back() -> None:
    client = Client(limits(max_violations=2)).play(
        """
        authorization * | authenticated
        subscribe a     | wait a
        binary          |
        binary          | leave a, close 1008
        """
    )
    assert client.session.deadline == math.inf


# The rate.


def charge(client: Client, times: int) -> float:
    """Charge some frames at once; return the seconds to wait that the last one brought."""
    return [client.session.allowance.charge(client.now) for _ in range(times)][-1]


def test_a_client_may_send_a_burst_and_then_at_its_rate() -> None:
    client = Client(limits(max_request_rate=2))
    assert charge(client, int(2 * BURST_SECONDS)) == 0
    assert charge(client, 1) == pytest.approx(0.5)


def test_a_client_above_its_rate_is_told_so_in_an_error_with_the_id_and_may_go_on() -> None:
    client = Client(limits(max_request_rate=2, max_violations=1)).play("authorization * | authenticated")
    charge(client, int(2 * BURST_SECONDS) + 1)
    client.play(
        """
        subscribe a #1     | rate_limited #1
        unsubscribe a #2   | rate_limited #2
        authorization * #3 | rate_limited #3
        ping #4            | rate_limited #4
        """
    )
    assert "2 requests a second" in client.errors()[0]
    client.now += 1
    charge(client, 1)
    client.play("ping #5 | pong #5")


def test_a_rate_of_0_is_no_limit() -> None:
    client = Client(limits(max_request_rate=0))
    assert charge(client, 100_000) == 0
    client.play("ping | pong")


# Authentication off.


def test_without_authentication_a_client_may_skip_the_token_or_send_any() -> None:
    client = Client(authenticator=OpenAuthenticator()).play(
        """
        subscribe a       | wait a
        confirmed a       | subscribed, listen a
        authorization * x | authenticated
        subscribe a       | subscribed
        after 1000000     |
        """
    )
    assert client.session.state is State.AUTHENTICATED
    assert client.session.deadline == math.inf


# The end.


def test_a_session_that_ends_leaves_all_its_topics_once(client: Client) -> None:
    client.play(
        """
        subscribe a | wait a
        confirmed a | subscribed, listen a
        subscribe b | wait b
        subscribe c | wait c
        confirmed c |
        leave       | leave a, leave b, leave c
        leave       |
        """
    )
    assert (client.session.topics, client.session.deadline) == (0, math.inf)


@pytest.mark.parametrize("end", ["leave |", "after 60 | close 4003"])
def test_a_closed_session_is_silent(end: str) -> None:
    client = Client().play(f"authorization *@60 | authenticated \n {end}")
    for happening in ("ping", "text", "binary", "subscribe a", "authorization *", "confirmed a", "refused a", "leave"):
        client.play(f"{happening} |")
    assert client.session.timed_out(math.inf) == []
    assert client.session.state is State.CLOSED


# On the way to another process.


@pytest.mark.parametrize("there", ["move", "resume"])
@pytest.mark.parametrize(
    "script",
    [
        pytest.param(
            """
            subscribe a #1 | wait a
            confirmed a    | subscribed #1, listen a
            suspend        |
            {there}        |
            subscribe a #2 | subscribed #2
            unsubscribe a  | leave a, unsubscribed
            """,
            id="a topic that is delivered stays",
        ),
        pytest.param(
            """
            subscribe a #1 | wait a
            ping #2        |
            suspend        | leave a
            {there}        | wait a
            ping #3        |
            confirmed a    | subscribed #1, listen a, pong #2, pong #3
            """,
            id="a topic that Redis has not confirmed is waited for again",
        ),
        pytest.param(
            """
            subscribe a #1       | wait a
            subscribe b #2       | wait b
            subscribe b #6       |
            unsubscribe c #3     |
            confirmed b          |
            suspend              | leave a, leave b
            {there}              | wait a, wait b
            confirmed a          | subscribed #1, listen a
            authorization bad #5 |
            confirmed b          | subscribed #2, listen b, subscribed #6, unsubscribed #3, unauthorized #5
            """,
            id="a topic that nobody has heard of is confirmed anew",
        ),
        pytest.param(
            """
            subscribe a #1   | wait a
            subscribe b #2   | wait b
            confirmed a      | subscribed #1, listen a
            subscribe a #3   |
            suspend          | leave b
            {there}          | wait b
            unsubscribe a #4 | leave a
            confirmed b      | subscribed #2, listen b, subscribed #3, unsubscribed #4
            """,
            id="a reply that is known stays what it is",
        ),
        pytest.param(
            """
            subscribe a #1 | wait a
            subscribe b #2 | wait b
            refused b      | leave b
            suspend        | leave a
            {there}        | wait a
            refused a      | leave a, unavailable #1, unavailable #2
            """,
            id="refusals",
        ),
        pytest.param(
            """
            subscribe a #1 | wait a
            after 3        |
            subscribe b #2 | wait b
            suspend        | leave a, leave b
            {there}        | wait a, wait b
            after 2        | leave a, unavailable #1
            after 2        |
            after 1        | leave b, unavailable #2
            """,
            id="the time to wait for Redis goes on",
        ),
    ],
)
def test_what_was_asked_for_is_answered_after_a_move_and_when_it_did_not_come_off(
    script: str, there: str, client: Client
) -> None:
    client.play("\n".join(line.format(there=there) for line in script.strip().splitlines()))


def test_time_goes_on_while_a_session_is_suspended(client: Client) -> None:
    client.play(
        """
        subscribe a #1 | wait a
        suspend        | leave a
        after 5        | leave a, unavailable #1
        move           |
        """
    )


def test_an_anonymous_session_has_the_rest_of_its_time(anonymous: Client) -> None:
    anonymous.play("after 4 | \n suspend | \n move | \n after 5.9 | \n subscribe a | unauthorized")
    anonymous.play("after 0.1 | close 4001")


def test_an_authorized_session_keeps_its_grant_and_its_end(anonymous: Client) -> None:
    anonymous.play("authorization a,b*@60 | authenticated \n after 10 | \n suspend | \n move |")
    assert anonymous.session.subject == "a,b*@60"
    anonymous.play("subscribe c | forbidden_topic \n subscribe bc | wait bc")
    anonymous.play("confirmed bc | subscribed, listen bc \n after 49.5 | \n after 0.5 | leave bc, close 4003")


def test_a_token_that_expires_on_the_way_ends_the_session_at_once(anonymous: Client) -> None:
    anonymous.play("authorization *@60 | authenticated \n subscribe a | wait a \n suspend | leave a")
    written = carried(anonymous.session, anonymous.now)
    anonymous.now += 61
    anonymous.session = Session.unpack(written, TOKENS, DEFAULTS, anonymous.now, anonymous.wall)
    assert anonymous.session.deadline <= anonymous.now
    assert [in_words(effect) for effect in anonymous.session.timed_out(anonymous.now)] == ["leave a", "close 4003"]


def test_the_id_stays(client: Client) -> None:
    before = client.session.id
    client.play("suspend | \n move |")
    assert client.session.id == before


def test_bad_requests_and_bad_tokens_are_still_counted() -> None:
    client = Client(limits(max_violations=3)).play("binary | malformed \n binary | malformed")
    for _ in range(MAX_BAD_TOKENS - 1):
        client.play("authorization bad | unauthorized")
    client.play("suspend | \n move |")
    assert client.session.state is State.ANONYMOUS
    other = Client(client.limits)
    other.session = Session.unpack(carried(client.session, client.now), TOKENS, other.limits, other.now, other.wall)
    other.play("binary | malformed, close 1008")
    client.play("authorization bad | unauthorized, close 1008")


def test_an_allowance_is_not_filled_by_a_move() -> None:
    client = Client(limits(max_request_rate=2)).play("authorization * | authenticated")
    assert charge(client, int(2 * BURST_SECONDS)) == 0
    client.play("suspend | \n move |")
    assert charge(client, 1) == pytest.approx(0.5)
    client.now += 2
    client.play("suspend | \n move |")
    assert charge(client, 3) == 0
    assert charge(client, 1) == pytest.approx(0.5)


@pytest.mark.parametrize(("before", "after", "left"), [(0, 2, 10), (2, 0, 1), (100, 2, 10), (2, 100, 10)])
def test_an_allowance_is_that_of_the_new_limit(before: float, after: float, left: float) -> None:
    client = Client(limits(max_request_rate=before))
    client.limits = limits(max_request_rate=after)
    client.play("suspend | \n move |")
    assert client.session.allowance.left == left


def test_a_session_above_the_new_limits_keeps_what_it_has() -> None:
    client = Client(limits(max_topics=2)).play(
        """
        authorization * | authenticated
        subscribe a     | wait a
        confirmed a     | subscribed, listen a
        subscribe b     | wait b
        suspend         | leave b
        """
    )
    client.limits = limits(max_topics=1, auth_timeout=0.001)
    client.play(
        """
        move          | wait b
        confirmed b   | subscribed, listen b
        subscribe c   | too_many_topics
        unsubscribe a | leave a, unsubscribed
        subscribe c   | too_many_topics
        """
    )


def test_who_needs_no_token_any_more_has_everything() -> None:
    client = Client().play("suspend |")
    client.authenticator = OpenAuthenticator()
    client.play("move | \n subscribe a | wait a \n after 5 | leave a, unavailable \n after 1000000 |")
    assert client.session.state is State.AUTHENTICATED


def test_who_needed_no_token_keeps_everything() -> None:
    client = Client(authenticator=OpenAuthenticator()).play("suspend |")
    client.authenticator = TOKENS
    client.play("move | \n subscribe a | wait a")
    assert client.session.pack(client.now).grant == EVERYTHING


# The model: whatever happens, what the client has read is true.

some_topic = st.sampled_from(["topic-a", "topic-b", "topic-c"])
MODEL_LIMITS = limits(auth_timeout=10, max_topics=2, max_violations=8, max_request_rate=0)


MISTAKES: dict[str, dict[str, object]] = {
    "malformed": {"action": 5},
    "unknown_action": {"action": "dance"},
    "wrong_session": {"action": "subscribe", "session": ""},
}


@dataclass(eq=False)
class Asked:
    """A request that was not answered yet."""

    id: int
    action: str
    topic: str
    at: float
    answers: set[str]  # those that are right; empty while it depends on Redis
    subscription: int = 0  # the id of the request that its subscription began with


class SessionMachine(RuleBasedStateMachine):
    """A client, the topic table and Redis around a session, in any order of events."""

    @initialize(token=st.sampled_from(["*", "*", "*@90", "bad"]), topics=st.lists(some_topic, max_size=3))
    def open(self, token: str, topics: list[str]) -> None:
        self.now = 0.0
        self.moving = False  # whether it is on its way to another process, and waits for no topic
        self.session = Session(TOKENS, MODEL_LIMITS, 0.0, wall=lambda: WALL + self.now)
        self.requests = self.violations = 0
        self.closed = False
        self.grant: Grant | None = None
        self.expires = MODEL_LIMITS.auth_timeout
        self.unanswered: deque[Asked] = deque()
        self.wanted: dict[str, int] = {}  # topics, each with the id of the request that began its subscription
        self.interest: dict[str, bool] = {}  # what the session told the table: topics, and whether it listens
        self.confirmed: set[str] = set()
        self.last_read: dict[str, tuple[str, int]] = {}  # of each topic: the last reply, and of which subscription
        self.owed: set[str] = set()  # topics that a token took away, not said yet
        self.authorize(token)
        for topic in topics:
            self.subscribe(topic)

    # The client.

    def ask(self, action: str, topic: str, answers: set[str], mistake: dict[str, object] | None = None) -> None:
        self.requests += 1
        subscription = self.wanted.get(topic, 0) if action == "subscribe" else 0
        asked = Asked(self.requests, action, topic, self.now, answers, subscription)
        self.unanswered.append(asked)
        request = {"action": action, "session": self.session.id, "context": topic, "id": asked.id} | (mistake or {})
        self.carry_out(self.session.receive(json.dumps(request), self.now))

    @precondition(lambda self: not self.closed)
    @rule(topic=some_topic)
    def subscribe(self, topic: str) -> None:
        if self.grant is None:
            answers = {"unauthorized"}
        elif not self.grant.permits(topic):
            answers = {"forbidden_topic"}
        elif topic not in self.wanted and len(self.wanted) == MODEL_LIMITS.max_topics:
            answers = {"too_many_topics"}
        else:
            self.wanted.setdefault(topic, self.requests + 1)
            answers = {"subscribed"} if topic in self.confirmed else set()
        self.ask("subscribe", topic, answers)

    @precondition(lambda self: not self.closed)
    @rule(topic=some_topic)
    def unsubscribe(self, topic: str) -> None:
        if self.grant is not None:
            for asked in self.held(topic):
                asked.answers = {"subscribed"}
            self.drop(topic)
        self.ask("unsubscribe", topic, {"unauthorized" if self.grant is None else "unsubscribed"})

    @precondition(lambda self: not self.closed)
    @rule(token=st.sampled_from(["*", "topic-a,topic-b", "topic-c,", "*@90", "bad"]))
    def authorize(self, token: str) -> None:
        if token == "bad":
            return self.ask("authorization", token, {"unauthorized"})
        self.grant = TOKENS.verify(token)
        self.expires = self.grant.expires_at - WALL
        for topic in [topic for topic in self.wanted if not self.grant.permits(topic)]:
            for asked in self.held(topic):
                asked.answers.add("forbidden_topic")  # a "subscribed" that is held back may be taken back
            self.drop(topic)
            self.owed.add(topic)
        self.ask("authorization", token, {"authenticated"})

    @precondition(lambda self: not self.closed)
    @rule(slug=st.sampled_from(["", "", "", *MISTAKES]))
    def ping_or_make_a_mistake(self, slug: str) -> None:
        self.violations += bool(slug)
        self.ask("ping", "", {slug or "pong"}, MISTAKES.get(slug))
        assert self.closed is (self.violations == MODEL_LIMITS.max_violations)

    # Redis, and time.

    def held(self, topic: str) -> list[Asked]:
        """The requests of a subscription that goes on whose replies are held back."""
        return [asked for asked in self.unanswered if asked.subscription == self.wanted.get(topic)]

    def drop(self, topic: str) -> None:
        self.wanted.pop(topic, None)
        self.confirmed.discard(topic)

    @precondition(lambda self: self.interest)
    @rule(draw=st.data(), confirms=st.booleans())
    def redis_answers(self, draw: st.DataObject, confirms: bool) -> None:
        topic = draw.draw(st.sampled_from(sorted(self.interest)))
        if confirms:
            self.redis_confirms(topic)
        elif not self.interest[topic]:  # the table tells nobody else
            self.redis_refuses(topic)

    @rule(topic=some_topic)
    def redis_answers_late(self, topic: str) -> None:
        if topic not in self.wanted:
            assert self.session.confirmed(topic) == self.session.refused(topic, "no") == []

    def redis_confirms(self, topic: str) -> None:
        for asked in self.held(topic):
            asked.answers = {"subscribed"}
        self.confirmed.add(topic)
        self.carry_out(self.session.confirmed(topic))

    def redis_refuses(self, topic: str) -> None:
        for asked in self.held(topic):
            asked.answers = {"unavailable"}
        self.drop(topic)
        self.carry_out(self.session.refused(topic, "no"))

    @rule(seconds=st.sampled_from([0.5, 0.5, 2.0, 5.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        if self.expires > self.now:
            for late in self.unanswered:
                if not late.answers and late.at + SUBSCRIBE_TIMEOUT <= self.now:
                    for asked in self.held(late.topic):
                        asked.answers = {"unavailable"}
                    self.drop(late.topic)
        if self.session.deadline <= self.now:
            self.carry_out(self.session.timed_out(self.now))
        if self.expires <= self.now:
            assert self.closed

    @precondition(lambda self: not self.closed)
    @rule(seconds=st.sampled_from([0.0, 0.5, 2.0]), comes_off=st.booleans())
    def the_connection_moves(self, seconds: float, comes_off: bool) -> None:
        self.carry_out(self.session.suspend())
        assert all(self.interest.values())
        for topic in self.wanted:
            if topic not in self.interest:
                self.confirmed.discard(topic)
                for asked in self.held(topic):
                    asked.answers = set()
        self.moving = True
        self.time_passes(seconds)
        if not self.closed:
            if comes_off:
                written = carried(self.session, self.now)
                self.session = Session.unpack(written, TOKENS, MODEL_LIMITS, self.now, wall=lambda: WALL + self.now)
            self.carry_out(self.session.resume())
        self.moving = False

    @precondition(lambda self: self.closed)
    @rule()
    def ask_after_the_end(self) -> None:
        assert self.session.receive('{"action":"ping"}', self.now) == []

    # What the session does.

    def carry_out(self, effects: list[Effect]) -> None:
        self.sound = False  # until the end of this
        for effect in effects:
            assert not self.closed, "an effect after the end"
            if isinstance(effect, Reply):
                self.read(effect)
            elif isinstance(effect, Wait):
                assert effect.topic not in self.interest
                self.interest[effect.topic] = False
            elif isinstance(effect, Listen):
                assert self.interest[effect.topic] is False
                assert effect.topic in self.confirmed
                self.interest[effect.topic] = True
            elif isinstance(effect, Leave):
                assert self.moving or effect.topic in self.interest
                self.interest.pop(effect.topic, None)
            else:
                self.end(effect)
            for topic in [topic for topic, listening in self.interest.items() if listening]:
                answer, subscription = self.last_read[topic]
                assert answer == "subscribed", "a topic is delivered that the client was told it has not"
                assert subscription == self.wanted.get(topic, subscription), "a topic is delivered too early"

        self.sound = True

    def read(self, reply: Reply) -> None:
        answer, _, id = in_words(reply).partition(" #")
        if id:
            asked = self.unanswered.popleft()
            assert asked.id == int(id)
            assert answer in asked.answers
            topic = asked.topic
            self.last_read[topic] = answer, asked.subscription
        else:
            (topic,) = (topic for topic in self.owed if topic.encode() in reply.payload)
            assert answer == "forbidden_topic"
            self.last_read[topic] = answer, 0
        if answer == "forbidden_topic" and b"new token" in reply.payload:
            self.owed.discard(topic)

    def end(self, closing: Closing) -> None:
        assert self.interest == {}
        if self.expires <= self.now:
            assert closing.code == (4001 if self.grant is None else 4003)
        else:
            assert closing.code == 1008
        self.closed = True
        self.unanswered.clear()
        self.wanted.clear()
        self.confirmed.clear()
        self.owed.clear()

    @invariant()
    def the_session_keeps_what_the_client_was_told(self) -> None:
        assert self.interest.keys() == self.wanted.keys()
        assert self.session.topics == len(self.wanted) <= MODEL_LIMITS.max_topics
        assert self.session.deadline > self.now
        assert self.session.state is (
            State.CLOSED if self.closed else State.ANONYMOUS if self.grant is None else State.AUTHENTICATED
        )
        for topic, subscription in self.wanted.items():
            if self.last_read.get(topic) == ("subscribed", subscription):
                assert self.interest[topic] is True
        if self.unanswered:
            assert not self.unanswered[0].answers, "a reply is held back without need"
            assert self.unanswered[0].at + SUBSCRIBE_TIMEOUT > self.now

    def teardown(self) -> None:
        if self.sound:
            for topic in sorted(self.interest):
                self.redis_confirms(topic)
            assert not self.unanswered
            assert not self.owed
            assert all(self.interest.values())


TestSession = SessionMachine.TestCase
TestSession.settings = settings(deadline=None, max_examples=3 * settings().max_examples, stateful_step_count=40)


def test_replies_that_are_held_back_are_bounded() -> None:
    client = Client(limits(max_request_rate=0), OpenAuthenticator())
    assert [in_words(effect) for effect in client.ask(action="subscribe", context="a")] == ["wait a"]
    for size in (0, MAX_HELD // 8):
        for _ in range(4):
            assert client.ask(action="ping", id="x" * size) == []
    effects: list[Effect] = []
    while not effects:
        effects = client.ask(action="ping", id="x" * (MAX_HELD // 8))
    assert [in_words(effect) for effect in effects] == ["leave a", "close 1008"]
    assert client.session.state is State.CLOSED


def test_a_narrower_token_may_be_what_fills_the_held_replies() -> None:
    topics = [f"{number}-{'x' * 240}" for number in range(1000)]
    client = Client(limits(max_request_rate=0, max_topics=2000))
    client.ask(action="authorization", context="*")
    for topic in topics:
        client.ask(action="subscribe", context=topic)
        client.session.confirmed(topic)
    client.ask(action="subscribe", context="pending")
    effects = client.ask(action="authorization", context="pending")
    assert in_words(effects[-1]) == "close 1008"
    assert client.session.state is State.CLOSED
    left = [effect.topic for effect in effects if isinstance(effect, Leave)]
    assert sorted(left) == sorted([*topics, "pending"])
