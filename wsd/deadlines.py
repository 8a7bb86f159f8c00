"""One timer for the deadlines of all connections: the heartbeat, tokens, handshakes, backlogs, closings.

A timer or a task per connection would cost 1.7 KiB each and fire in clumps. Instead there is a timer wheel: every
connection says when it wants to be visited next, the wheel has a slot for each quarter of a second, and one tick every
quarter of a second visits the connections in its slot. A deadline further away than the horizon is looked at again at
the horizon, so there are few slots. A connection that is removed leaves its slot at once, so none keeps it alive.

Deadlines are on the sweep's own clock, :meth:`Sweep.time`. That clock stops while the event loop stands still: the
process was stopped (SIGSTOP), its virtual machine was moved, or something held the loop. What clients have sent by then
lies unread in their sockets, but timers run before sockets are read. On the loop's clock, a client that was in time
would be closed for being late. After a standstill the loop has a quarter of a second to read, and then every deadline
is as far away as it was before.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from typing import Protocol

from wsd.logs import BoundedLogger

__all__ = ["NOWHERE", "RESOLUTION", "Sweep", "Visited"]

RESOLUTION = 0.25
"""Seconds between two ticks, which is how late a visit may be."""

HORIZON = 64.0
"""Seconds: the longest time between two visits."""

LEAST_SLEEP = 0.001
"""Seconds, as uvloop's clock counts them: after a standstill of an odd length a tick may come a hair too early, and a
shorter sleep would end at once, again and again, until the millisecond is over."""

NOWHERE = -1
"""The slot of what is not visited."""

logger = logging.getLogger(__name__)


class Visited(Protocol):
    """Something with deadlines."""

    slot: int
    """The tick at which it is visited. Owned by the sweep."""

    def visit(self, now: float) -> float:
        """Act on the deadlines that have passed; return the time of the next one."""


class Sweep:
    """Visits connections when their deadlines have come.

    Args:
        clock: the event loop's time in seconds.
        on_tick: called with the number of seconds by which each tick was late: the loop's lag.
    """

    def __init__(self, clock: Callable[[], float], on_tick: Callable[[float], None] = lambda late: None) -> None:
        self._clock = clock
        self._on_tick = on_tick
        self._stood_still = 0.0  # seconds in all for which the loop stood still
        self._due = math.inf  # when the next tick should come; the time does not pass it before that has come
        self._bugs = BoundedLogger(logger, clock)
        self._slots: dict[int, dict[Visited, None]] = {}  # by the number of the tick, in order
        self._tick = int(clock() // RESOLUTION)  # the last tick that was worked off

    def time(self) -> float:
        """The time in seconds that deadlines are about: the event loop's, less what it stood still in all.

        It never goes back: while nobody knows yet that the loop has stood still, it waits for the tick that is overdue.
        """
        return min(self._unstopped(), self._due)

    def _unstopped(self) -> float:
        return self._clock() - self._stood_still

    def _slot_at(self, when: float) -> int:
        """The first tick at or after a time, of those to come before the horizon."""
        return max(-int(-min(when, self.time() + HORIZON) // RESOLUTION), self._tick + 1)

    def schedule(self, visited: Visited, when: float) -> None:
        """Visit a connection at a time, and not at the time that was agreed before."""
        self.remove(visited)
        visited.slot = self._slot_at(when)
        self._slots.setdefault(visited.slot, {})[visited] = None

    def hasten(self, visited: Visited, when: float) -> None:
        """Visit a connection at a time, unless the visit that was agreed comes earlier."""
        if visited.slot == NOWHERE or self._slot_at(when) < visited.slot:
            self.schedule(visited, when)

    def remove(self, visited: Visited) -> None:
        """Visit a connection no more."""
        if (slot := self._slots.get(visited.slot)) is not None:
            slot.pop(visited, None)
        visited.slot = NOWHERE

    def tick(self, now: float) -> None:
        """Visit each connection whose time has come, once, however many ticks were missed."""
        last, self._tick = self._tick, max(int(now // RESOLUTION), self._tick)
        for number in range(last + 1, self._tick + 1):
            for visited in self._slots.pop(number, ()):
                if visited.slot != number:
                    continue  # a visit before this one has removed the connection
                try:
                    next_visit = visited.visit(now)
                except Exception:
                    self._bugs.exception("visit", "a visit failed; the connection is visited again")
                    next_visit = now + 1.0
                if visited.slot == number:  # else the visit has removed it, or scheduled it
                    self.schedule(visited, next_visit)

    async def run(self) -> None:
        """Tick until cancelled."""
        while True:
            now = self._unstopped()
            self._due = (now // RESOLUTION + 1) * RESOLUTION
            await asyncio.sleep(max(self._due - now, LEAST_SLEEP))
            late = max(self._unstopped() - self._due, 0.0)
            self._on_tick(late)
            if late > RESOLUTION:
                await asyncio.sleep(RESOLUTION)  # for the loop to read what came while it stood still
                self._stood_still += self._unstopped() - self._due
            else:
                await asyncio.sleep(0)  # timers run before sockets: read first what came with this tick
            self.tick(self.time())
