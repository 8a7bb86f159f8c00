"""One message to many connections: one joined write per connection per pass.

The theory. What a turn of the event loop brings is kept as a log of *runs*: consecutive frames for the same recipients,
in Redis's order. When the turn is over, the log is written out in *passes*. A pass is a piece of the log, at most a
`PORTION` of bytes, and each connection gets all of a pass that is due to it in one write, which is
one system call. Under light load that is one write per message, sent at once; under heavy load passes are full, and the
cost per delivery falls by itself. There is no timer.

Who is due what. A pass of one topic, the common case, is due to all who listen to it: one buffer for all. For a pass of
several topics, the topics are walked over their listeners (topics x listeners, never messages x listeners), which tells
for each connection which of them it is due. Connections that are due the same topics get the same bytes, joined once.

What is bounded, whatever comes:

- the bytes that a connection is handed at a time, by a portion, or by one message if that is longer. What a slow
  socket doesn't take is kept behind the connection's ``write``, by reference, and counted there (`wsd.writer`);
- the time before the loop turns again, by `SLICE`: sorting and writing are one generator, which is left when the time
  is up and taken up again at the next turn. What comes meanwhile is added to the log, so order is kept, and a fan-out
  that falls behind joins more frames per write;
- the log, by `MAX_WAITING`: past it the source is held, and what Redis has more waits in its socket.

Like the library's ``broadcast()`` it is synchronous, skips what isn't open, never raises and knows no backpressure:
what happens to a connection that can't keep up is decided behind its ``write``.
"""

from __future__ import annotations

import logging
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from operator import attrgetter
from time import perf_counter

from wsd.frames import text_frame
from wsd.logs import BoundedLogger
from wsd.metrics import Metrics
from wsd.protocol import gap
from wsd.snapshot import embed
from wsd.topics import Listener, Topic, TopicTable

__all__ = ["PORTION", "Bounds", "Fanout"]

PORTION = 65_536
"""Bytes handed to a socket at a time, unless a single message is longer. Twice as much saves a tenth of the CPU of a
burst (60 ns a delivery), but a write takes twice as long, and so does whatever waits for it."""

SLICE = 0.002
"""Seconds of sorting and writing before the loop gets a turn."""

STEP = 64
"""Writes between two looks at the clock, 0.3 ms. Fewer if what is written is long."""

STEP_BYTES = 524_288
"""Bytes between two looks: the kernel copies about 4 GB a second."""

SORT_STEP = 2048
"""Listeners that are sorted between two looks, 0.2 ms."""

MAX_WAITING = 8_388_608
"""Bytes of the log at which the source is held: 50,000 messages of 150 bytes, which a burst may well bring."""

LARGE = 4
"""A message longer than ``max_backlog`` divided by this is worth a warning: a client that still reads the last one, and
the one before it, is nearly cut off."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What may wait for a client."""

    max_backlog: int  # bytes
    max_backlog_age: float  # seconds

    @property
    def portion(self) -> int:
        """Bytes that are handed to a socket at a time; what is longer is a single message."""
        return min(PORTION, self.max_backlog)


class _Told:
    """The recipients of a gap notice: those who listened to a topic at a time, and still do."""

    __slots__ = ("_then", "_topic")

    def __init__(self, topic: Topic) -> None:
        self._topic = topic
        self._then = tuple(topic.listeners)

    @property
    def listeners(self) -> dict[Listener, None]:
        """Who they are now."""
        return {each: None for each in self._then if each in self._topic.listeners}


class _Run:
    """Consecutive frames for the same recipients."""

    __slots__ = ("frames", "place", "source")

    def __init__(self, source: Topic | _Told, frame: bytes) -> None:
        self.source = source  # knows who listens; whoever does when the pass begins is a recipient
        self.frames = [frame]
        self.place = 0  # in its pass, once that is begun


_PLACE = attrgetter("place")


class _Pass:
    """What is written out in one go: a few runs, of a `PORTION` together."""

    __slots__ = ("runs", "size")

    def __init__(self, size: int) -> None:
        self.runs: list[_Run] = []
        self.size = size  # of all frames, in bytes


class Fanout:
    """Collects what a turn of the loop brings and writes it out when the turn is over.

    Args:
        topics: who listens.
        metrics: counts.
        bounds: of what may wait for a client.
        call_soon: runs a function at the loop's next turn: the loop's ``call_soon``.
        hold: called with True when the log is full, and with False when there is room again: the source should bring
            nothing meanwhile.
    """

    def __init__(
        self,
        topics: TopicTable,
        metrics: Metrics,
        bounds: Bounds,
        call_soon: Callable[[Callable[[], None]], object],
        hold: Callable[[bool], object] = lambda full: None,
    ) -> None:
        self._topics = topics
        self._metrics = metrics
        self._large = bounds.max_backlog // LARGE  # bytes of a message that is worth a warning
        self._portion = bounds.portion  # bytes of a pass, unless a single message is longer
        self._call_soon = call_soon
        self._hold = hold
        self._holding = False  # whether the source is held
        self._log: deque[_Pass] = deque()  # what is not begun yet, in order; only the last pass still grows
        self._waiting = 0  # bytes of the others
        self._scheduled = False  # whether a turn is
        self._work: Iterator[None] | None = None  # sorts and writes, in steps; None when nothing is begun
        self._sorting = False  # whether it is not known yet what the pass in progress owes to whom
        self._due: bytes | dict[Listener, bytes] = b""  # what it owes: the same to all, or to each of them
        self._remaining: Iterator[Listener] = iter(())  # those that it has not written to yet
        self._owed: set[Listener] | None = None  # the same, to look one of them up; made when needed
        self._bugs = BoundedLogger(logger)
        self._notes = BoundedLogger(logger, rate=1 / 60)

    def publish(self, channel: bytes, payload: bytes) -> None:
        """Take a message from Redis. Called by the link, at the end of a chain that begins in `wsd.redis.wire`."""
        self._metrics.messages += 1
        topic = self._topics.channels.get(channel)
        if topic is None or not topic.listeners:
            return  # unsubscribed a moment ago, or the first listener's reply is on its way
        frame = text_frame(embed(topic.head, payload))
        size = len(frame)
        if size > self._large:
            self._note_large(channel, size)
        runs = self._make_room(size).runs
        if runs and runs[-1].source is topic:
            runs[-1].frames.append(frame)
        else:
            runs.append(_Run(topic, frame))

    def announce_gap(self, channel: bytes) -> None:
        """Tell those who listen to a channel now that messages may have been missed, before the next one."""
        topic = self._topics.channels.get(channel)
        if topic is not None and topic.listeners:
            frame = text_frame(gap(topic.name))
            # Whoever begins to listen later has missed nothing.
            self._make_room(len(frame)).runs.append(_Run(_Told(topic), frame))

    def settle(self, connection: Listener) -> None:
        """Write what a pass in progress owes to a connection now, ahead of its turn: it is about to leave a topic."""
        while self._sorting and self._work is not None:
            next(self._work, None)
        if self._owed is None:
            rest = list(self._remaining)
            self._remaining, self._owed = iter(rest), set(rest)
        if connection in self._owed:
            self._owed.remove(connection)
            self._write(iter((connection,)))

    def _make_room(self, size: int) -> _Pass:
        """Return the pass that a frame of so many bytes belongs to."""
        log = self._log
        if log:
            last = log[-1]
            if last.size + size <= self._portion:
                last.size += size
                return last
            self._waiting += last.size
            if self._waiting >= MAX_WAITING and not self._holding:
                self._holding = True
                self._hold(True)
        begun = _Pass(size)
        log.append(begun)
        self._schedule()
        return begun

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._call_soon(self._turn)

    def _turn(self) -> None:
        """Work for a slice of time."""
        self._scheduled = False
        deadline = perf_counter() + SLICE
        try:
            if self._work is None:
                if self._write_little(deadline - SLICE):
                    return
                self._work = self._steps()
            for _ in self._work:
                if perf_counter() >= deadline:
                    self._schedule()
                    return
        except Exception:
            # A bug. What the pass still owed is lost; the next one is served.
            self._note_bug("a pass failed")
            self._remaining, self._owed, self._sorting = iter(()), None, False
        self._work = None
        if self._log:  # only after a bug
            self._schedule()

    def _write_little(self, started: float) -> bool:
        """Write all there is, if that is one run for a few: the usual case under light load. Saves 1 µs of 2."""
        begun = self._log[0]
        if len(self._log) > 1 or len(begun.runs) > 1 or begun.size > PORTION:
            return False
        if len(begun.runs[0].source.listeners) > STEP:
            return False
        self._log.popleft()
        self._owed = None
        self._spread(begun.runs[0])
        self._write(self._remaining)
        self._metrics.pass_seconds.observe(perf_counter() - started)
        return True

    def _steps(self) -> Iterator[None]:
        """All that there is to do, in steps of some 0.1 ms."""
        while self._log:
            started = perf_counter()
            runs, size = self._take()
            if len(runs) == 1:
                left = self._spread(runs[0])
            else:
                self._sorting = True
                left = yield from self._sort(runs)
                self._sorting = False
            step = min(STEP, STEP_BYTES // size + 1)
            while left > 0:
                left -= step
                batch: Iterator[Listener] = islice(self._remaining, step)
                if self._owed is not None:  # without those that it was settled with
                    mine = self._owed.intersection(batch)
                    self._owed -= mine
                    batch = iter(mine)
                self._write(batch)
                if left > 0 or self._log:
                    yield
            self._metrics.pass_seconds.observe(perf_counter() - started)

    def _take(self) -> tuple[list[_Run], int]:
        """Take a pass from the log; return its runs and its size."""
        self._owed = None
        begun = self._log.popleft()
        if self._log:
            self._waiting -= begun.size
            if self._holding and self._waiting <= MAX_WAITING // 2:
                self._holding = False
                self._hold(False)
        return begun.runs, begun.size

    def _spread(self, run: _Run) -> int:
        """Owe the same to all recipients of a pass with one run; return how many there are."""
        connections = list(run.source.listeners)
        self._due = data = _join([run])
        self._remaining = iter(connections)
        self._count(run)
        self._metrics.writes += len(connections)
        self._metrics.bytes_out += len(connections) * len(data)
        return len(connections)

    def _sort(self, runs: list[_Run]) -> Generator[None, None, int]:
        """Find out what a pass with several runs owes to whom; return how many they are.

        A source is known by the place of its first run.
        """
        firsts: dict[Topic | _Told, int] = {}
        groups: dict[int, list[_Run]] = {}  # the runs of each source
        for place, run in enumerate(runs):
            run.place = place
            self._count(run)
            first = firsts.setdefault(run.source, place)
            if first == place:
                groups[place] = [run]
            else:
                groups[first].append(run)
        wanted: defaultdict[Listener, list[int]] = defaultdict(list)  # the sources that each connection is due
        since = 0  # connections since the last look at the clock
        for source, first in firsts.items():
            listeners = source.listeners
            since += len(listeners)
            if since < SORT_STEP:
                for each in listeners:
                    wanted[each].append(first)
                continue
            since = 0
            remaining = iter(list(listeners))
            for _ in range(0, len(listeners), SORT_STEP):
                for each in islice(remaining, SORT_STEP):
                    wanted[each].append(first)
                yield
        due: dict[Listener, bytes] = {}
        joined: dict[int | tuple[int, ...], bytes] = {}  # what connections that are due the same sources get
        for each, sources in wanted.items():
            key = sources[0] if len(sources) == 1 else tuple(sources)
            data = joined.get(key)
            if data is None:
                if isinstance(key, int):
                    mine = groups[key]
                else:
                    mine = sorted(chain.from_iterable(map(groups.__getitem__, key)), key=_PLACE)
                data = joined[key] = _join(mine)
            due[each] = data
            since += 1
            if since >= SORT_STEP:
                since = 0
                yield
        self._due = due
        self._remaining = iter(list(due))
        self._metrics.writes += len(due)
        self._metrics.bytes_out += sum(map(len, due.values()))
        return len(due)

    def _count(self, run: _Run) -> None:
        if isinstance(run.source, Topic):
            self._metrics.deliveries += len(run.frames) * len(run.source.listeners)
        else:
            self._metrics.gap_notices += len(run.source.listeners)

    def _write(self, connections: Iterator[Listener]) -> None:
        """Write to some connections what is due to them, whatever becomes of one of them."""
        due = self._due
        while True:
            try:
                if isinstance(due, bytes):
                    for connection in connections:
                        connection.write(due)
                else:
                    for connection in connections:
                        connection.write(due[connection])
                return
            except Exception:
                # A transport that is closing takes what is written without a word, so this is a bug. The iterator is
                # past it, so the others are served.
                self._note_bug("a write failed")

    def _note_large(self, channel: bytes, size: int) -> None:
        self._metrics.large_messages += 1
        self._notes.warning(
            "large message",
            "a message of %d bytes came on channel %a, longer than a quarter of max_backlog: clients that are a few"
            " such messages behind are closed with 4008. Set max_backlog to %d or more, or publish shorter messages",
            *(size, channel, 10 * size),
        )

    def _note_bug(self, what: str) -> None:
        self._metrics.internal_errors += 1
        self._bugs.exception(what, "%s, which is a bug; the others are served", what)


def _join(runs: list[_Run]) -> bytes:
    """Join the frames of some runs."""
    if len(runs) == 1:
        frames = runs[0].frames
        return frames[0] if len(frames) == 1 else b"".join(frames)
    return b"".join(chain.from_iterable(run.frames for run in runs))
