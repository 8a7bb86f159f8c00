"""When the generator's clients act: how fast they come, how long they think, and when they come back.

Without a clock and without sockets: every method is told the time, in seconds.
"""

from __future__ import annotations

import random
from heapq import heappop, heappush
from typing import Generic, TypeVar

__all__ = ["FINAL_CODES", "Ramp", "Returns", "Thoughts"]

FIRST_WAIT = 1.0
"""Seconds that a client waits before it connects again, give or take a half: what README.md tells clients to do."""

LONGEST_WAIT = 30.0
"""Seconds, give or take a half, up to which the wait doubles with every attempt that fails."""

FINAL_CODES = frozenset({1002, 1007, 1008, 1009})
"""Close codes after which a client doesn't come back, because it has a bug."""

Request = TypeVar("Request")


def around(seconds: float) -> float:
    """A random time that is the given one, give or take a half."""
    return seconds * random.uniform(0.5, 1.5)


class Ramp:
    """Connections come at a rate.

    Args:
        rate: connections per second; 0: without a limit.
        now: when the first may come.
    """

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._began = now
        self._taken = 0  # connections

    def take(self, now: float) -> bool:
        """Whether one more connection may be opened now. If so, it counts as opened."""
        if self._rate and self._taken > self._rate * (now - self._began):
            return False
        self._taken += 1
        return True


class Returns:
    """Connections that ended unasked, or could not be made, come back after a wait that grows."""

    def __init__(self) -> None:
        self._bounds: dict[int, float] = {}  # by number: the wait that an attempt which fails now is followed by
        self._due: list[tuple[float, int]] = []  # a heap: when, and the number of the connection

    def __contains__(self, number: int) -> bool:
        """Whether a connection has ended and isn't subscribed again yet."""
        return number in self._bounds

    def __len__(self) -> int:
        """How many wait."""
        return len(self._due)

    def ended(self, number: int, now: float) -> None:
        """A connection has ended, or could not be made."""
        bound = self._bounds.get(number, FIRST_WAIT)
        self._bounds[number] = min(bound * 2, LONGEST_WAIT)
        heappush(self._due, (now + around(bound), number))

    def subscribed(self, number: int) -> bool:
        """A connection is subscribed: its next wait is a first one. Returns whether it had been away."""
        return self._bounds.pop(number, None) is not None

    def due(self, now: float) -> list[int]:
        """The connections whose wait is over. They are no longer waited for."""
        over = []
        while self._due and self._due[0][0] <= now:
            over.append(heappop(self._due)[1])
        return over

    def clear(self) -> None:
        """Nobody comes back."""
        self._bounds.clear()
        self._due.clear()


class Thoughts(Generic[Request]):
    """Requests that clients think about before they send them."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Request]] = []  # a heap; the numbers keep requests from being compared
        self._number = 0

    def __len__(self) -> int:
        """How many clients think."""
        return len(self._due)

    def begin(self, request: Request, seconds: float, now: float) -> None:
        """A client begins to think, for so many seconds, give or take a half."""
        self._number += 1
        heappush(self._due, (now + around(seconds), self._number, request))

    def over(self, now: float) -> list[Request]:
        """The requests that are to be sent now."""
        over = []
        while self._due and self._due[0][0] <= now:
            over.append(heappop(self._due)[2])
        return over
