"""Runs, their audiences, and how frames are cut into what one write takes."""

from __future__ import annotations

import pytest

from wsd.delivery.message import Run, Told, cut, join
from wsd.delivery.topics import Topic

TOPIC, OTHER = Topic("a", b"a"), Topic("b", b"b")


class Ear:
    def write(self, data: bytes, /) -> object:
        raise AssertionError("not a run's to do")

    def topic_confirmed(self, topic: str) -> None:
        raise AssertionError("not a run's to say")

    def topic_refused(self, topic: str, reason: str) -> None:
        raise AssertionError("not a run's to say")


def run(topic: Topic, place: int, *frames: bytes) -> Run:
    made = Run(topic, frames[0], place)
    made.frames += frames[1:]
    return made


def test_a_few_frames_are_one_part() -> None:
    assert cut([[run(TOPIC, 0, b"1", b"2"), run(TOPIC, 1, b"3")]], 100) == [[b"1", b"2", b"3"]]


def test_frames_of_several_audiences_come_in_the_order_of_their_runs() -> None:
    sources = [[run(TOPIC, 0, b"1"), run(TOPIC, 2, b"4")], [run(OTHER, 1, b"2", b"3")]]
    assert cut(sources, 100) == [[b"1", b"2", b"3", b"4"]]


@pytest.mark.parametrize(
    ("lengths", "parts"),
    [
        ([4, 4, 4], [[4, 4], [4]]),
        ([8, 1], [[8], [1]]),
        ([1, 9, 1, 1], [[1], [9], [1, 1]]),
        ([9, 9], [[9], [9]]),
        ([8], [[8]]),
        ([1] * 20, [[1] * 8, [1] * 8, [1] * 4]),
    ],
)
def test_a_part_is_as_long_as_a_portion_allows_unless_one_frame_is_longer(
    lengths: list[int], parts: list[list[int]]
) -> None:
    cut_up = cut([[run(TOPIC, 0, *[b"x" * length for length in lengths])]], 8)
    assert [[len(frame) for frame in part] for part in cut_up] == parts


def test_a_single_frame_is_not_copied_to_be_written() -> None:
    frame = b"frame"
    assert join([frame]) is frame
    assert join([frame, b"2"]) == b"frame2"


def test_a_notice_is_for_those_who_listened_then_and_still_do() -> None:
    topic, stays, leaves, comes = Topic("a", b"a"), Ear(), Ear(), Ear()
    topic.add(stays)
    topic.add(leaves)
    told = Told(topic)
    topic.discard(leaves)
    topic.add(comes)
    assert told.listeners() == [stays]
    assert told.topic is topic
