"""Listeners, transports and a loop's queue that do next to nothing.

A write to a fake is a call of ``deque.append``, which takes about 25 ns. It is a method written in C, and so is the
``write`` of uvloop's transports. The deque keeps the last few writes for the tests to look at, and doesn't grow.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

__all__ = ["Ear", "Nowhere", "Queue"]

KEPT = 4
"""Writes that a fake keeps: more than any piece of work here makes on one connection."""


class Ear:
    """A listener of the fan-out."""

    __slots__ = ("heard", "write")

    def __init__(self) -> None:
        self.heard: deque[bytes] = deque(maxlen=KEPT)  # what was written last
        self.write: Callable[[bytes], object] = self.heard.append

    def topic_confirmed(self, topic: str) -> None:
        """All of its topics are, when it asks for them."""

    def topic_refused(self, topic: str, reason: str) -> None:
        """No ear is ever refused a topic."""


class Nowhere:
    """A transport without a socket. It is no ``asyncio.Transport``, because its ``write`` is an attribute."""

    __slots__ = ("__weakref__", "closing", "protocol", "write", "written")

    def __init__(self) -> None:
        self.written: deque[bytes] = deque(maxlen=KEPT)  # what was written last
        self.write: Callable[[bytes], object] = self.written.append
        self.closing = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """There is no buffer."""

    def pause_reading(self) -> None:
        """There is nothing to read."""

    def resume_reading(self) -> None:
        """There is still nothing to read."""

    def get_extra_info(self, name: str, default: object = None) -> object:
        """There is nobody at the other end."""
        return default

    def is_closing(self) -> bool:
        """Whether :meth:`abort` was called."""
        return self.closing

    def abort(self) -> None:
        """End, without a word to the protocol."""
        self.closing = True

    def as_transport(self) -> asyncio.Transport:
        """Itself, for signatures that want more than is used."""
        return self  # type: ignore[return-value]


class Queue:
    """The loop's queue of callbacks, run by hand so that the loop's own cost stays out."""

    def __init__(self) -> None:
        self._callbacks: deque[Callable[[], object]] = deque()

    def call_soon(self, callback: Callable[[], object]) -> None:
        """Take a callback."""
        self._callbacks.append(callback)

    def run(self) -> None:
        """Run all callbacks, and those that they add."""
        callbacks = self._callbacks
        while callbacks:
            callbacks.popleft()()
