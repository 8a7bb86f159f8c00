"""What can be timed, and what it is set beside.

The clock is the CPU time of the thread, user and system mode together. Results are compared with each other, within one
run and between runs, and the wall clock would count whatever else runs on the machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["Comparison", "Work", "clock"]

clock = time.thread_time


class Work:
    """Something that can be done again and again. It is made, opened, timed and closed inside a running event loop.

    A subclass has :meth:`run`, or :meth:`time` if not all that it does should be timed.
    """

    async def open(self) -> None:
        """Make ready what isn't timed."""

    def run(self) -> None:
        """Do the work once."""
        raise NotImplementedError

    async def time(self, loops: int) -> float:
        """Do the work some times; return the seconds of CPU that it took."""
        run = self.run
        began = clock()
        for _ in range(loops):
            run()
        return clock() - began

    async def close(self) -> None:
        """Undo :meth:`open`."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A piece of wsd beside what it is measured against."""

    name: str
    unit: str  # what the time is for: one message, one delivery, one request
    units: int  # in one run, whoever does it
    measures: str  # a sentence
    wsd: Callable[[], Work]
    references: Mapping[str, Callable[[], Work]]  # by what they are

    def subjects(self) -> Mapping[str, Callable[[], Work]]:
        """All that is timed, by name; wsd first."""
        return {"wsd": self.wsd, **self.references}

    def title(self, subject: str) -> str:
        """What pyperf knows a subject by."""
        return f"{self.name}, per {self.unit}: {subject}"
