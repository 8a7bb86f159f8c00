"""Every wait in wsd: before something is tried again, and between two rounds of what is done for ever.

A wait is random, so that the replicas of a fleet, and the many parts of one replica, don't move in step. The bound of a
growing wait doubles from a value that is itself bounded: ``min(first * 2**failures, most)`` computes the power first,
and ends with an OverflowError at the 1,024th failure in a row.
"""

from __future__ import annotations

import random

__all__ = ["Backoff", "spread"]


class Backoff:
    """The waits between attempts that fail: an iterator without an end.

    Args:
        first: seconds; the bound of the first wait.
        most: seconds; the bound doubles until it is as large.
    """

    def __init__(self, first: float, most: float) -> None:
        self._first = min(first, most)
        self._most = most
        self._bound = self._first  # of the next wait

    def __iter__(self) -> Backoff:
        return self

    def __next__(self) -> float:
        """Return the seconds to wait now."""
        bound = self._bound
        self._bound = min(bound * 2, self._most)
        return spread(bound)

    def reset(self) -> None:
        """An attempt has succeeded: the next wait is a first one."""
        self._bound = self._first


def spread(most: float) -> float:
    """Return a random time between half of the seconds and all of them."""
    return random.uniform(most / 2, most)
