"""Counts messages in what a socket brought, at millions a second; checks sequences on samples.

The theory. Python walks about a million frames a second, and the daemon sends five, so most connections must be
counted without a walk. All messages of a run are equally long, so once the first message has told the length of a
frame and its header (:class:`Stride`), a read is judged by two looks: at the first and at the last place where a frame
must begin. If both hold the header, everything between is frames of that length, and their number is a division. 0x81,
a header's first byte, is no ASCII, and the payloads are ASCII, so a look can't be deceived by a payload; it is
deceived only if other frames of one read add up to a multiple of the length. Any other read (a ping came in between, a
message has another length) is walked frame by frame.

NATS joins messages in frames as it likes, so there the marks in the bytes are counted (:class:`Marks`).

Every message of a *sampled* connection is looked at (:class:`Sampler`): its number is the next one of its topic, or
something was lost, duplicated or out of order; and its time gives the latency. What the runs compare at the end, the
number of messages on all connections with the number published, holds the arithmetic to account.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from struct import Struct

from bench.load.histogram import Histogram
from bench.load.wire import MARK, STAMP, client_frame

__all__ = ["Frames", "Marks", "Notes", "Sampler", "Scanner", "Sequences", "Stride", "close_code", "due_by", "frame_at"]

_MEDIUM = Struct("!H").unpack_from
_LONG = Struct("!Q").unpack_from

MAX_NOTE = 120
"""Bytes of an unexpected message that are kept."""

_LONGEST_STAMP = 1 << 17
"""Bytes of a stream without a complete message that are kept: more than the longest payload."""


@dataclass(slots=True)
class Stride:
    """What the first message told about all of them. One per group of connections to servers of one kind."""

    length: int = 0  # bytes of a message's frame; 0 until it is known
    header: bytes = b""  # its first 2, 4 or 10 bytes
    number: int = 0  # where in the frame the message's number begins, for those who look there


@dataclass(slots=True)
class Notes:
    """What came that was no message."""

    texts: Counter[str] = field(default_factory=Counter)  # other text frames, cut off
    closes: Counter[int] = field(default_factory=Counter)  # close frames, by code; 1005 without one
    pings: int = 0


@dataclass(slots=True)
class Sequences:
    """The numbers of the messages that one connection got, by topic.

    Args:
        from_start: whether the first message of a topic must have the number 0, which is so for whoever was subscribed
            before the publisher began.
    """

    from_start: bool
    next: dict[int, int] = field(default_factory=dict)  # by topic: the number that is due
    missing: dict[int, set[int]] = field(default_factory=dict)  # by topic: what was skipped and may come late
    duplicated: int = 0
    out_of_order: int = 0
    seen: int = 0
    ended: bool = False  # the connection has ended, and what came after that isn't missing

    def see(self, topic: int, number: int) -> None:
        """Take the next message."""
        self.seen += 1
        due = self.next.get(topic)
        if due is None:
            due = 0 if self.from_start else number
        if number == due:
            self.next[topic] = number + 1
        elif number > due:
            self.missing.setdefault(topic, set()).update(range(due, number))
            self.next[topic] = number + 1
        elif number in self.missing.get(topic, ()):
            self.missing[topic].remove(number)
            self.out_of_order += 1
        else:
            self.duplicated += 1

    def see_run(self, topic: int, first: int, last: int, count: int) -> bool:
        """Take messages that came one after another, if they are those that are due.

        Args:
            topic: of all of them.
            first: the number of the first.
            last: that of the last.
            count: how many they are.

        Returns:
            Whether they were taken. If not, they are to be looked at one by one.
        """
        if first != self.next.get(topic) or last - first + 1 != count:
            return False
        self.next[topic] = last + 1
        self.seen += count
        return True

    def lost(self, published: int | None = None, topics: int = 1, listens: tuple[int, ...] = ()) -> int:
        """How many messages never came.

        Args:
            published: messages published in all, round robin over the topics; None leaves out what may be on its way.
            topics: how many topics they went to.
            listens: the topics of this connection.
        """
        lost = sum(len(numbers) for numbers in self.missing.values())
        if published is not None and self.from_start and not self.ended:
            lost += sum(max(due_by(published, topics, topic) - self.next.get(topic, 0), 0) for topic in listens)
        return lost


def due_by(published: int, topics: int, topic: int) -> int:
    """How many of the published messages were for a topic, when they went round robin over the topics."""
    return (published - topic + topics - 1) // topics


class Scanner:
    """Counts the messages of one connection."""

    __slots__ = ("closed", "outbox")

    def __init__(self) -> None:
        self.closed = 0  # the code of the close frame that has come
        self.outbox = b""  # frames that must be answered with: pongs, already complete

    def feed(self, buffer: bytearray, size: int) -> int:
        """Take the first ``size`` bytes of a buffer, which aren't needed afterwards; return the messages in them."""
        return self.walk(bytes(memoryview(buffer)[:size]))

    def walk(self, data: bytes) -> int:
        """The same, byte by byte if need be."""
        raise NotImplementedError


class Frames(Scanner):
    """Counts messages by the length of their frames.

    Args:
        stride: what is known about the messages' length; shared.
        notes: where what is no message goes; shared.
    """

    __slots__ = ("_carry", "_notes", "_offset", "_stride")

    def __init__(self, stride: Stride, notes: Notes) -> None:
        super().__init__()
        self._stride = stride
        self._notes = notes
        self._offset = 0  # bytes that have come of a frame of the known length
        self._carry = b""  # or: bytes of a frame of which too little has come to tell

    def feed(self, buffer: bytearray, size: int) -> int:
        """See :meth:`Scanner.feed`."""
        stride = self._stride
        length = stride.length
        offset = self._offset
        if length and not self._carry:
            header = stride.header
            first = length - offset if offset else 0
            last = first + (size - first - 1) // length * length
            if size > first and size - last >= len(header):
                if buffer.startswith(header, first) and buffer.startswith(header, last):
                    total = offset + size
                    self._offset = total % length
                    return total // length
            elif size <= first:
                self._offset = (offset + size) % length
                return (offset + size) // length
        return self.walk(bytes(memoryview(buffer)[:size]))

    def walk(self, data: bytes) -> int:
        """See :meth:`Scanner.walk`."""
        count = position = 0
        stride = self._stride
        if self._offset:
            position = stride.length - self._offset
            if position > len(data):
                self._offset += len(data)
                return 0
            self._offset = 0
            count = 1
        data = self._carry + data if self._carry else data
        self._carry = b""
        while (frame := frame_at(data, position)) is not None:
            begin, end = frame
            count += self._take(data, position, begin, end)
            position = end
        rest = data[position:]
        if stride.length and rest.startswith(stride.header):
            self._offset = len(rest)
        else:
            self._carry = rest
        return count

    def _take(self, data: bytes, position: int, begin: int, end: int) -> int:
        """Take one frame, which begins at ``position`` and holds what is from ``begin`` to ``end``."""
        opcode = data[position] & 0x0F
        if opcode >= 8:
            self._control(opcode, data[begin:end])
            return 0
        marks = data.count(MARK, begin, end)
        if marks == 1 and not self._stride.length:
            self._stride.header = data[position:begin]
            self._stride.length = end - position
            if match := STAMP.search(data, begin, end):
                self._stride.number = match.start(2) - position
        elif not marks:
            self._notes.texts[data[begin : min(end, begin + MAX_NOTE)].decode(errors="replace")] += 1
        return marks

    def _control(self, opcode: int, data: bytes) -> None:
        if opcode == 8:
            self.closed = close_code(data)
            self._notes.closes[self.closed] += 1
            # RFC 6455, section 5.5.1: it is answered with the same code, and then the server closes.
            self.outbox += client_frame(data[:2], opcode=8)
        elif opcode == 9:
            self._notes.pings += 1
            self.outbox += client_frame(data, opcode=10)


class Marks(Scanner):
    """Counts messages by their marks, wherever frames begin. For servers that join and split them."""

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        super().__init__()
        self._tail = b""  # the last bytes of the previous read: a mark may be cut in two

    def walk(self, data: bytes) -> int:
        """See :meth:`Scanner.walk`."""
        data = self._tail + data
        self._tail = data[1 - len(MARK) :]
        return data.count(MARK)


class Sampler(Frames):
    """Looks at every message: its number and its time.

    Args:
        stride: as for :class:`Frames`.
        notes: as for :class:`Frames`.
        sequences: where the numbers are held to account.
        latencies: where the latencies go; shared.
        joined: whether frames may hold several messages, or parts of them.
    """

    __slots__ = ("_joined", "_latencies", "_text", "now", "sequences")

    def __init__(
        self, stride: Stride, notes: Notes, sequences: Sequences, latencies: Histogram, joined: bool = False
    ) -> None:
        super().__init__(stride, notes)
        self.sequences = sequences
        self.now = 0  # when the bytes were read, CLOCK_MONOTONIC in nanoseconds; set before each feed
        self._latencies = latencies
        self._joined = joined
        self._text = b""  # of a message of which only a part has come

    def feed(self, buffer: bytearray, size: int) -> int:
        """See :meth:`Scanner.feed`."""
        return self.walk(bytes(memoryview(buffer)[:size]))

    def walk(self, data: bytes) -> int:
        """See :meth:`Scanner.walk`."""
        # Without an offset: what is left over is always kept.
        data = self._carry + data
        count = position = 0
        while (frame := frame_at(data, position)) is not None:
            count += self._take(data, position, *frame)
            position = frame[1]
        self._carry = data[position:]
        return count

    def _take(self, data: bytes, position: int, begin: int, end: int) -> int:
        if self._joined and data[position] & 0x0F < 8:
            text = self._text + data[begin:end]
            before = self.sequences.seen
            self._text = text[self._see(text, 0, len(text)) :][-_LONGEST_STAMP:]
            return self.sequences.seen - before
        count = super()._take(data, position, begin, end)
        if count:
            self._see(data, begin, end)
        return count

    def _see(self, data: bytes, begin: int, end: int) -> int:
        """Take all messages in a range; return where the last one ends, or 0."""
        done = 0
        for match in STAMP.finditer(data, begin, end):
            topic, number, due = match.groups()
            self.sequences.see(int(topic), int(number))
            self._latencies.add((self.now - int(due)) // 1000)
            done = match.end()
        return done


def close_code(data: bytes) -> int:
    """The code in the payload of a close frame; 1005 if there is none (RFC 6455, section 7.1.5)."""
    return int(_MEDIUM(data)[0]) if len(data) >= 2 else 1005


def frame_at(data: bytes, position: int) -> tuple[int, int] | None:
    """Where the payload of the frame at a position begins and ends (RFC 6455, 5.2); None if it isn't complete."""
    rest = len(data) - position
    if rest < 2:
        return None
    begin, length = position + 2, data[position + 1]
    if length == 126:
        if rest < 4:
            return None
        begin, length = position + 4, _MEDIUM(data, position + 2)[0]
    elif length == 127:
        if rest < 10:
            return None
        begin, length = position + 10, _LONG(data, position + 2)[0]
    elif length > 127:
        raise ValueError("a server doesn't mask its frames")
    return (begin, begin + length) if begin + length <= len(data) else None
