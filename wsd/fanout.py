"""One message to many connections: one joined write per connection per pass.

The theory. Messages that one pass of the event loop brings are collected as runs: consecutive frames for the same
recipients. At the end of the pass every connection gets all that is due to it in one write, which is one system call.
Under light load that is one write per message, sent at once; under heavy load passes bring more, and the cost per
delivery falls by itself. There is no timer.

- A pass with a single run, the common case, writes one shared buffer to all.
- A pass with several runs gathers per connection, in the order in which Redis delivered them, across topics too.
- A pass over many connections is cut into slices, and between two slices the loop serves everyone else. What arrives
  meanwhile is collected and goes out in the next pass, after the last slice: order is kept, and a fan-out that falls
  behind joins more frames per write.

Like the library's ``broadcast()`` it is synchronous, skips what isn't open, never raises and knows no backpressure:
what happens to a connection that can't keep up is decided behind its ``write``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from itertools import islice
from time import perf_counter

from wsd.frames import text_frame
from wsd.metrics import Metrics
from wsd.protocol import gap
from wsd.snapshot import embed
from wsd.topics import Listener, Topic, TopicTable

__all__ = ["Fanout", "broadcast"]

SLICE = 512
"""Connections written to before the loop gets a turn. A write takes 2 to 5 µs, so a slice takes 1 to 3 ms."""

logger = logging.getLogger(__name__)


def broadcast(connections: Collection[Listener], data: bytes) -> None:
    """Write the same frames to every connection, in order, whatever becomes of one of them.

    The connections are copied first (3 ns each): a write that finds a connection too slow may take it off the very
    topic that is being served.
    """
    remaining = iter(list(connections))
    while True:
        try:
            for connection in remaining:
                connection.write(data)
            return
        except Exception:
            # A transport that is closing may raise RuntimeError; its connection_lost() is on its way. The iterator is
            # past it, so the others are served.
            logger.debug("skipped a connection in a broadcast", exc_info=True)


class _Run:
    """Consecutive frames for the same recipients."""

    __slots__ = ("among", "frames", "topic")

    def __init__(self, topic: Topic, frames: list[bytes], among: tuple[Listener, ...] | None = None) -> None:
        self.topic = topic  # whoever listens to it when the pass is written is a recipient
        self.frames = frames
        self.among = among  # if not None, then only these: the recipients of a gap notice, which is no message


class Fanout:
    """Collects what a pass brings and writes it out at its end.

    Args:
        topics: who listens.
        metrics: counts.
        call_soon: runs a function at the end of the pass: the loop's ``call_soon``.
    """

    def __init__(self, topics: TopicTable, metrics: Metrics, call_soon: Callable[[Callable[[], None]], object]) -> None:
        self._topics = topics
        self._metrics = metrics
        self._call_soon = call_soon
        self._runs: list[_Run] = []  # what this pass brought, in order
        self._due: dict[Listener, list[bytes]] = {}  # of a pass that is being written in slices
        self._scheduled = False  # whether a pass, or its next slice, is scheduled
        self._started = 0.0  # when the pass in progress began to write

    def publish(self, channel: bytes, payload: bytes) -> None:
        """Take a message from Redis."""
        self._metrics.messages += 1
        topic = self._topics.channels.get(channel)
        if topic is None or not topic.listeners:
            return  # unsubscribed a moment ago, or the first listener's reply is on its way
        frame = text_frame(embed(topic.head, payload))
        runs = self._runs
        if runs and runs[-1].topic is topic and runs[-1].among is None:
            runs[-1].frames.append(frame)
        else:
            runs.append(_Run(topic, [frame]))
            self._schedule(self._write_pass)

    def announce_gap(self, channel: bytes) -> None:
        """Tell those who listen to a channel now that messages may have been missed, before the next one."""
        topic = self._topics.channels.get(channel)
        if topic is not None and topic.listeners:
            # Whoever begins to listen later in this pass has missed nothing.
            self._runs.append(_Run(topic, [text_frame(gap(topic.name))], among=tuple(topic.listeners)))
            self._schedule(self._write_pass)

    def settle(self, connection: Listener) -> None:
        """Write what is due to a connection now, ahead of its slice: it is about to leave a topic."""
        self._write_due((connection,))

    def discard(self, connection: Listener) -> None:
        """Forget what is due to a connection that is gone."""
        self._due.pop(connection, None)

    def _schedule(self, step: Callable[[], None]) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._call_soon(step)

    def _write_pass(self) -> None:
        self._scheduled = False
        self._started = perf_counter()
        runs, self._runs = self._runs, []
        if len(runs) > 1 or runs[0].among is not None:
            self._gather(runs)
            self._write_slice()
            return
        frames, listeners = runs[0].frames, runs[0].topic.listeners
        data = frames[0] if len(frames) == 1 else b"".join(frames)
        count = len(listeners)
        self._metrics.deliveries += count * len(frames)
        if count > SLICE:
            blocks = [data]  # one for all: nothing is added to a pass that is being written
            self._due = dict.fromkeys(listeners, blocks)
            self._write_slice()
        else:
            self._metrics.writes += count
            self._metrics.bytes_out += count * len(data)
            broadcast(listeners, data)
            self._metrics.pass_seconds.observe(perf_counter() - self._started)

    def _gather(self, runs: list[_Run]) -> None:
        due = self._due
        for run in runs:
            frames = run.frames
            data = frames[0] if len(frames) == 1 else b"".join(frames)
            recipients: Collection[Listener] = run.topic.listeners
            if run.among is not None:
                recipients = [connection for connection in run.among if connection in run.topic.listeners]
                self._metrics.gap_notices += len(recipients)
            else:
                self._metrics.deliveries += len(frames) * len(recipients)
            for connection in recipients:
                blocks = due.get(connection)
                if blocks is None:
                    due[connection] = [data]
                else:
                    blocks.append(data)

    def _write_slice(self) -> None:
        self._scheduled = False
        due = self._due
        self._write_due(list(islice(due, SLICE)))
        if due:
            self._schedule(self._write_slice)
            return
        self._metrics.pass_seconds.observe(perf_counter() - self._started)
        if self._runs:
            self._schedule(self._write_pass)

    def _write_due(self, connections: Iterable[Listener]) -> None:
        """Write to each of these what is due to it, in one loop: a call for each would take 60 ns more, of 200."""
        due, writes, size = self._due, 0, 0
        remaining = iter(connections)
        while True:
            try:
                for connection in remaining:
                    blocks = due.pop(connection, None)
                    if blocks is None:
                        continue  # a write before it has discarded it
                    data = blocks[0] if len(blocks) == 1 else b"".join(blocks)
                    writes += 1
                    size += len(data)
                    connection.write(data)
                break
            except Exception:
                logger.debug("skipped a connection in a pass", exc_info=True)  # as in broadcast()
        self._metrics.writes += writes
        self._metrics.bytes_out += size
