"""One scenario: what happens to the daemon while the crowd lives, what may follow, and what was found.

A scenario is played in five acts. Redis and the daemon start; the crowd comes; numbers flow; it *happens*, several
times if need be; the crowd comes to rest, and the judge compares the diaries with the book.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import jwt

from tests.handover.crowd import Crowd, Size
from tests.handover.deployments import Deployment
from tests.handover.injection import Injection
from tests.handover.judge import May, Verdict, judge, stays
from tests.handover.numbers import Numbers
from tests.handover.peers import World
from tests.handover.service import Holdings, Service
from tests.lib.programs import SECRET
from tests.lib.waiting import eventually

__all__ = ["TOPICS", "Row", "Scenario", "Scene", "play"]

TOPICS = (*(f"reload-{number:02}" for number in range(23)), "long-1", "long-2")
"""The topics that numbers are published on: 2,000 messages a second in all."""

PADDING = {"long-1": 10_000, "long-2": 10_000}
"""Bytes that the messages of some topics are longer: 1.6 MB a second, which fills the kernel's buffers soon."""

CALM = 0.3
"""Seconds for which all is well before it happens, and after it has happened."""

OFTEN = 20
"""Times that something happens from which on it must leave nothing behind."""

WINDOW = 8
"""Times whose median is compared: of the first and of the last. An even number, because there may be one worker and
two in turn."""

GROWTH = {"processes": 0, "descriptors": 6, "threads": 0, "memory": 16 * 2**20, "supervisor": 2**20}
"""What the daemon may hold more at last than at first. Three visitors come and go, each with one descriptor, or two
while they move. The workers are new each time, and what waits for the laggards is some megabytes: the memory that
could leak is that of the supervisor, which executes itself and keeps its state."""

SETTINGS = {
    "WSD_AUTH": "jwt",
    "WSD_JWT_KEY": SECRET,
    "WSD_PORT": "0",
    "WSD_ADMIN_PORT": "0",
    "WSD_REDIS_HEARTBEAT": "1",
    "WSD_PING_INTERVAL": "1",
    # The clients share one process, which may be slow. And the kernel gives a client up whose window was too small for
    # a whole buffer so long, although it reads: to TCP_USER_TIMEOUT (Linux 6.18) it has acknowledged nothing.
    "WSD_PING_TIMEOUT": "3600",
    "WSD_MAX_BACKLOG": "256MiB",  # laggards lag on purpose, and more on a machine that is busy
    "WSD_MAX_BACKLOG_AGE": "600",
    "WSD_DRAIN_SECONDS": "3",
}
"""The daemon's settings, but for what the deployment and the scenario say."""


@dataclass(frozen=True)
class Scenario:
    """What happens.

    Args:
        name: for the table.
        act: makes it happen, once.
        times: how often.
        workers: of the daemon.
        deployment: of Redis.
        settings: of the daemon.
        size: of the crowd.
        prepare: before the daemon starts.
        may_end: whether the server may end a connection.
        gaps: whether gaps may be announced; None: every client gets one for each of its topics, and must.
        tolerated: codes of errors that requests may be answered with.
        complaints: words of lines in the log at the level error that must be.
        check: looks at the end for what else must be.
        status: the exit status with which the daemon ends; None if it must not end.
        impossible: says why this machine can't play it, or ``""``.
        often: whether it can happen often, and must leave nothing behind then.
    """

    name: str
    act: Callable[[Scene], Awaitable[object]]
    times: int = 1
    workers: int = 1
    deployment: Callable[[], Deployment] = Deployment
    settings: Mapping[str, str] = field(default_factory=dict)
    size: Size = field(default_factory=Size)
    prepare: Callable[[Scene], Awaitable[object]] | None = None
    may_end: May = stays
    gaps: bool | None = False
    tolerated: Collection[str] = ()
    complaints: Sequence[str] = ()
    check: Callable[[Scene], Awaitable[object]] | None = None
    status: int | None = None
    impossible: Callable[[], str] = lambda: ""
    often: bool = False


@dataclass
class Row:
    """What was found."""

    name: str
    kind: str
    workers: int
    seed: int
    times: int = 0  # that it happened
    slowest: float = 0.0  # seconds that a reload took, at most
    seconds: float = 0.0  # that all of it took
    verdict: Verdict = field(default_factory=Verdict)
    remarks: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    skipped: str = ""
    log: list[str] = field(default_factory=list)  # the daemon's


async def play(scenario: Scenario, seed: int) -> Row:
    """Play a scenario."""
    row = Row(scenario.name, "", scenario.workers, seed)
    if reason := scenario.impossible():
        row.skipped = reason
        return row
    start = time.monotonic()
    try:
        async with AsyncExitStack() as stack:
            await Scene(scenario, row, stack).play()
    except Exception as exc:
        row.problems.append(f"{type(exc).__name__}: {exc}")
    row.seconds = time.monotonic() - start
    return row


class Scene:
    """A scenario that is being played."""

    def __init__(self, scenario: Scenario, row: Row, stack: AsyncExitStack) -> None:
        self.scenario = scenario
        self.row = row
        self.random = random.Random(row.seed)
        self.service: Service
        self.crowd: Crowd
        self.numbers: Numbers
        self.deployment: Deployment
        self.config: Path  # the TOML file of the settings, which are read anew at a reload
        self.settings: dict[str, str] = {}  # what stands in it
        self.environment: dict[str, str] = {}  # of the daemon, besides
        self.injection: Injection  # what is done to its processes from within, if anything is
        self.program: Sequence[str] = Service.program
        self._stack = stack
        self.holdings: list[Holdings] = []  # what the daemon held each time after it had happened

    async def play(self) -> None:
        """Play it, and fill the row."""
        scenario, row, stack = self.scenario, self.row, self._stack
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wsd-handover-")))
        self.deployment = await stack.enter_async_context(scenario.deployment())
        row.kind = self.deployment.kind
        if scenario.prepare is not None:
            await scenario.prepare(self)
        await self._start_service()
        self.numbers = stack.enter_context(Numbers(self.deployment.orders(TOPICS, PADDING)))
        world = World(self.service.port, TOPICS, self._token, row.seed, scenario.tolerated)
        self.crowd = await stack.enter_async_context(Crowd(world, scenario.size))
        await self._until_flowing()
        for _ in range(scenario.times):
            await self._happen()
            if scenario.often:
                self.holdings.append(await asyncio.to_thread(self.service.holdings))
        await self._rest()
        await self._check()

    async def _start_service(self) -> None:
        settings = SETTINGS | {"WSD_REDIS_URL": self.deployment.url} | dict(self.scenario.settings)
        self.settings |= {name.removeprefix("WSD_").lower(): value for name, value in settings.items()}
        if self.scenario.workers != 1:
            self.settings["workers"] = str(self.scenario.workers)
        self.config = self.folder / "wsd.toml"
        self.write_settings()
        program = type("Program", (Service,), {"program": tuple(self.program)})
        self.service = await asyncio.to_thread(lambda: program("--config", str(self.config), **self.environment))
        self._stack.push_async_callback(self._end_service)
        await asyncio.to_thread(self.service.wait_until_ready)

    def write_settings(self, **changes: str) -> None:
        """Write the settings into the file, with some changes."""
        self.settings |= changes
        self.config.write_text("".join(f'{name} = "{value}"\n' for name, value in self.settings.items()))

    async def reload(self, result: str = "done") -> None:
        """Reload, and wait until that has ended in a certain way."""
        self.row.slowest = max(self.row.slowest, await asyncio.to_thread(self.service.reload, result))

    async def _end_service(self) -> None:
        await asyncio.to_thread(self.service.kill)
        self.row.log = self.service.log

    @staticmethod
    def _token(topics: Sequence[str]) -> str:
        now = int(time.time())
        return jwt.encode({"sub": "a client", "iat": now, "exp": now + 3600, "topics": list(topics)}, SECRET)

    async def _until_flowing(self) -> None:
        await eventually(lambda: min(self.numbers.book.last().values()) > 20, "numbers on all topics")
        await asyncio.sleep(CALM)

    async def _happen(self) -> None:
        """Let it happen once, with half of what clients send sent before."""
        await self.crowd.poise()
        await self.scenario.act(self)
        self.row.times += 1
        await self.crowd.go_on()
        await asyncio.sleep(CALM)

    async def _rest(self) -> None:
        await self.crowd.settle()
        closed = self.numbers.book.last()
        await self.crowd.catch_up(closed)
        await asyncio.to_thread(self.numbers.stop)
        self.row.verdict = judge(self.crowd.diaries, self.numbers.book, closed, self.scenario.may_end)

    # What must be.

    async def _check(self) -> None:
        row, scenario = self.row, self.scenario
        row.problems += row.verdict.problems
        if scenario.gaps is False and row.verdict.gaps:
            row.problems.append(f"gaps were announced: {dict(row.verdict.gaps.most_common(3))}")
        if scenario.gaps is None:
            row.problems += self._without_gap()
        if scenario.check is not None:
            await scenario.check(self)
        if scenario.often and scenario.times >= OFTEN:
            self.compare_holdings()
        said = await asyncio.to_thread(self.service.complaints)
        row.problems += [line for line in said if not any(words in line for words in scenario.complaints)][:3]
        row.problems += [
            f"the log does not say {words!r}" for words in scenario.complaints if words not in self.service.lines.text
        ]
        if self.service.status != scenario.status:
            row.problems.append(f"the daemon has ended with status {self.service.status}")
        elif (
            scenario.status is None and (await asyncio.to_thread(self.service.metric, "wsd_internal_errors_total")) > 0
        ):
            row.problems.append("wsd_internal_errors_total is not 0")

    def compare_holdings(self) -> None:
        """Compare what the daemon held at first and in the end: medians, because clients come and go."""
        first, last = (
            Holdings(*(int(median(numbers)) for numbers in zip(*some, strict=True)))
            for some in (self.holdings[:WINDOW], self.holdings[-WINDOW:])
        )
        self.row.remarks.append(
            ", ".join(
                f"{what} {getattr(first, what)}, then {getattr(last, what)}"
                for what in ("processes", "descriptors", "threads")
            )
            + f", memory {(last.memory - first.memory) / 2**20:+.1f} MiB"
            + f", of the supervisor {(last.supervisor - first.supervisor) / 2**20:+.1f} MiB"
        )
        self.row.problems += [
            f"{what} was {getattr(first, what)}, and is {getattr(last, what)}"
            for what, bound in GROWTH.items()
            if getattr(last, what) > getattr(first, what) + bound
        ]

    def _without_gap(self) -> list[str]:
        """Topics that should have had a gap: those that a listener has been subscribed to throughout."""
        return [
            f"{diary.name}: no gap of {topic}"
            for diary in self.crowd.diaries
            if diary.name.startswith("listener")
            for topic, stretches in diary.stretches()
            if not any(run.first == 0 for stretch in stretches for run in stretch.runs)
        ]
