"""One fault: what happens, what must follow, and what was measured.

A fault is played in five acts. All is well for half a second; the fault *strikes*; the daemon *notices*; Redis becomes
*usable* again, because the scene restores it or because it recovers by itself; the daemon *heals*. Numbered messages
are published throughout.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from statistics import median
from typing import Generic, Protocol, TypeVar

from tests.faults.ledger import GAP, Balance, Idler, Listener, Publisher, balance
from tests.faults.watch import Holdings, ObservedDaemon, Watch, near
from tests.lib.routes import Route
from tests.lib.waiting import eventually

__all__ = ["CLIENTS", "HEARTBEAT", "TOPICS", "Fault", "Row", "Scene", "Stage", "measure", "with_many_topics"]

HEARTBEAT = 1.0
"""Seconds: the daemon's redis_heartbeat."""

TOPICS = tuple(f"fault-{number:02}" for number in range(20))
"""The topics that numbers are published on."""

MANY_TOPICS = tuple(f"many-{number}" for number in range(50_000 - len(TOPICS)))
"""More topics, without numbers: with the others 50,000."""

CLIENTS = 3
"""Clients that listen to all topics."""

CALM = 0.5
"""Seconds for which all is well before the fault, and after it has healed."""

NOTICE_BOUND = 2 * HEARTBEAT + 3.0
"""Seconds within which a fault must be noticed. The design promises two heartbeats, the rest is for a machine that does
all this at the same time. This bound and the next do not count the time in which a busier one holds up those who look:
`Watch.until`."""

HEAL_BOUND = 2 * HEARTBEAT + 8.0
"""Seconds within which the daemon must have healed once Redis is usable: up to two of back-off, one heartbeat for an
attempt to connect that hangs, and the rest for a busy machine."""

CPU_BOUND = 0.25
"""Share of a core that the daemon may take while Redis is away. It takes some hundredths, of which /readyz is most."""

AWAY = 2.0
"""Seconds from the notice until Redis is restored, for the CPU to be measured."""

AWAY_OFTEN = 0.2
"""The same, of a fault that strikes often."""

CPU_SHORTEST = 1.0
"""Seconds that a measurement of the CPU takes at least."""

MEMORY_BOUND = 8 * 2**20
"""Bytes by which the daemon may grow over 100 repetitions. After some 7,500 requests for /readyz it has grown by 7 MiB,
the garbage that the collector leaves until then, and grows no more."""

OBJECTS_BOUND = 100
"""Objects by which it may grow, and two for each repetition: a request for /readyz that is under way has some fifty."""

TRUTH_BEFORE, TRUTH_AFTER = 0.5, 2 * HEARTBEAT + 2.0
"""Seconds: a message that was lost at a time when /readyz said 200 must be followed by another answer within these, or
closely preceded by one."""


PLAYS = 3
"""How often a fault is played at most."""

HELD_UP = HEARTBEAT / 2
"""Seconds without a look from which on a row with problems tells of the machine. A Redis that gets no processor for a
heartbeat has ended, as far as the daemon can see."""


class Stage(Protocol):
    """What a fault happens to: a deployment of Redis, and the daemon in front of it."""

    kind: str  # of deployment, for the table
    daemon: ObservedDaemon
    program: Sequence[str]  # that runs the daemon
    environment: dict[str, str]  # the daemon's settings, with WSD_REDIS_URL
    topics: tuple[str, ...]  # with numbers
    more_topics: tuple[str, ...]  # without numbers
    idlers: int  # clients that listen to those

    def route(self) -> Route:
        """Where messages are published."""

    async def begin(self) -> None:
        """Make it whole, and as every fault finds it."""

    async def again(self) -> None:
        """Make it whole for another strike of the same fault."""

    async def end(self) -> None:
        """End what the fault needed."""


S = TypeVar("S", bound=Stage)
Act = Callable[[S], Awaitable[object]]


async def nothing(stage: Stage) -> None:
    """Do nothing."""


async def with_many_topics(stage: Stage) -> None:
    """Let a client listen to so many topics that resubscribing them takes a while."""
    stage.more_topics, stage.idlers = MANY_TOPICS, 1


@dataclass(frozen=True)
class Fault(Generic[S]):
    """What goes wrong.

    Args:
        name: for the table.
        strike: makes it go wrong.
        prepare: before the daemon starts.
        restore: makes Redis usable again.
        recovery: waits, from the strike on, until Redis is usable again by itself.
        harmless: whether the daemon has nothing to notice, since nothing can be lost.
        affected: the topics that may lose messages, which must have a gap; the others must not have one. None: all.
        ready_meanwhile: whether /readyz may say 200 before Redis is restored: what is lost is no fault of the link.
        notice_bound: seconds from the strike until the daemon has noticed.
        heal_bound: seconds from when Redis is usable until the daemon has healed.
        cpu_bound: share of a core that the daemon may take while Redis is away.
        often: whether it can strike often.
        log: words that the daemon's log must have.
        padding: bytes that each message is longer.
        times: how often it strikes. More than once: the daemon must not leak.
        check: looks at the end for what else must be; returns remarks, and problems.
        impossible: says why this machine can't play it, or ``""``.
    """

    name: str
    strike: Act[S]
    prepare: Act[S] = nothing
    restore: Act[S] | None = None
    recovery: Act[S] | None = None
    harmless: bool = False
    affected: Callable[[S], Collection[str]] | None = None
    ready_meanwhile: bool = False
    notice_bound: float = NOTICE_BOUND
    heal_bound: float = HEAL_BOUND
    cpu_bound: float = CPU_BOUND
    often: bool = True
    log: Sequence[str] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    padding: int = 0
    times: int = 1
    check: Callable[[S], Awaitable[tuple[str, list[str]]]] | None = None
    impossible: Callable[[], str] = lambda: ""


@dataclass
class Row:
    """What was measured. Times in seconds; None where there is nothing to measure."""

    name: str
    kind: str
    notice: float | None = None
    heal: float | None = None
    lost: int = 0  # messages, of the client that lost most
    gaps: int = 0  # gap messages, of the client that got most
    cpu: float | None = None  # share of a core
    remarks: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    skipped: str = ""
    log: list[str] = field(default_factory=list)  # the daemon's
    held_up: float = 0.0  # the longest time for which nobody could look at the daemon


async def measure(fault: Fault[S], stage: S) -> Row:
    """Play a fault. Play it again if the row has problems and the machine held up those who look.

    Then the daemon, Redis and the clients were held up, too, and the row tells of that.
    """
    if reason := fault.impossible():
        return Row(fault.name, stage.kind, skipped=reason)
    for number in range(1, PLAYS + 1):
        row = await _measure_once(fault, stage)
        if not row.problems or row.held_up < HELD_UP:
            break
        row.remarks.append(f"held up for {row.held_up:.1f} s, the {number}. time")
    return row


async def _measure_once(fault: Fault[S], stage: S) -> Row:
    row = Row(fault.name, stage.kind)
    try:
        await stage.begin()
        await Scene(fault, stage, row).play()
    except Exception as exc:
        row.problems.append(f"{type(exc).__name__}: {exc}")
    await stage.end()
    return row


class Scene(Generic[S]):
    """A fault that is being played."""

    def __init__(self, fault: Fault[S], stage: S, row: Row) -> None:
        self._fault = fault
        self._stage = stage
        self._row = row
        self._watch: Watch
        self._publisher: Publisher
        self._listeners: list[Listener] = []
        self._hit: set[str] = set()  # topics that were affected by any strike
        self._struck = 0.0  # when
        self._usable = 0.0  # when Redis was usable again

    async def play(self) -> None:
        """Play it, and fill the row."""
        fault, stage = self._fault, self._stage
        await fault.prepare(stage)
        async with AsyncExitStack() as stack:
            await self._start_daemon(stack)
            self._watch = await stack.enter_async_context(Watch(stage.daemon))
            stack.callback(self._note_delays)
            await eventually(lambda: self._watch.ready, "ready")
            for _ in range(CLIENTS):
                listener = await stack.enter_async_context(Listener(stage.daemon.port, stage.topics))
                self._listeners.append(listener)
            idlers = [Idler(stage.daemon.port, stage.more_topics) for _ in range(stage.idlers)]
            for idler in idlers:
                await stack.enter_async_context(idler)
            self._publisher = stack.enter_context(Publisher(stage.route(), stage.topics, fault.padding))
            await self._until_flowing()
            await asyncio.sleep(CALM)
            if fault.times == 1:
                await self._strike(AWAY)
            else:
                await self._strike_often()
            await asyncio.sleep(CALM)
            self._publisher.close_books()
            await asyncio.gather(*(listener.catch_up(self._publisher.books) for listener in self._listeners))
            await asyncio.to_thread(self._publisher.stop)
            if fault.check is not None:
                remark, problems = await fault.check(stage)
                self._row.remarks += [remark] * bool(remark)
                self._row.problems += problems
            await self._audit()
            if any(idler.ended for idler in idlers):
                self._row.problems.append("a client of the other topics was closed")

    def _note_delays(self) -> None:
        self._row.held_up = self._watch.held_up

    async def _until_flowing(self) -> None:
        since = time.monotonic()
        await eventually(lambda: self._watch.ready and all(self._flowing(since)), "numbers on all topics")

    async def _start_daemon(self, stack: AsyncExitStack) -> None:
        environment = {
            "WSD_AUTH": "none",
            "WSD_PORT": "0",
            "WSD_ADMIN_PORT": "0",
            "WSD_REDIS_HEARTBEAT": f"{HEARTBEAT:g}",
            "WSD_MAX_REQUEST_RATE": "0",
            "WSD_MAX_BACKLOG_AGE": "600",  # the clients share one process, which may be slow
            "WSD_DRAIN_SECONDS": "0",
            **self._stage.environment,
            **self._fault.settings,
        }

        program = type("Program", (ObservedDaemon,), {"program": tuple(self._stage.program)})
        self._stage.daemon = await asyncio.to_thread(lambda: program(**environment))
        stack.callback(self._end_daemon)

    def _end_daemon(self) -> None:
        self._stage.daemon.kill()
        self._row.log = self._stage.daemon.log

    # What happens.

    async def _strike(self, away: float) -> None:
        fault, stage, row = self._fault, self._stage, self._row
        self._struck = time.monotonic()
        recovering = asyncio.create_task(self._recover())
        try:
            await fault.strike(stage)
            self._hit |= set(self._affected())
            noticed = await self._notice()
            cpu, since = stage.daemon.cpu_seconds(), time.monotonic()
            if fault.restore is not None or fault.harmless:
                await asyncio.sleep(away)
            await recovering
            seconds = time.monotonic() - since
            if seconds >= CPU_SHORTEST and noticed is not None:
                row.cpu = (stage.daemon.cpu_seconds() - cpu) / seconds
        finally:
            recovering.cancel()
        if fault.restore is not None:
            if noticed and not fault.ready_meanwhile and self._watch.said_ready(noticed + 0.1, time.monotonic()):
                row.problems.append("/readyz said 200 while Redis was away")
            await self._said()
            await fault.restore(stage)
            self._usable = time.monotonic()
        if noticed is not None:
            await self._heal(noticed)

    async def _said(self) -> None:
        """Wait until the daemon has said what it must, because on a busy machine it gets to that after `AWAY` only."""
        with suppress(AssertionError):  # what is missing is found when the row is audited
            await eventually(lambda: not self._unsaid(), "the words in the log")

    def _unsaid(self) -> list[str]:
        log = self._stage.daemon.lines.text
        return [words for words in self._fault.log if words not in log]

    async def _recover(self) -> None:
        """Find out when Redis is usable, if nobody restores it."""
        if self._fault.restore is None:
            self._usable = self._struck
            if self._fault.recovery is not None:
                await self._fault.recovery(self._stage)
                self._usable = time.monotonic()

    async def _notice(self) -> float | None:
        if self._fault.harmless:
            return None
        noticed = await self._watch.until(lambda: self._watch.noticed(self._struck), self._fault.notice_bound)
        if noticed is None:
            self._row.problems.append(f"not noticed within {self._fault.notice_bound:g} s")
        else:
            self._row.notice = noticed - self._struck
        return noticed

    async def _heal(self, noticed: float) -> None:
        healed = await self._watch.until(lambda: self._healed_at(noticed), self._fault.heal_bound)
        if healed is None:
            dead = [topic for topic, when in zip(self._pairs(), self._flowing(noticed), strict=True) if when is None]
            self._row.problems.append(
                f"not healed {self._fault.heal_bound:g} s after Redis was usable; "
                f"/readyz: {self._watch.reason.strip()!r}; nothing comes on {len(dead)} topics: {dead[:3]}"
            )
        else:
            self._row.heal = max(healed - self._usable, 0.0)

    def _healed_at(self, noticed: float) -> float | None:
        """When /readyz was 200 again and numbers came again on all topics; None if not yet."""
        ready = self._watch.ready_again(noticed)
        flowing = self._flowing(noticed)
        if ready is None or None in flowing or not self._announced(self._struck):
            return None
        return max(ready, *(when for when in flowing if when is not None))

    def _pairs(self) -> list[tuple[int, str]]:
        return [(client, topic) for client in range(CLIENTS) for topic in self._stage.topics]

    def _flowing(self, since: float) -> list[float | None]:
        """For each client and topic: when the first number came after some time and the last gap."""
        return [self._listeners[client].flowing(topic, since) for client, topic in self._pairs()]

    def _announced(self, since: float) -> bool:
        """Whether every topic that is affected has had a gap since some time, on every client."""
        return all(
            any(number == GAP and when > since for number, when in reversed(listener.seen[topic]))
            for listener in self._listeners
            for topic in self._affected()
        )

    def _affected(self) -> Collection[str]:
        if self._fault.harmless:
            return ()
        return self._stage.topics if self._fault.affected is None else self._fault.affected(self._stage)

    async def _strike_often(self) -> None:
        """Strike again and again; compare what the daemon holds after a warm-up with what it holds at the end."""
        notices, heals = [], []
        before = None
        for number in range(self._fault.times + self._fault.times // 5):
            if number:
                await self._stage.again()
                await self._until_flowing()
            if number == self._fault.times // 5:
                before = await asyncio.to_thread(self._stage.daemon.holdings)
            await self._strike(AWAY_OFTEN)
            if self._row.problems:
                return
            notices.append(self._row.notice or 0.0)
            heals.append(self._row.heal or 0.0)
        if not self._fault.harmless:
            self._row.notice, self._row.heal = median(notices), median(heals)
        assert before is not None
        self._compare_holdings(before, await asyncio.to_thread(self._stage.daemon.holdings))

    def _compare_holdings(self, before: Holdings, after: Holdings) -> None:
        row = self._row
        for what in ("descriptors", "threads", "tasks"):
            was, now = getattr(before, what), getattr(after, what)
            if now > was + 2:  # a scrape may be under way
                row.problems.append(f"{what} grew from {was} to {now}")
        if after.objects > before.objects + 2 * self._fault.times + OBJECTS_BOUND:
            row.problems.append(f"objects grew from {before.objects} to {after.objects}")
        if after.memory > before.memory + MEMORY_BOUND:
            row.problems.append(f"memory grew by {after.memory - before.memory} bytes")
        row.remarks.append(
            f"descriptors {before.descriptors}, then {after.descriptors}; tasks {before.tasks}, then {after.tasks};"
            f" memory {(after.memory - before.memory) / 2**20:+.1f} MiB"
        )

    # What must be.

    async def _audit(self) -> None:
        row, daemon = self._row, self._stage.daemon
        found = balance(self._publisher.books, self._listeners)
        row.lost = found.most_lost
        row.gaps = max(
            sum(found.gaps[client, topic] for topic in self._stage.topics) for client in range(len(self._listeners))
        )
        row.problems += found.problems[:5]
        self._check_gaps(found)
        self._check_truth(found)
        if row.cpu is not None and row.cpu > self._fault.cpu_bound:
            row.problems.append(f"the daemon took {row.cpu:.0%} of a core while Redis was away")
        _, metrics = await self._watch.get("/metrics")
        if "\nwsd_internal_errors_total 0.0\n" not in metrics:
            row.problems.append("wsd_internal_errors_total is not 0")
        row.problems += [f"the log does not say {words!r}" for words in self._unsaid()]
        row.problems += daemon.complaints()[:3]
        if daemon.status is not None:
            row.problems.append(f"the daemon has ended with status {daemon.status}")

    def _check_gaps(self, found: Balance) -> None:
        """A gap for every topic that was affected, none for the others."""
        without = sorted({topic for (_, topic), gaps in found.gaps.items() if topic in self._hit and not gaps})
        surplus = sorted({topic for (_, topic), gaps in found.gaps.items() if topic not in self._hit and gaps})
        if without:
            self._row.problems.append(f"no gap was announced on {len(without)} topics: {without[:3]}")
        if surplus:
            self._row.problems.append(f"gaps on {len(surplus)} topics that nothing happened to: {surplus[:3]}")

    def _check_truth(self, found: Balance) -> None:
        """What was lost was lost at a time when /readyz did not say 200, or soon would not."""
        if self._fault.ready_meanwhile:
            return
        doubts = self._watch.doubts()
        lies = [
            (topic, when)
            for _, topic, when in found.lost
            if not near(doubts, when[0] - TRUTH_BEFORE, self._watch.without_delay(when[1], TRUTH_AFTER))
        ]
        if lies:
            topic, (_, accepted) = lies[0]
            self._row.problems.append(
                f"{len(lies)} messages were lost while /readyz said 200, on {topic} {accepted - self._struck:.1f} s"
                " after the fault"
            )
