"""The judge finds what is planted: made-up diaries and a made-up book."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from tests.handover.diary import Diary, End
from tests.handover.judge import Verdict, judge
from tests.handover.numbers import PLACE, Book

LAST = 20
"""Numbers that were published on the topic: one a second, from second 1 on."""

GAP = "gap"

Step = int | str | tuple[Any, ...]
"""What happens to a client: a number comes, a gap comes, or one of the methods of a diary is called."""


def book(refused: Iterable[int] = (), uncertain: Iterable[int] = ()) -> Book:
    made = Book(("t",), 2)
    for place in (0, 1):
        for number in range(1, LAST + 1):
            made.at("t", place).note(number, None if number in uncertain else number not in refused)
    return made


def subscribed(since: float, topic: str = "t") -> list[Step]:
    return [("asks", "subscribe", topic, 1), ("reply", "subscribe", "context subscribed", 1, since)]


def unsubscribed(topic: str = "t") -> list[Step]:
    return [("asks", "unsubscribe", topic, 2), ("reply", "unsubscribe", "context unsubscribed", 2, 0.0)]


def numbers(first: int, last: int) -> list[Step]:
    return list(range(first, last + 1))


def diary(*steps: Step) -> Diary:
    written = Diary("client")
    written.greeted()
    for step in steps:
        match step:
            case int(number):
                written.received({"action": "message", "topic": "t", "snapshot": number}, 0.0)
            case "gap":
                written.received({"action": "gap", "topic": "t"}, 0.0)
            case ("reply", action, message, request_id, when):
                written.received({"action": action, "message": message, "id": request_id}, when)
            case ("received", message):
                written.received(message, 0.0)
            case (str(method), *arguments):
                getattr(written, method)(*arguments)
    return written


def verdict(*steps: Step, closed: int = LAST, published: Book | None = None, **options: Any) -> Verdict:
    return judge([diary(*steps)], published or book(), {"t": closed}, **options)


def test_a_client_that_got_everything() -> None:
    found = verdict(*subscribed(4.5), *numbers(5, LAST))
    assert not found.problems
    assert (found.messages, found.replies, found.clients) == (16, 1, 1)
    assert not found.lost and not found.gaps and not found.ends


@pytest.mark.parametrize(
    "steps",
    [
        [*subscribed(4.5), *numbers(4, LAST)],
        [*subscribed(4.5), *numbers(5, 9), GAP, *numbers(12, LAST)],
        [*subscribed(4.5), GAP, *numbers(8, LAST)],
        [*subscribed(4.5), *numbers(5, 9), *unsubscribed(), *subscribed(14.5), *numbers(15, LAST)],
        [*subscribed(4.5), *numbers(5, 9), *unsubscribed()],
        [*subscribed(4.5), *numbers(5, 9), ("leaves",)],
        [*subscribed(LAST + 1.0)],
        [*subscribed(4.5), *numbers(5, 9), GAP, *range(PLACE + 11, PLACE + LAST + 1)],
        [("pinged", b"1"), ("pinged", b"2"), ("ponged", b"1"), ("ponged", b"2")],
        [("asks", "ping", "", 7), ("received", {"action": "pong", "id": 7})],
    ],
    ids=[
        "published before the reply was read",
        "a hole under a gap",
        "a gap first",
        "subscribed twice",
        "unsubscribed, and nothing more",
        "left",
        "subscribed after the last number",
        "another place under a gap",
        "pings",
        "ping requests",
    ],
)
def test_clients_that_have_nothing_to_complain_of(steps: list[Step]) -> None:
    assert not verdict(*steps).problems


@pytest.mark.parametrize(
    ("steps", "problem"),
    [
        ([*subscribed(4.5), *numbers(5, 9), *numbers(11, LAST)], "10 to 10 were lost"),
        ([*subscribed(4.5), *numbers(7, LAST)], "5 to 6 were lost"),
        ([*subscribed(4.5), *numbers(5, 9), *numbers(11, 12), GAP, *numbers(13, LAST)], "10 to 10 were lost"),
        ([*subscribed(4.5), *numbers(5, 18)], "2 numbers from 19 on never came"),
        ([*subscribed(4.5), *numbers(5, 18), GAP], "2 numbers from 19 on never came"),
        ([*subscribed(4.5)], "16 numbers from 5 on never came"),
        ([*subscribed(4.5), *numbers(5, 9), *numbers(9, LAST)], "9 came after 9"),
        ([*subscribed(4.5), *numbers(5, 9), 11, 10, *numbers(12, LAST)], "10 came after 11"),
        ([*subscribed(4.5), *numbers(5, 9), *numbers(5, LAST)], "5 came after 9"),
        (
            [*subscribed(4.5), *numbers(5, 9), *unsubscribed(), *subscribed(8.5), *numbers(9, LAST)],
            "9 came after 9",
        ),
        (
            [*subscribed(4.5), *numbers(5, 9), *unsubscribed(), *subscribed(10.5), *numbers(12, LAST)],
            "11 to 11 were lost",
        ),
        ([5, *subscribed(4.5), *numbers(5, LAST)], "while the topic was not subscribed"),
        ([*subscribed(4.5), *numbers(5, 9), *unsubscribed(), 10], "while the topic was not subscribed"),
        ([GAP, *subscribed(4.5), *numbers(5, LAST)], "a gap of t, which was not subscribed"),
        ([*subscribed(4.5), *numbers(5, 9), *range(PLACE + 10, PLACE + LAST + 1)], "from another place"),
        (
            [*subscribed(4.5), *numbers(5, 9), GAP, PLACE + 10, GAP, *numbers(11, LAST)],
            f"11 came after {PLACE + 10}",
        ),
        (
            [*subscribed(4.5), *numbers(5, 9), GAP, *range(PLACE + 10, PLACE + LAST)],
            f"1 numbers from {PLACE + LAST} on never came",
        ),
    ],
)
def test_what_is_wrong_with_messages_is_found(steps: list[Step], problem: str) -> None:
    found = verdict(*steps).problems
    assert any(problem in each for each in found), found


@pytest.mark.parametrize(
    ("steps", "problem"),
    [
        ([("asks", "ping", "", 7)], "1 replies never came"),
        ([("asks", "ping", "", 7), ("asks", "ping", "", 8), ("received", {"action": "pong", "id": 8})], "in place of"),
        ([("received", {"action": "pong", "id": 8})], "answers no request"),
        (
            [
                ("asks", "ping", "", 7),
                ("received", {"action": "pong", "id": 7}),
                ("received", {"action": "pong", "id": 7}),
            ],
            "answers no request",
        ),
        ([("asks", "subscribe", "t", 1), ("reply", "session", "session unauthorized", 1, 0.0)], "answers Request"),
        ([("asks", "subscribe", "t", 1), ("reply", "x", "context subscribed", 1, 0.0)], "wrong action"),
        (
            [
                ("asks", "subscribe", "t", 1),
                ("received", {"action": "error", "code": "unavailable", "message": "", "id": 1}),
            ],
            "answers Request",
        ),
        ([("received", {"action": "error", "code": "malformed", "message": "?"})], "answers no request"),
        ([("pinged", b"1")], "1 pongs never came"),
        ([("ponged", b"1")], "nobody waits for"),
        ([("pinged", b"1"), ("pinged", b"2"), ("ponged", b"2")], "in place of"),
        ([("pinged", b"1"), ("ponged", b"1"), ("ponged", b"1")], "nobody waits for"),
        ([("ended", 1012, "service restart", 0.0)], "closed with 1012 service restart"),
        ([("ended", None, "", 0.0)], "closed with 1006"),
    ],
)
def test_what_is_wrong_with_replies_and_connections_is_found(steps: list[Step], problem: str) -> None:
    found = verdict(*steps).problems
    assert problem in found[0], found


def test_a_greeting_that_is_not_one_is_found() -> None:
    written = Diary("client")
    written.received({"action": "connect", "message": "connection established"}, 0.0)
    written.received({"action": "connect", "message": "connection established"}, 0.0)
    assert "in place of 'waiting for create session'" in written.problems[0]


def test_what_redis_did_not_accept_may_be_missing() -> None:
    steps = [*subscribed(4.5), *numbers(5, 9), *numbers(12, LAST)]
    assert not verdict(*steps, published=book(refused=(10, 11))).problems
    assert not verdict(*steps, published=book(uncertain=(10, 11))).problems
    assert not verdict(*steps, 10, published=book(uncertain=(10, 11))).problems, "it came late"
    assert verdict(*steps, published=book(refused=(10,))).problems
    assert verdict(*steps, 10, published=book(refused=(10,), uncertain=(11,))).problems


def test_what_may_still_be_under_way_may_be_missing() -> None:
    assert not verdict(*subscribed(4.5), *numbers(5, 18), closed=18).problems


def test_some_ends_are_allowed() -> None:
    def may(written: Diary, end: End) -> bool:
        return end.code == 4008

    found = verdict(*subscribed(4.5), *numbers(5, 9), ("ended", 4008, "slow consumer", 0.0), may_end=may)
    assert not found.problems and found.ends == {"4008": 1}
    assert verdict(("ended", 1008, "", 0.0), may_end=may).problems


def test_what_is_lost_under_a_gap_is_counted() -> None:
    found = verdict(*subscribed(4.5), *numbers(5, 9), GAP, *numbers(13, LAST))
    assert found.lost == {"client": 3}
    assert found.gaps == {"client": 1}


def test_a_topic_that_is_taken_away_is_not_delivered_any_more() -> None:
    revoked = ("received", {"action": "error", "message": "the new token does not permit t; it is unsubscribed"})
    assert not verdict(*subscribed(4.5), *numbers(5, 9), revoked).problems
    assert "not subscribed" in verdict(*subscribed(4.5), *numbers(5, 9), revoked, 10).problems[0]


def test_errors_that_the_scene_causes_are_tolerated() -> None:
    written = Diary("client", tolerated={"unavailable"})
    written.greeted()
    written.asks("subscribe", "t", 1)
    written.received({"action": "error", "code": "unavailable", "message": "not in time", "id": 1}, 0.0)
    written.received({"action": "error", "code": "unavailable", "message": "t is not delivered now: no link"}, 0.0)
    assert not written.problems and not written.owed
