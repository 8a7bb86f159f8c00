"""Messages on their way to the connections: encoded and framed once, for all who get them.

A message is part of a :class:`Run` from the time when it is published to the time when it is written. The run knows the
topic, and keeps the frames apart until they are joined for a write.

Why a run, and no object for each message: an object with slots takes 0.11 µs, a named tuple 0.19 µs, and to get the
frames out of them for a join 0.02 µs more. In a burst a message takes 1.5 µs from Redis's bytes to the write, so that
would be a tenth. A run is one object for all that a burst brings of a topic in a row.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate, chain
from operator import attrgetter

from wsd.delivery.topics import Listener, Topic

__all__ = ["Audience", "Run", "Told", "cut", "join"]


class Told:
    """The audience of a gap notice: those who listened to a topic at a time, and still do, or their successors.

    A notice may wait for its pass while another listener takes the place of one (`wsd.delivery.topics.Topic.swap`).
    Then the notice is for the other, so the topic knows whom it is for until `done`.

    Args:
        topic: the topic.
    """

    __slots__ = ("_then", "topic")

    def __init__(self, topic: Topic) -> None:
        self.topic = topic
        self._then = dict.fromkeys(topic.listeners())
        topic.noticed = (*topic.noticed, self._then)

    def listeners(self) -> list[Listener]:
        """Who they are now."""
        return [each for each in self._then if each in self.topic]

    def done(self) -> None:
        """It is settled who gets the notice."""
        self.topic.noticed = tuple(then for then in self.topic.noticed if then is not self._then)


Audience = Topic | Told
"""Who gets a message: those who belong to the audience when the pass begins."""


class Run:
    """Messages that came one after another for the same audience.

    Args:
        audience: who gets them.
        frame: the first message's.
        place: how many runs the log had before this one.
    """

    __slots__ = ("audience", "frames", "place")

    def __init__(self, audience: Audience, frame: bytes, place: int) -> None:
        self.audience = audience
        self.frames = [frame]  # in Redis's order
        self.place = place


_PLACE = attrgetter("place")


def cut(sources: list[list[Run]], portion: int) -> list[list[bytes]]:
    """Put the frames of some runs in Redis's order, and cut them into parts that are each joined for one write.

    No loop over the frames is in Python, but for one step a part: 40,000 frames take 3 ms.

    Args:
        sources: the runs of each audience.
        portion: bytes of a part, unless a single frame is longer.
    """
    runs = sources[0] if len(sources) == 1 else sorted(chain.from_iterable(sources), key=_PLACE)
    frames = runs[0].frames if len(runs) == 1 else list(chain.from_iterable([run.frames for run in runs]))
    if len(frames) == 1 or sum(map(len, frames)) <= portion:
        return [frames]
    ends = list(accumulate(map(len, frames)))
    parts: list[list[bytes]] = []
    begin, before = 0, 0
    while begin < len(frames):
        end = max(bisect_right(ends, before + portion, begin), begin + 1)
        parts.append(frames[begin:end])
        begin, before = end, ends[end - 1]
    return parts


def join(frames: list[bytes]) -> bytes:
    """The bytes of one write."""
    return frames[0] if len(frames) == 1 else b"".join(frames)
