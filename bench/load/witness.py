"""Looks at all connections, not at samples: the numbers of what each one got, and its longest pause.

It is for what may go wrong on a single one of thousands, such as a hand-over. To parse every message is too dear for
that: at 2 µs each, 10,000 clients at 20 messages a second are half a core, and 1,000 at 2,000 are four. So a
:class:`Witness` parses two numbers of a read, the first and the last that came with it. If the first is the one that
was due, and as many messages lie between them as the numbers say, nothing is missing, doubled or late, unless two
faults of one read undo each other. Any other read is looked at message by message.
"""

from __future__ import annotations

from bench.load.scan import Frames, Notes, Sequences, Stride
from bench.load.wire import STAMP

__all__ = ["Pauses", "Witness"]

DIGITS = 12
"""Of the number of a message, in its stamp."""


class Pauses:
    """How long one connection has been without a message, at the longest, in each of several windows of time.

    A pause counts in the window in which it ends, and one that goes on at the end of a window also there.

    Args:
        now: nanoseconds.
    """

    __slots__ = ("_heard", "_longest", "windows")

    def __init__(self, now: int) -> None:
        self.windows: list[int] = []  # the longest of each window that is over, in nanoseconds
        self._heard = now  # when the last message came
        self._longest = 0

    def hear(self, now: int) -> None:
        """A message has come, or several at once."""
        self._longest = max(self._longest, now - self._heard)
        self._heard = now

    def turn(self, now: int) -> None:
        """A window ends, and the next begins."""
        self.windows.append(max(self._longest, now - self._heard))
        self._longest = 0


class Witness(Frames):
    """Counts, and holds the numbers of the messages of one topic to account.

    Args:
        stride: as for :class:`Frames`.
        notes: as for :class:`Frames`.
        sequences: where the numbers are held to account.
        topic: the one topic of the connection.
    """

    __slots__ = ("_sequences", "_topic")

    def __init__(self, stride: Stride, notes: Notes, sequences: Sequences, topic: int) -> None:
        super().__init__(stride, notes)
        self._sequences = sequences
        self._topic = topic

    def feed(self, buffer: bytearray, size: int) -> int:
        """See :meth:`Scanner.feed`."""
        stride = self._stride
        length = stride.length
        if length and not self._carry:
            offset = self._offset
            first = length - offset if offset else 0
            if size <= first:
                self._offset = (offset + size) % length
                return (offset + size) // length
            whole = (size - first) // length  # messages that begin and end in this read
            end = first + whole * length
            last = end if end < size else end - length  # where the last one begins that begins in this read
            seen = whole + (end < size)
            if size - last > stride.number + DIGITS and self._fits(buffer, first, last, seen):
                self._offset = size - end
                return whole + (offset > 0)
        return self.walk(bytes(memoryview(buffer)[:size]))

    def _fits(self, buffer: bytearray, first: int, last: int, count: int) -> bool:
        """Whether so many messages are those that were due. If so, they are taken.

        Args:
            buffer: what came.
            first: where the first of them begins.
            last: where the last of them begins.
            count: how many they must be.
        """
        stride = self._stride
        begin = stride.number
        if not (buffer.startswith(stride.header, first) and buffer.startswith(stride.header, last)):
            return False
        try:
            least = int(buffer[first + begin : first + begin + DIGITS])
            most = int(buffer[last + begin : last + begin + DIGITS])
        except ValueError:  # something else that is as long
            return False
        return self._sequences.see_run(self._topic, least, most, count)

    def walk(self, data: bytes) -> int:
        """See :meth:`Scanner.walk`."""
        before, whole = self._offset, self._carry + data
        count = super().walk(data)
        if self._offset and not (before and self._offset == before + len(data)):
            # Of the last message only a part has come. Its number counts now, or waits for the rest.
            rest = whole[-self._offset :]
            number = rest[self._stride.number :][:DIGITS]
            if len(number) == DIGITS:
                self._sequences.see(self._topic, int(number))
            else:
                self._offset, self._carry = 0, rest
        return count

    def _take(self, data: bytes, position: int, begin: int, end: int) -> int:
        count = super()._take(data, position, begin, end)
        if count and (match := STAMP.search(data, begin, end)):
            self._sequences.see(self._topic, int(match[2]))
        return count
