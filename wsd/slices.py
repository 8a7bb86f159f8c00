"""Small work, much of it, without holding the loop: done at once while there is time, and else later, in order.

Fifteen thousand clients that leave together are fifteen thousand callbacks in one turn of the event loop. Each takes
some ten microseconds, more with topics; together they would hold the loop for half a second.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import perf_counter

__all__ = ["SLICE", "Slices"]

SLICE = 0.002
"""Seconds of such work in a turn of the loop."""


class Slices:
    """Does work within a slice of each turn of the loop.

    Args:
        call_soon: runs a function at the loop's next turn: the loop's ``call_soon``.
    """

    def __init__(self, call_soon: Callable[[Callable[[], None]], object]) -> None:
        self._call_soon = call_soon
        self._waiting: deque[Callable[[], None]] = deque()
        self._used = 0.0  # seconds of this turn
        self._scheduled = False  # whether the next turn is waited for

    def do(self, work: Callable[[], None]) -> None:
        """Do something now, or behind what waits if the slice of this turn is over."""
        self._schedule()
        if self._waiting or self._used >= SLICE:
            self._waiting.append(work)
            return
        started = perf_counter()
        try:
            work()
        finally:
            self._used += perf_counter() - started

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        self._used = 0.0
        if not self._waiting:
            return
        self._schedule()  # whatever the work raises, the rest is done
        started = perf_counter()
        try:
            while self._waiting and self._used < SLICE:
                self._waiting.popleft()()
                self._used = perf_counter() - started
        finally:
            self._used = perf_counter() - started
