"""The writing half of a connection: straight to the socket while it takes everything, into a bounded backlog when not.

``write`` follows from the phase and from whether the connection is lagging::

    OPEN          | the transport's own ``write``, so the fan-out pays for no check
    OPEN, lagging | :meth:`Writer._hold`
    any other     | nothing is written

A connection that is about to move to another process counts as lagging from :meth:`Writer._keep_back` on: the transport
gets nothing more, so that what it holds leaves by itself, and the backlog travels in the record.

uvloop writes to the socket at once, and calls ``pause_writing`` from within when the kernel's buffer is full. From then
on the connection is *lagging*: the socket has not taken everything that is due (backpressure). Frames are kept in the
backlog, by reference, so that one frame for a thousand laggards exists once. When the socket has taken what it had, the
backlog follows in portions.

A write never raises, and changes nothing but this connection. A write that passes a bound makes the connection DOOMED
and drops the backlog; the end comes with the next turn of the loop.

Two bounds hold whatever the client does or omits:

- the bytes that wait, counted from the first that the socket has not taken and checked whenever they grow. A message
  that is itself longer than the bound could never be held to it. Some of those may wait (`Bounds.most`), because a
  client that reads at full speed still has one in its socket when the next one comes;
- the age of what the socket has not taken, checked by the sweep. A portion counts from the time when its oldest frame
  was due, so a client that reads a trickle is found as well as one that has stopped.

The alternative, to leave everything in the transport's queue, knows no ages, and a close frame could only be appended
to all of it.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from math import inf
from typing import cast

from wsd.clients.phases import Phase
from wsd.deadlines import NOWHERE, Sweep
from wsd.delivery.fanout import Bounds

__all__ = ["Writer"]


def _write_nothing(data: bytes) -> None:
    """The ``write`` of a connection that isn't open."""


class Writer(asyncio.BaseProtocol, ABC):
    """A transport and what waits for it.

    Args:
        bounds: what may wait.
        sweep: visits the connection when the backlog's age must be checked.
        phase: in which it begins.
    """

    # Thousands of these: an instance dictionary of so many names would take 1.5 KiB.
    __slots__ = (
        "__weakref__",  # 8 bytes; the test that nothing is left of closed connections needs it
        "_backlog",
        "_bounds",
        "_held",
        "_most",
        "_on_sent",
        "_portion_due",
        "_sweep",
        "lagging",
        "loop",
        "phase",
        "slot",
        "transport",
        "write",
    )

    def __init__(self, bounds: Bounds, sweep: Sweep, phase: Phase) -> None:
        self._bounds = bounds
        self._sweep = sweep
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport
        self.slot = NOWHERE  # the sweep's
        self.phase = phase  # how far the connection is; changed by _enter alone
        self.write: Callable[[bytes], object] = _write_nothing  # sends frames; see above
        self.lagging = False  # whether the socket has not taken everything that is due
        # Frames with the times when they were due; lagging only.
        self._backlog: deque[tuple[float, bytes]] | None = None
        self._held = 0  # bytes of them
        self._most = bounds.max_backlog  # bytes that may wait now
        self._portion_due = 0.0  # while lagging: when the oldest frame was due that the socket has not taken
        self._on_sent: Callable[[], None] | None = None  # called when the transport holds nothing, if we keep back

    @property
    def backlog_bytes(self) -> int:
        """What is due to the client and its socket has not taken, in bytes."""
        return self._held + self.transport.get_write_buffer_size() if self.lagging else 0

    @property
    def backlog_age(self) -> float:
        """Seconds since the oldest frame was due that the socket has not taken."""
        return self._sweep.time() - self._portion_due if self.lagging else 0.0

    @property
    def backlog_deadline(self) -> float:
        """When the bound of age is passed, unless the socket takes something."""
        if not self.lagging or (self._on_sent is not None and not self.backlog_bytes):
            return inf
        return self._portion_due + self._bounds.max_backlog_age

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a new socket."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one without saying so
        # Pause at the first byte that the kernel doesn't take: what waits is ours to bound.
        self.transport.set_write_buffer_limits(high=0)

    def _enter(self, phase: Phase) -> None:
        """Go on to another phase."""
        assert phase in self.phase.leads_to, f"{phase} does not follow {self.phase}"
        self.phase = phase
        self._choose_write()

    def _choose_write(self) -> None:
        if self.phase is not Phase.OPEN:
            self.write = _write_nothing
        elif self.lagging:
            self.write = self._hold
        else:
            self.write = self.transport.write

    def pause_writing(self) -> None:
        """The socket takes no more. Called by the transport from within a write."""
        self.lagging = True
        self._lag(self._sweep.time())
        self._choose_write()
        if self.phase is Phase.OPEN:
            self._check_bytes(self.transport.get_write_buffer_size())

    def _lag(self, due: float) -> None:
        """Start the clock of max_backlog_age: the oldest frame that the socket has not taken was due then."""
        self._portion_due = due
        self._sweep.hasten(self, self.backlog_deadline)

    def resume_writing(self) -> None:
        """The socket has taken what it had: hand it the backlog, a portion at a time, until it pauses again."""
        if self._on_sent is not None:
            self._portion_due = self._backlog[0][0] if self._backlog else self._sweep.time()
            self._on_sent()
            return
        self.lagging = False
        while self._backlog:
            if self._hand_over_portion(self._backlog):
                return
        self._backlog = None
        self._most = self._bounds.max_backlog
        self._choose_write()

    def _hand_over_portion(self, backlog: deque[tuple[float, bytes]]) -> bool:
        """Write the oldest frames of the backlog; return whether the socket paused."""
        due, size = backlog[0][0], 0
        frames: list[bytes] = []
        portion = self._bounds.portion
        while backlog and (not frames or size + len(backlog[0][1]) <= portion):
            frame = backlog.popleft()[1]
            frames.append(frame)
            size += len(frame)
        self._held -= size
        self.transport.write(b"".join(frames))
        if self.lagging:
            self._lag(due)
        return self.lagging

    def _keep_back(self, on_sent: Callable[[], None]) -> None:
        """Hand the transport nothing more.

        Args:
            on_sent: called when the socket has taken what the transport holds: at once, if that is nothing.
        """
        self._on_sent = on_sent
        if self.lagging:
            return
        self.lagging = True
        self._portion_due = self._sweep.time()
        self._choose_write()
        on_sent()

    def _hand_on(self) -> None:
        """Hand the transport what waits, after :meth:`_keep_back`."""
        self._on_sent = None
        if not self.transport.get_write_buffer_size():  # else the transport calls when it has sent that
            self.resume_writing()

    def _write_all(self, frames: Iterable[tuple[float, bytes]]) -> None:
        """Write frames that were due before, the oldest first, within the same bounds as if they had waited here.

        Args:
            frames: with the times when they were due. Nothing else waits.
        """
        self._backlog = deque(frames)
        sizes = [len(data) for _, data in self._backlog]
        self._held = sum(sizes)
        self._check_bytes(max(sizes, default=0))  # of a single message that is longer than the bound
        self.resume_writing()

    def _hold(self, data: bytes) -> None:
        """Keep frames until the socket takes them."""
        if self._backlog is None:
            self._backlog = deque()
        self._backlog.append((self._sweep.time(), data))
        self._held += len(data)
        self._check_bytes(len(data))

    def _write_last(self, data: bytes) -> None:
        """Write behind all that waits, in a phase in which nothing more is written."""
        if self._backlog:
            self._backlog.append((self._sweep.time(), data))
            self._held += len(data)
        else:
            self.transport.write(data)

    def _write_end(self) -> None:
        """Send nothing more: the client reads the end of the stream behind what waits."""
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:  # TLS has no half-closed connections in asyncio
            self.transport.close()

    def _check_bytes(self, longest: int) -> None:
        """Be doomed if too much waits.

        Args:
            longest: bytes of the longest of what was written last.
        """
        self._most = max(self._most, self._bounds.most(longest))
        if self.backlog_bytes > self._most:
            self._enter(Phase.DOOMED)
            self.loop.call_soon(self._give_up, "bytes", self.backlog_bytes, self.backlog_age)
            self._drop_backlog()

    def _drop_backlog(self) -> None:
        self._backlog = None
        self._held = 0

    @abstractmethod
    def _give_up(self, bound: str, waiting: int, age: float) -> None:
        """Count a connection that has passed a bound, and end it unless it has ended already.

        Args:
            bound: ``bytes`` or ``age``.
            waiting: bytes that waited then.
            age: seconds for which the oldest of them had waited.
        """

    @abstractmethod
    def visit(self, now: float) -> float:
        """Act on the deadlines that have passed; return the time of the next one. Called by the sweep."""
