"""The queue of replies that are held back. What a session makes of it is in the scripts of test_session."""

from __future__ import annotations

from wsd.clients.replies import UNKNOWN, Replies, Reply
from wsd.codes import ErrorCode
from wsd.protocol.messages import SUBSCRIBED, error, with_id

PONG = Reply(b"pong")


def take(replies: Replies) -> list[tuple[Reply, str]]:
    """The replies whose turn has come, and the topics that they start."""
    return [(held.reply, held.topic) for held in replies.take()]


def test_a_reply_that_is_known_waits_for_one_that_is_not() -> None:
    replies = Replies()
    replies.hold(UNKNOWN, "a", 1, 5.0)
    replies.hold(PONG, "", None, 6.0)
    assert take(replies) == []
    assert (len(replies), replies[0].topic, replies[0].deadline) == (2, "a", 5.0)
    replies.settle("a")
    assert take(replies) == [(Reply(with_id(SUBSCRIBED, 1)), "a"), (PONG, "")]
    assert (len(replies), replies.size) == (0, 0)


def test_only_those_in_front_are_taken() -> None:
    replies = Replies()
    replies.hold(UNKNOWN, "a", None, 5.0)
    replies.hold(UNKNOWN, "b", None, 5.0)
    replies.settle("b")
    assert take(replies) == []
    replies.settle("a")
    assert [topic for _, topic in take(replies)] == ["a", "b"]


def test_a_topic_that_can_not_be_had_settles_all_its_replies_with_their_own_ids() -> None:
    replies = Replies()
    for number in (1, 2):
        replies.hold(UNKNOWN, "a", number, 5.0)
    replies.settle("a", ErrorCode.UNAVAILABLE, "no")
    refusal = error(ErrorCode.UNAVAILABLE, "no")
    assert take(replies) == [
        (Reply(with_id(refusal, number), ErrorCode.UNAVAILABLE, "no"), "a")  # the session knows that it has dropped "a"
        for number in (1, 2)
    ]


def test_a_topic_that_is_forgotten_is_started_by_none_of_the_replies_before() -> None:
    replies = Replies()
    replies.hold(UNKNOWN, "a", 1, 5.0)
    replies.settle("a")
    replies.forget("a")
    replies.hold(UNKNOWN, "a", 2, 6.0)
    assert take(replies) == [(Reply(with_id(SUBSCRIBED, 1)), "")]
    replies.settle("a")
    assert take(replies) == [(Reply(with_id(SUBSCRIBED, 2)), "a")]


def test_the_size_counts_payloads_and_ids() -> None:
    replies = Replies()
    replies.hold(PONG, "", None, 5.0)
    pong = replies.size
    replies.hold(UNKNOWN, "a", "an id of many characters", 5.0)
    assert pong > len(PONG.payload)
    assert replies.size - pong > len("an id of many characters")
