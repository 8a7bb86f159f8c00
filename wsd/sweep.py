"""One timer for the deadlines of all connections: the heartbeat, tokens, handshakes, backlogs, closings.

A timer or a task per connection would cost 1.7 KiB each and fire in clumps. Instead, every connection says when it
wants to be visited next, and one tick every quarter of a second visits those whose time has come. A deadline
further away than the horizon is looked at again at the horizon, so there are few slots and none holds a closed
connection for long: whoever is removed is gone at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

__all__ = ["NOWHERE", "RESOLUTION", "Sweep", "Visited"]

RESOLUTION = 0.25
"""Seconds between two ticks, which is how late a visit may be."""

HORIZON = 64.0
"""Seconds: the longest time between two visits."""

NOWHERE = -1
"""The slot of somebody who is not visited."""

logger = logging.getLogger(__name__)


class Visited(Protocol):
    """Somebody with deadlines."""

    slot: int
    """Where the sweep keeps it. Owned by the sweep."""

    def visit(self, now: float) -> float:
        """Act on the deadlines that have passed; return the time of the next one."""


class Sweep:
    """Visits everyone in time.

    Args:
        clock: the event loop's time in seconds.
        on_tick: called with the number of seconds by which each tick was late: the loop's lag.
    """

    def __init__(self, clock: Callable[[], float], on_tick: Callable[[float], None] = lambda late: None) -> None:
        self._clock = clock
        self._on_tick = on_tick
        self._slots: dict[int, set[Visited]] = {}  # by the number of the tick
        self._tick = int(clock() // RESOLUTION)  # the last tick that was worked off

    def _slot_at(self, when: float) -> int:
        """The first tick at or after a time, of those to come before the horizon."""
        return max(-int(-min(when, self._clock() + HORIZON) // RESOLUTION), self._tick + 1)

    def schedule(self, visited: Visited, when: float) -> None:
        """Visit somebody at a time, and not at the time that was agreed before."""
        self.remove(visited)
        visited.slot = self._slot_at(when)
        self._slots.setdefault(visited.slot, set()).add(visited)

    def hasten(self, visited: Visited, when: float) -> None:
        """Visit somebody at a time, unless the visit that was agreed comes earlier."""
        if visited.slot == NOWHERE or self._slot_at(when) < visited.slot:
            self.schedule(visited, when)

    def remove(self, visited: Visited) -> None:
        """Don't visit somebody any more."""
        if (slot := self._slots.get(visited.slot)) is not None:
            slot.discard(visited)
        visited.slot = NOWHERE

    def tick(self, now: float) -> None:
        """Visit all whose time has come."""
        for number in range(self._tick + 1, int(now // RESOLUTION) + 1):
            self._tick = number
            for visited in self._slots.pop(number, ()):
                if visited.slot != number:
                    continue  # a visit before this one has removed it
                try:
                    next_visit = visited.visit(now)
                except Exception:
                    logger.exception("a visit failed; the connection is visited again")
                    next_visit = now + 1.0
                if visited.slot == number:  # it has neither gone nor made another appointment
                    self.schedule(visited, next_visit)

    async def run(self) -> None:
        """Tick until cancelled."""
        while True:
            now = self._clock()
            due = (now // RESOLUTION + 1) * RESOLUTION
            await asyncio.sleep(due - now)
            now = self._clock()
            self._on_tick(max(now - due, 0.0))
            self.tick(now)
