"""A descriptor to which a thread writes lines, so that nobody waits for the reader of the descriptor.

Standard error may be a pipe that nobody reads, a terminal that somebody has stopped, a file on a disk that is full.
write(2) then waits or fails, and an event loop that logs a line would stand still. So a line is put into a queue, which
is bounded in lines and bytes, and a daemon thread writes. What doesn't fit is counted, and a line of its own says so
where the hole is. A write that fails is tried again: the disk may have room later.

The thread and those who put lines share no lock, so that a thread stuck in write(2) holds nobody up, not even the exit
of the interpreter. Each counter is written by one side only.
"""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue

__all__ = ["Outlet"]

MAX_LINES = 10_000
"""Lines that may wait. An hour of a bounded logger's lines is twice that."""

MAX_BYTES = 1_048_576
"""Bytes that may wait."""

RETRY = 1.0
"""Seconds until a write that failed is tried again."""


class Outlet:
    """Writes lines to a descriptor, in order.

    Args:
        descriptor: where to. It stays open.
        loss: makes the line that says how many lines were lost, and why.
    """

    def __init__(self, descriptor: int, loss: Callable[[int, str], bytes]) -> None:
        self._descriptor = descriptor
        self._loss = loss
        # A line, how many had been lost before it, and whom to tell when the thread is done with it; None ends the
        # thread.
        self._queue: SimpleQueue[tuple[bytes, int, threading.Event | None] | None] = SimpleQueue()
        self._full = False  # whether lines are refused
        # Written by those who put lines, who must not do so at the same time.
        self._refused = 0  # lines
        self._put_lines = self._put_bytes = 0
        # Written by the thread.
        self._given_up = 0  # lines that could not be written at the end
        self._said = 0  # lost lines that have been told of
        self._done_lines = self._done_bytes = 0
        self._problem = ""  # why the last write failed
        self._hurry = threading.Event()  # the process ends: try nothing twice
        threading.Thread(target=self._run, name="wsd-log", daemon=True).start()

    @property
    def lost(self) -> int:
        """How many lines were lost."""
        return self._refused + self._given_up

    def put(self, line: bytes) -> None:
        """Write a line when its turn comes. Never waits, never raises."""
        lines = self._put_lines - self._done_lines
        size = self._put_bytes - self._done_bytes
        # A full queue takes lines again when half of it is free. Otherwise every other line would tell of a loss.
        share = 0.5 if self._full else 1.0
        self._full = lines >= MAX_LINES * share or size + len(line) > MAX_BYTES * share
        if self._full:
            self._refused += 1
            return
        self._put_lines += 1
        self._put_bytes += len(line)
        self._queue.put((line, self._refused, None))

    def drain(self, seconds: float) -> bool:
        """Wait until all is written, or the time is over; return which. A write that fails isn't tried again."""
        done = threading.Event()
        self._hurry.set()
        self._queue.put((b"", self._refused, done))
        written = done.wait(seconds)
        self._hurry.clear()
        return written

    def close(self) -> None:
        """End the thread when it has written what waits."""
        self._queue.put(None)

    def _run(self) -> None:
        # Signals are the main thread's. When that one holds them back, they must not arrive here.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while (entry := self._queue.get()) is not None:
            line, refused, done = entry
            self._say_lost(refused)
            if not self._write(line):
                self._given_up += 1
            if line:
                self._done_lines += 1
                self._done_bytes += len(line)
            if self._queue.empty():
                self._say_lost(self._refused)  # no line may come for a long time
            if done is not None:
                done.set()

    def _say_lost(self, refused: int) -> None:
        lost = refused + self._given_up - self._said
        if lost > 0 and self._write(self._loss(lost, self._problem or "nobody read it fast enough")):
            self._said += lost
            self._problem = ""

    def _write(self, line: bytes) -> bool:
        """Write a line whole, however long that takes; return False if it was given up because the process ends."""
        rest = memoryview(line)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:  # another process that has the file open has set O_NONBLOCK
                self._wait_for_room()
            except OSError as exc:
                self._problem = f"writing failed: {exc.strerror}"
                if self._hurry.is_set():
                    return False
                self._hurry.wait(RETRY)
        return True

    def _wait_for_room(self) -> None:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        with suppress(OSError):
            poll.poll(RETRY * 1000)
