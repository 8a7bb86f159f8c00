"""Do the diaries of clients agree with the book of the publisher?

- On each topic the numbers rise, over all stretches in which a client was subscribed, and none comes twice.
- A number that was accepted, and that lies between two that came, came too, or a ``gap`` of its topic stands between
  the two.
- A number that was published after the client had read ``context subscribed`` came, or a number after it and a gap.
- Every request is answered, and every ping.
- The server has ended no connection, but those that it may.

What is uncertain may be missing, and may come late: from a Redis that was frozen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.handover.diary import GAP, Diary, End, Run, Stretch
from tests.handover.numbers import PLACE, Book, TopicBook, place_of

__all__ = ["Verdict", "judge", "stays"]

May = Callable[[Diary, End], bool]
"""Whether the server may have ended a client's connection like this."""


def stays(diary: Diary, end: End) -> bool:
    """Nobody is closed."""
    return False


@dataclass
class Verdict:
    """What was found in the diaries of all clients."""

    problems: list[str] = field(default_factory=list)  # what must not be
    lost: Counter[str] = field(default_factory=Counter)  # messages, by client
    gaps: Counter[str] = field(default_factory=Counter)  # gap messages, by client
    ends: Counter[str] = field(default_factory=Counter)  # connections that the server ended, by close code
    messages: int = 0  # that came, to all clients
    replies: int = 0  # the same
    clients: int = 0


def judge(diaries: Iterable[Diary], book: Book, closed: Mapping[str, int], may_end: May = stays) -> Verdict:
    """Compare what was published with what was received.

    Args:
        diaries: of all clients, those that left included.
        book: the publisher's.
        closed: by topic, the number up to which everything must have come by now.
        may_end: whether the server may have ended a connection.
    """
    found = Verdict()
    for diary in diaries:
        found.clients += 1
        found.messages += diary.messages
        found.replies += diary.replies
        found.problems += diary.problems
        if diary.gaps:
            found.gaps[diary.name] += diary.gaps
        _judge_end(found, diary, may_end)
        for topic, stretches in diary.stretches():
            books = [at_place[topic] for at_place in book.places]
            scales = _Scales(found, diary.name, topic, books)
            for stretch in stretches:
                whole = not stretch.over and not diary.left and diary.end is None
                scales.weigh(stretch, closed[topic] if whole else 0)
    return found


def _judge_end(found: Verdict, diary: Diary, may_end: May) -> None:
    if diary.end is not None:
        found.ends[str(diary.end.code or 1006)] += 1
        if not may_end(diary, diary.end):
            found.problems.append(f"{diary.name}: closed with {diary.end.code or 1006} {diary.end.reason}".rstrip())
    elif not diary.left:
        if diary.owed:
            found.problems.append(f"{diary.name}: {len(diary.owed)} replies never came, the first to {diary.owed[0]}")
        if diary.pings:
            found.problems.append(f"{diary.name}: {len(diary.pings)} pongs never came, the first {diary.pings[0]!r}")


class _Scales:
    """The stretches of one topic of one client, compared with the book one after the other."""

    def __init__(self, found: Verdict, client: str, topic: str, books: Sequence[TopicBook]) -> None:
        self._found = found
        self._client = client
        self._topic = topic
        self._books = books  # by place
        self._highest = 0  # number that came so far

    def weigh(self, stretch: Stretch, closed: int) -> None:
        """Compare a stretch.

        Args:
            stretch: what came.
            closed: the number up to which everything must have come; 0 if nothing must.
        """
        last = max(place_of(number) for number in (self._highest, *(run.first for run in stretch.runs)))
        first = next((place_of(run.first) for run in stretch.runs if run is not GAP), last)
        due = first * PLACE + self._books[first].first_after(stretch.since)  # the next number that must come
        gap = False
        for run in stretch.runs:
            if run is GAP:
                gap = True
                continue
            if run.first <= self._highest:
                self._late(run)
                self._highest, due = max(self._highest, run.last), max(due, run.last + 1)
                continue
            if place_of(run.first) > place_of(due):  # published elsewhere from now on: who knows what was missed?
                if not gap:
                    self._problem(f"{run.first} came from another place, and no gap was announced")
            else:
                self._hole(due, run.first - 1, announced=gap)
            self._highest = run.last
            due, gap = max(run.last + 1, due), False
        if closed:
            self._tail(due, last * PLACE + closed)

    def _accepted(self, first: int, last: int) -> list[int]:
        place = place_of(first)
        return [place * PLACE + n for n in self._books[place].accepted(first - place * PLACE, last - place * PLACE)]

    def _late(self, run: Run) -> None:
        place = place_of(run.first)
        certain = [n for n in range(run.first, run.last + 1) if n - place * PLACE not in self._books[place].uncertain]
        if certain:
            self._problem(f"{certain[0]} came after {self._highest}, twice or out of order")

    def _hole(self, first: int, last: int, *, announced: bool) -> None:
        missing = self._accepted(first, last)
        if missing:
            self._found.lost[self._client] += len(missing)
            if not announced:
                self._problem(f"{missing[0]} to {missing[-1]} were lost and no gap was announced")

    def _tail(self, first: int, last: int) -> None:
        missing = self._accepted(first, last) if place_of(first) == place_of(last) else []
        if missing:
            self._found.lost[self._client] += len(missing)
            self._problem(f"{len(missing)} numbers from {missing[0]} on never came")

    def _problem(self, what: str) -> None:
        self._found.problems.append(f"{self._client}, {self._topic}: {what}")
