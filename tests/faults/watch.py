"""The daemon from outside: its process, its log, and what /readyz says all the time."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise
from math import inf
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from tests.faults.ledger import Stretch
from tests.faults.observed import TELL
from tests.lib.programs import Daemon

__all__ = ["Holdings", "ObservedDaemon", "Watch"]

POLL = 0.05
"""Seconds between two looks at /readyz. Answering costs the daemon about 1 % of a core."""

LOST = re.compile(r"lost the link|[1-9]\d* channels have moved|taken away|had dropped \d+ subscriptions")
"""In the log: messages may be missed from now on."""

UNSEEN = 0.5
"""Seconds without a look, of which nobody knows what /readyz would have said."""

LATE = 0.1
"""Seconds between two looks beyond which something holds them up: this process, or the daemon, gets no processor."""

NO_ANSWER = 0
"""Instead of an HTTP status."""


class Holdings(NamedTuple):
    """What a process holds."""

    descriptors: int
    threads: int
    tasks: int  # of asyncio
    objects: int  # that the garbage collector knows
    memory: int  # bytes that are resident


class ObservedDaemon(Daemon):
    """``wsd serve``, observed."""

    program = (sys.executable, "-m", "tests.faults.observed")

    def cpu_seconds(self) -> float:
        """Processor time of all its processes so far: the worker serves clients, and the supervisor answers /readyz."""
        ticks = 0
        for pid in (self.pid, *self.workers):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def holdings(self) -> Holdings:
        """What its worker holds now."""
        (worker,) = self.workers
        os.kill(worker, TELL)
        told = re.findall(r"\d+", self.wait_for("tasks="))
        status = Path(f"/proc/{worker}/status").read_text()
        numbers = {name: int(value) for name, value in re.findall(r"^(Threads|VmRSS):\s+(\d+)", status, re.MULTILINE)}
        descriptors = len(os.listdir(f"/proc/{worker}/fd"))
        return Holdings(descriptors, numbers["Threads"], int(told[0]), int(told[1]), numbers["VmRSS"] * 1024)

    def losses(self) -> list[float]:
        """When the log said that messages may be missed from now on."""
        return [when for when, line in zip(self.lines.times, self.log, strict=False) if LOST.search(line)]

    def complaints(self) -> list[str]:
        """Lines of the log that speak of a bug."""
        return [line.strip() for line in self.log if re.search(r"Traceback|\bERROR\b|\bCRITICAL\b", line)]


class Sample(NamedTuple):
    """One answer of /readyz. The daemon gave it at some time between the two."""

    asked: float
    answered: float
    status: int


class Watch:
    """Looks at the daemon's admin port all the time."""

    def __init__(self, daemon: ObservedDaemon) -> None:
        self._daemon = daemon
        self._polling: asyncio.Task[None] | None = None
        self.samples: list[Sample] = []  # what /readyz has said
        self.reason = ""  # what it said at last

    async def __aenter__(self) -> Self:
        self._polling = asyncio.create_task(self._poll())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._polling is not None
        self._polling.cancel()
        await asyncio.gather(self._polling, return_exceptions=True)

    async def _poll(self) -> None:
        while True:
            asked = time.monotonic()
            try:
                async with asyncio.timeout(1):
                    status, self.reason = await self.get("/readyz")
            except (OSError, TimeoutError):
                status = NO_ANSWER
            self.samples.append(Sample(asked, time.monotonic(), status))
            await asyncio.sleep(max(POLL - (time.monotonic() - asked), 0))

    async def get(self, path: str) -> tuple[int, str]:
        """Ask the admin port; return status and text."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._daemon.admin_port)
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        finally:
            writer.close()
        if not head:
            raise ConnectionError("the daemon closed the connection")
        return int(head.split()[1]), body.decode()

    @property
    def ready(self) -> bool:
        """Whether the last answer was 200."""
        return bool(self.samples) and self.samples[-1].status == 200

    def noticed(self, since: float) -> float | None:
        """When /readyz or the log first said that something is wrong; None if neither has."""
        times = [sample.asked for sample in self.samples if sample.status == 503] + self._daemon.losses()
        return min((when for when in times if when >= since), default=None)

    def ready_again(self, since: float) -> float | None:
        """Since when /readyz says 200 without a break; None if it doesn't."""
        found = None
        for sample in reversed(self.samples):
            if sample.status != 200 or sample.asked < since:
                break
            found = sample.asked
        return found

    def said_ready(self, start: float, end: float) -> bool:
        """Whether /readyz said 200 at any time of a stretch."""
        return any(sample.status == 200 and start < sample.asked < end for sample in self.samples)

    async def until(self, when: Callable[[], float | None], bound: float) -> float | None:
        """Wait for something, and return when it was; None if it is not within a bound.

        The bound does not count the time in which nobody could look.
        """
        since = time.monotonic()
        while (found := when()) is None and time.monotonic() < self.without_delay(since, bound):  # noqa: ASYNC110
            await asyncio.sleep(0.005)  # no event tells
        return found

    def without_delay(self, since: float, seconds: float) -> float:
        """When so many seconds have passed in which one could look: a busy machine adds the others."""
        end = since + seconds
        looks = [sample.asked for sample in self.samples]
        looks = [since, *looks[bisect_left(looks, since) :], time.monotonic()]
        for before, after in pairwise(looks):
            if before >= end:
                break
            if after - before > LATE:
                end += after - before - POLL
        return end

    @property
    def held_up(self) -> float:
        """The longest time for which nobody could look, in seconds."""
        looks = [*(sample.asked for sample in self.samples), time.monotonic()]
        return max((after - before - POLL for before, after in pairwise(looks)), default=0.0)

    def doubts(self) -> list[Stretch]:
        """When /readyz or the log said that not everything is delivered, or may have said so, in order.

        Nobody knows what /readyz would have said while nobody could ask.
        """
        said = [(sample.asked, sample.answered) for sample in self.samples if sample.status != 200]
        unseen = [
            (before.asked, after.answered)
            for before, after in pairwise(self.samples)
            if after.answered - before.asked > UNSEEN
        ]
        return sorted([*said, *unseen, *((when, when) for when in self._daemon.losses())])


def near(doubts: Sequence[Stretch], start: float, end: float) -> bool:
    """Whether any of the doubts, which are in order, touches a stretch."""
    beyond = bisect_right(doubts, (end, inf))
    return any(last >= start for _, last in reversed(doubts[:beyond]))
