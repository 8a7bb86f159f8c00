"""One message to many connections: one joined write per connection per pass.

Called by the source, which calls :meth:`Fanout.publish` for each message and :meth:`Fanout.confirm` for each channel
(`wsd.worker` puts them together), and by whoever moves connections, with :meth:`Fanout.barrier`. Calls ``write`` of
each connection (`wsd.clients.writer`).

The theory. What a turn of the event loop brings is kept as a log of *runs*: consecutive frames for the same audience,
in Redis's order (`wsd.delivery.message`). When the turn is over, the log is written out in *passes*: each connection
gets all of a pass that is due to it in one write, which is one system call, or in several if it is more than a
`PORTION`. Under light load that is one write per message, sent at once; under heavy load passes bring more, and the
cost per delivery falls by itself. There is no timer.

Who is due what. A pass of one topic, the common case, is due to all who listen to it: one buffer for all. For a pass of
several topics, the topics are walked over their listeners (topics x listeners, never messages x listeners), which tells
for each connection which of them it is due. Connections that are due the same topics are a *share*: they get the same
bytes, joined once, when the share's turn comes.

A *barrier* is a place in the log at which somebody acts: all before it has been written, and nothing behind it. It
seals what the log has, and the log begins anew, so a pass ends at a barrier, and messages cost the same with barriers
or without.

What is bounded, whatever comes:

- the bytes that a connection is handed at a time, by a portion, or by one message if that is longer. What a slow
  socket doesn't take is kept behind the connection's ``write``, by reference, and counted there (`wsd.clients.writer`);
- the time before the loop turns again, by `SLICE`: sorting and writing are one generator, which is left when the time
  is up and continued at the next turn. What comes in between is added to the log, so order is kept, and a fan-out that
  falls behind joins more frames per write;
- the log, sealed or not, and with it a pass, by `MAX_WAITING`: when it is longer, the source is held, and what Redis
  has more waits in the socket to Redis.

Like the library's ``broadcast()`` it is synchronous, skips what isn't open, never raises and knows no backpressure:
what happens to a connection that can't keep up is decided behind its ``write``.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from itertools import chain
from time import perf_counter
from typing import NamedTuple

from wsd.delivery.message import Audience, Run, Told, cut, join
from wsd.delivery.shares import Share, only, sort
from wsd.delivery.topics import Listener, Topic, TopicTable
from wsd.logs import BoundedLogger
from wsd.metrics import Metrics
from wsd.protocol.frames import text_frame
from wsd.protocol.messages import gap
from wsd.protocol.payload import embed

__all__ = ["LARGE_MESSAGES", "PORTION", "Bounds", "Fanout"]

PORTION = 65_536
"""Bytes handed to a socket at a time, unless a single message is longer. Twice as much saves a tenth of the CPU of a
burst (60 ns a delivery), but a write takes twice as long, and so does whatever waits for it."""

SLICE = 0.002
"""Seconds of sorting and writing before the loop gets a turn."""

STEP = 128
"""Writes between two looks at the clock, 0.6 ms."""

WRITE_BYTES = 8192
"""Bytes that take as long as a write: the kernel copies about 2 GB a second."""

MAX_WAITING = 8_388_608
"""Bytes of the log at which the source is held: 50,000 messages of 150 bytes, which a burst may well bring. A log of 1
MiB would have nothing to join for 10,000 topics of one listener each: half as many deliveries, for twice the CPU."""

LARGE_MESSAGES = 8
"""How many messages may wait that are longer than ``max_backlog``. They are kept by reference, once for all clients."""

LARGE = 4
"""A message longer than ``max_backlog`` divided by this is worth a warning: a client that still reads the last one, and
the one before it, is nearly cut off."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What may wait for a client."""

    max_backlog: int  # bytes
    max_backlog_age: float  # seconds

    def most(self, longest: int) -> int:
        """How many bytes may wait.

        Args:
            longest: bytes of what was written last. Whatever is longer than ``max_backlog`` is a single message, which
                could never be held to it.
        """
        return LARGE_MESSAGES * longest if longest > self.max_backlog else self.max_backlog

    @property
    def portion(self) -> int:
        """Bytes that are handed to a socket at a time; what is longer is a single message."""
        return min(PORTION, self.max_backlog)


class _Sealed(NamedTuple):
    """What the log had when a barrier was made."""

    runs: list[Run]  # since the barrier before it
    size: int  # their bytes
    then: Callable[[], object]  # what happens at the barrier


class Fanout:
    """Collects what a turn of the loop brings and writes it out when the turn is over.

    Args:
        topics: who listens.
        metrics: counts.
        bounds: of what may wait for a client.
        call_soon: runs a function at the loop's next turn: the loop's ``call_soon``.
        hold: called with True when the log is full: the source should bring nothing until this is called with False,
            because there is room again.
        gap_notices: whether listeners are told when they may have missed messages.
    """

    def __init__(
        self,
        topics: TopicTable,
        metrics: Metrics,
        bounds: Bounds,
        call_soon: Callable[[Callable[[], None]], object],
        hold: Callable[[bool], object] = lambda full: None,
        *,
        gap_notices: bool = True,
    ) -> None:
        self._topics = topics
        self._metrics = metrics
        self._large = bounds.max_backlog // LARGE  # bytes of a message that is worth a warning
        self._portion = bounds.portion  # bytes that a connection is handed at a time, unless one message is longer
        self._call_soon = call_soon
        self._gap_notices = gap_notices
        self._hold = hold
        self._holding = False  # whether the source is held
        self._sealed: deque[_Sealed] = deque()  # what is in no pass yet and lies before barriers, in order
        self._log: list[Run] = []  # what is in no pass yet and lies behind all barriers, in order
        self._last: Run | None = None  # the run at its end, which may grow
        self._waiting = 0  # bytes of both
        self._then: Callable[[], object] | None = None  # what happens at the barrier that ends the pass in progress
        self._scheduled = False  # whether a turn is
        self._work: Iterator[None] | None = None  # sorts and writes, in steps; None when nothing is begun
        self._sorting = False  # whether it is not known yet what the pass in progress owes to whom
        self._shares: deque[Share] = deque()  # of the pass in progress, without those that are written
        self._parts: list[list[bytes]] = []  # of the first share, its frames in portions; empty until its turn has come
        self._given = 0  # how many of them all connections of the share have been handed
        self._written = 0  # how many connections have been handed the next one
        self._places: dict[Listener, int] | None = None  # of those connections; made when needed
        self._owed: dict[Listener, Share] | None = None  # the shares of those not settled with; made when needed
        self._bugs = BoundedLogger(logger)
        self._notes = BoundedLogger(logger, rate=1 / 60)

    def publish(self, channel: bytes, payload: bytes) -> None:
        """Take a message from Redis: encode it once, and deliver it. A mark's owner is called at once."""
        topic = self._topics.channels.get(channel)
        if topic is None and (mark := self._topics.marks.get(channel)) is not None:
            mark.on_mark(payload)
            return
        self._metrics.messages += 1
        if topic is not None and topic.heard:  # else left a moment ago, or the first listener's reply is on its way
            self.deliver(topic, text_frame(embed(topic.head, payload)))

    def deliver(self, topic: Topic, frame: bytes, told: Told | None = None) -> None:
        """Write a message to those who listen to a topic when the turn is over.

        Args:
            topic: the topic.
            frame: the message, encoded and framed.
            told: who gets the message, if not all who listen.
        """
        size = len(frame)
        if size > self._large:
            self._note_large(topic.channel, size)
        run = self._last
        if run is not None and run.audience is topic and told is None:
            run.frames.append(frame)
        else:
            self._last = run = Run(told or topic, frame, len(self._log))
            self._log.append(run)
            if not self._scheduled:
                self._scheduled = True
                self._call_soon(self._turn)
        self._waiting += size
        if self._waiting > MAX_WAITING:
            self._hold_source(True)

    def confirm(self, channel: bytes, gap: bool) -> None:
        """Redis delivers a channel from now on.

        Args:
            channel: the channel.
            gap: whether those who listen may have missed messages. The notice comes before the channel's next message.
        """
        if gap:
            self.announce_gap(channel)
        self._topics.confirm(channel)

    def announce_gap(self, channel: bytes) -> None:
        """Tell those who listen now that they may have missed messages; nobody is told if notices are off.

        One that begins to listen later has missed nothing, but whoever takes the place of one that is told is told
        instead.
        """
        topic = self._topics.channels.get(channel)
        if self._gap_notices and topic is not None and topic.heard:
            self.deliver(topic, text_frame(gap(topic.name)), Told(topic))

    def barrier(self, then: Callable[[], object]) -> None:
        """Do something when all that has come until now is written, and nothing that comes later.

        It happens in a turn of its own, between two passes; or at once, before this returns, if all is written
        already. What happens there may publish, swap listeners, leave topics, and make another barrier. Barriers keep
        their order, among each other and with messages and gap notices.

        Not to be called from within a listener's ``write``.

        Args:
            then: what happens. What it raises is logged as a bug.
        """
        if not self._log and not self._sealed and self._work is None:
            self._do(then)
            return
        size = self._waiting - sum(sealed.size for sealed in self._sealed)
        self._sealed.append(_Sealed(self._log, size, then))
        self._log, self._last = [], None

    def gap_notice(self, name: str) -> list[bytes]:
        """The frame that tells of a gap in a topic, for somebody who is told by the caller; none if notices are off."""
        return [text_frame(gap(name))] if self._gap_notices else []

    def waiting(self) -> set[str]:
        """The topics of which something is in no pass yet. As many steps as there are messages, at most."""
        runs = chain(self._log, *(sealed.runs for sealed in self._sealed))
        topics = (run.audience.topic if isinstance(run.audience, Told) else run.audience for run in runs)
        return {topic.name for topic in topics}

    def settle(self, connection: Listener) -> None:
        """Write what a pass in progress owes to a connection now, ahead of its turn: it is about to leave a topic."""
        while self._sorting and self._work is not None:
            next(self._work, None)
        if not self._shares:
            return
        if self._owed is None:
            self._owed = {each: share for share in self._shares for each in share[0]}
        share = self._owed.pop(connection, None)
        if share is None:
            return
        if share is not self._shares[0] or not self._parts:
            parts = cut(share[1], self._portion)
        else:
            if self._places is None:
                self._places = {each: place for place, each in enumerate(share[0])}
            parts = self._parts[self._given + (self._places[connection] < self._written) :]
        for part in parts:
            self._write([connection], join(part))

    def _hold_source(self, hold: bool) -> None:
        if hold is not self._holding:
            self._holding = hold
            self._hold(hold)

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._call_soon(self._turn)

    def _turn(self) -> None:
        """Work for a slice of time."""
        self._scheduled = False
        try:
            if self._work is None:
                if self._write_little():
                    return
                self._work = self._steps()
            deadline = perf_counter() + SLICE
            for _ in self._work:
                if perf_counter() >= deadline:
                    self._schedule()
                    return
        except Exception:
            # A bug. What the pass still owed is lost; the next one is served.
            self._note_bug("a pass failed")
            self._shares.clear()
            self._parts, self._owed, self._sorting = [], None, False
        self._work = None
        self._pass_barriers()
        if self._log or self._sealed:
            self._schedule()

    def _pass_barriers(self) -> None:
        """A pass has ended: do what happens at the barriers before the next one."""
        then, self._then = self._then, None
        if then is not None:
            self._do(then)
        while self._sealed and not self._sealed[0].runs:
            self._do(self._sealed.popleft().then)

    def _do(self, then: Callable[[], object]) -> None:
        try:
            then()
        except Exception:
            self._note_bug("what happens at a barrier failed")

    def _write_little(self) -> bool:
        """Write all there is, if that is one run for a few: the usual case under light load. Saves 1 µs of 2."""
        started = perf_counter()
        if self._sealed or len(self._log) > 1 or self._waiting > self._portion:
            return False
        run = self._log[0]
        connections = list(run.audience.listeners())
        if len(connections) > STEP:
            return False
        self._take()
        self._count(run.audience, len(run.frames) * len(connections))
        self._write(connections, join(run.frames))
        self._metrics.pass_seconds.observe(perf_counter() - started)
        return True

    def _steps(self) -> Iterator[None]:
        """All that there is to do for a pass, in steps of at most 0.6 ms."""
        started = perf_counter()
        self._sorting = True
        yield from sort(self._take(), self._shares, self._count)
        self._sorting = False
        shares, since = self._shares, 0  # since the last look at the clock, in writes
        while shares:
            connections, sources = shares[0]
            if len(connections) == 1 and self._owed is None and (frame := only(sources)) is not None:
                # A topic of one's own, for example. Most of the work for many would be in vain.
                shares.popleft()
                self._write(connections, frame)
                since += 1 + len(frame) // WRITE_BYTES
            else:
                since = yield from self._write_share(connections, cut(sources, self._portion), since)
            if since >= STEP and shares:
                since = 0
                yield
        self._owed = None
        self._metrics.pass_seconds.observe(perf_counter() - started)

    def _write_share(
        self, connections: list[Listener], parts: list[list[bytes]], since: int
    ) -> Generator[None, None, int]:
        """Write the first share, part by part, in steps.

        The connections are a list, of which each step takes a slice. Where each stands in the list is asked only
        when one of them is settled with.

        Args:
            connections: of the share.
            parts: its frames.
            since: the writes since the last look at the clock.

        Returns:
            The same afterwards.
        """
        self._parts, self._places = parts, None
        for self._given, part in enumerate(parts):
            data = join(part)
            self._written = 0
            cost = 1 + len(data) // WRITE_BYTES
            while self._written < len(connections):
                if since >= STEP:
                    since = 0
                    yield
                step = max((STEP - since) // cost, 1)
                batch = connections[self._written : self._written + step]
                self._written += step
                since += cost * len(batch)
                if self._owed is not None:  # without those that it was settled with
                    batch = [each for each in batch if each in self._owed]
                self._write(batch, data)
        self._shares.popleft()
        self._parts = []
        if self._owed is not None:
            for each in connections:
                self._owed.pop(each, None)
        return since

    def _take(self) -> list[Run]:
        """Take what waits for a pass: what lies before the first barrier."""
        if self._sealed:
            runs, size, self._then = self._sealed.popleft()
            self._waiting -= size
        else:
            runs, self._log, self._last, self._waiting = self._log, [], None, 0
        if self._holding and self._waiting <= MAX_WAITING:  # else the pass after it makes room
            self._hold_source(False)
        return runs

    def _count(self, audience: Audience, messages: int) -> None:
        """Count what an audience gets. It is known now who that is."""
        if isinstance(audience, Told):
            audience.done()
            self._metrics.gap_notices += messages
        else:
            self._metrics.deliveries += messages

    def _write(self, connections: list[Listener], data: bytes) -> None:
        """Write to some connections, whatever becomes of one of them."""
        metrics, count = self._metrics, len(connections)
        metrics.writes += count
        metrics.bytes_out += count * len(data)
        remaining = iter(connections)
        while True:
            try:
                for connection in remaining:
                    connection.write(data)
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
            size,
            channel,
            10 * size,
        )

    def _note_bug(self, what: str) -> None:
        self._metrics.internal_errors += 1
        self._bugs.exception(what, "%s, which is a bug; the others are served", what)
