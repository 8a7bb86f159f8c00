"""How many clients each worker has let in, in memory that all workers of a service share.

Every worker has a place of its own in a page of memory (memfd_create(2)): it alone writes there, and all read. So
``max_connections`` holds for all of them together without a message between them. A worker that lets a client in says
so before it looks whether the others leave room. Two that do so in the same moment may both refuse, but can't both take
the last place.
"""

from __future__ import annotations

import mmap
import os

__all__ = ["PLACES", "Headcount", "clear", "make"]

PLACES = 256
"""Workers that can count: as many as there may be, twice, because both of a pair count during a hand-over. To add them
up takes 4 µs, and an opening handshake 300."""

SIZE = PLACES * 8
"""Bytes: a signed number of 64 bits for each, which is written and read in one go."""


def make() -> int:
    """Make the memory; return its descriptor."""
    descriptor = os.memfd_create("headcount")
    os.ftruncate(descriptor, SIZE)
    return descriptor


def clear(descriptor: int, place: int) -> None:
    """Forget the clients of a worker that is gone."""
    os.pwrite(descriptor, bytes(8), place * 8)


class Headcount:
    """The count of one worker, among those of the others.

    Args:
        descriptor: of the memory; it may be closed afterwards.
        place: this worker's, from 0.
        most: clients that all workers together may have.
    """

    def __init__(self, descriptor: int, place: int, most: int) -> None:
        self._counts = memoryview(mmap.mmap(descriptor, SIZE)).cast("q")
        self._place = place
        self.most = most

    def total(self) -> int:
        """How many clients all workers have."""
        return sum(self._counts)

    def note(self, clients: int) -> None:
        """Say how many clients this worker has."""
        self._counts[self._place] = clients

    def claim(self, clients: int) -> bool:
        """Say that this worker will have one client more, unless all together would have too many.

        Args:
            clients: that it has now.
        """
        self.note(clients + 1)
        if self.total() <= self.most:
            return True
        self.note(clients)
        return False
