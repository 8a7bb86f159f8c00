"""``kill -9`` of the old worker, the new one and the supervisor, at every step of a reload and of a hand-over.

A process stops at the step, so that it is there when the victim dies, whichever of them that is. What a kill may cost
is read from the kernel at that moment, while all workers stand still: the clients whose sockets the victim alone holds.
Of those that old and new hold, the new one has the clients that it has said to have, although the old one may not have
heard that yet. All other clients must see nothing.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from tests.handover import holders
from tests.handover.crowd import Size
from tests.handover.diary import Diary, End
from tests.handover.injection import Injection, Trap
from tests.handover.numbers import PLACE
from tests.handover.scene import Scenario, Scene
from tests.handover.service import Service
from tests.lib.programs import is_alive
from tests.lib.waiting import eventually, until
from wsd.handover.marks import CONFIRM_PATIENCE
from wsd.handover.steps import Step as Move
from wsd.supervisor.steps import Step as Reload

__all__ = ["SCENARIOS", "SWIFT", "Victim", "supervisor_dies", "worker_dies"]

FEW = Size(
    listeners=3,
    churners=2,
    reauthorizers=1,
    pingers=2,
    halvers=1,
    fragmenters=2,
    laggards=1,
    sleepers=0,
    visitors=2,
    aiohttp=1,
    websocket_client=1,
    tails=0,  # it connects anew, and says so
)
"""The crowd. Another comes in the place of each client that a kill has cost the connection."""

SWIFT = replace(FEW, laggards=0)
"""All of them read in time that they are sent away. None makes a reload wait until it has read."""

FUNCTIONS = {Move: "wsd.handover.steps:reached", Reload: "wsd.supervisor.steps:reached"}
"""Who tells of which steps."""

BALANCE = {
    "wsd.worker.supervised:BEAT": 0.25,
    "wsd.supervisor.balance:LOOK": 0.5,
    "wsd.supervisor.balance:WORTHWHILE": 4,
}
"""Clients are even soon after each kill, so that both workers have some at the next one."""


class Victim(Enum):
    """Who is killed."""

    OLD = "the old worker"
    NEW = "the new worker"


UNREADY = (Reload.CANDIDATE_LAUNCHED, Reload.SETTINGS_READ, Reload.WORKER_STARTED)
"""Steps at which a new worker that dies makes the reload fail."""


async def _prepare(scene: Scene) -> None:
    """Let traps reach the processes."""
    scene.injection = Injection(scene.folder, list(FUNCTIONS.values()))
    _clear(scene)
    scene.environment |= scene.injection.environment


def _clear(scene: Scene) -> None:
    """Set no traps."""
    scene.injection.clear()
    for place, value in BALANCE.items():
        scene.injection.set(place, value)


def _trap(scene: Scene, step: Move | Reload, act: str = "stop") -> Trap:
    return scene.injection.trap(FUNCTIONS[type(step)], step.name, act)


@dataclass
class _Loss:
    """Whom a kill costs the connection."""

    diaries: set[Diary] = field(default_factory=set)  # of the clients that the victim alone has
    sent: int = 0  # how many of them are on their way to another worker, in a pipe: they are not lost

    def has_come(self) -> bool:
        """Whether all have noticed who must."""
        gone = sum(diary.end is not None or diary.left for diary in self.diaries)
        return gone >= len(self.diaries) - self.sent

    def closed(self) -> set[Diary]:
        """Those that were closed, if those that were sent were not."""
        closed = {diary for diary in self.diaries if diary.end is not None}
        assert len(closed) <= len(self.diaries) - self.sent, (
            f"{len(closed)} of {len(self.diaries)} were closed, although {self.sent} were on their way to another one"
        )
        return closed


class _WorkerDies:
    """A worker dies at one step after the other, in the life of one service, which recovers each time.

    Args:
        victim: who dies.
        steps: where.
    """

    def __init__(self, victim: Victim, steps: Sequence[Move | Reload]) -> None:
        self._victim = victim
        self._steps = steps
        self._lost: set[Diary] = set()  # that kills have closed

    async def prepare(self, scene: Scene) -> None:
        """Let traps reach the processes."""
        await _prepare(scene)
        self._lost.clear()

    async def act(self, scene: Scene) -> None:
        """Let it die at the next step; behind the last one, reload once more."""
        if not scene.row.times:
            self._first = min(scene.service.workers)  # that of place 0
            self._before = await asyncio.to_thread(_holdings, scene.service)
        if scene.row.times == len(self._steps):
            await asyncio.to_thread(scene.service.reload)
            await asyncio.to_thread(self._recovered, scene)
            return
        step = self._steps[scene.row.times]
        try:
            await self._die_at(scene, step)
        except AssertionError as exc:
            raise AssertionError(f"{step.name}: {exc}") from None

    async def _die_at(self, scene: Scene, step: Move | Reload) -> None:
        service = scene.service
        _clear(scene)
        await asyncio.to_thread(until, lambda: _is_even(service), "clients on both workers")
        giver, taker = _trap(scene, Move.GIVER_BEGINS, "tell"), _trap(scene, Move.TAKER_GREETED, "tell")
        trap = _trap(scene, step)
        before = set(service.workers)
        done, failed = await asyncio.to_thread(lambda: (service.reloads(), service.reloads("failed")))
        service.signal(signal.SIGHUP)
        self._stopped = await asyncio.to_thread(trap.wait_for_stop)
        old = giver.pid or _seated(service, self._first)
        new = taker.pid or min(set(service.workers) - before, default=0)
        victim = old if self._victim is Victim.OLD else new
        assert victim, f"there is no {self._victim.value}"
        if (self._victim, step) == (Victim.NEW, Reload.WORKER_STARTED):  # to die before that is another accident
            await eventually(lambda: _is_ready(service), "a new worker that is ready")
        await eventually(lambda: self._kill(scene, step, victim), "a moment when it can be said what a kill costs")
        trap.release()
        loss = self._loss
        await eventually(loss.has_come, f"the end of {len(loss.diaries)} connections that the victim alone had")
        expected = "failed" if self._victim is Victim.NEW and step in UNREADY else "done"
        await asyncio.to_thread(
            until, lambda: service.reloads() + service.reloads("failed") > done + failed, "the end of the reload"
        )
        assert (service.reloads(), service.reloads("failed")) == (
            (done + 1, failed) if expected == "done" else (done, failed + 1)
        ), f"the reload should be {expected}"
        await asyncio.to_thread(service.wait_until_ready)
        await asyncio.to_thread(until, lambda: len(service.workers) == scene.scenario.workers, "as many workers")
        self._lost |= loss.closed()

    def _kill(self, scene: Scene, step: Move | Reload, victim: int) -> bool:
        """Kill it and note whom that costs the connection, unless that can't be said at this moment.

        Nothing is awaited meanwhile, so that the crowd stands still, too.
        """
        workers = holders.freeze(scene.service.workers)
        try:
            # If it is not there, it had nothing more to do, and has ended.
            loss = self._cost(scene, step, victim, workers) if victim in workers else _Loss()
            if loss is None:
                return False
            self._loss = loss
            if victim in workers:
                holders.kill(victim)
            return True
        finally:
            holders.thaw(set(workers) - {self._stopped})

    def _cost(self, scene: Scene, step: Move | Reload, victim: int, workers: Sequence[int]) -> _Loss | None:
        """Whom a kill would cost the connection, while all workers stand still; None if that can't be said."""
        port = scene.service.port
        held = {pid: holders.clients(pid, port) for pid in workers}
        mine = held.pop(victim)
        theirs = set[int]().union(*held.values())
        waiting = [message for pid in held for message in holders.unheard(pid)]
        if self._victim is Victim.NEW:
            # Of those that both hold, it has the ones that it has said to have. The old one may be about to hear that,
            # or to close its descriptor; the new one may be about to say it.
            said = sum(message.get("say") == "have" for message in waiting) + (step is Move.GIVER_LETS_GO)
            if len(mine & theirs) - (step is Move.TAKER_HAS) > said:
                return None
            if step is not Move.TAKER_HAS:
                theirs -= mine
        return _Loss(
            {member.diary for member in scene.crowd.members if member.port in mine - theirs},
            sum(message.get("do") == "client" for message in waiting),
        )

    def _recovered(self, scene: Scene) -> None:
        """All is as it was before the first."""
        until(lambda: _holdings(scene.service) == self._before, f"descriptors as they were: {self._before}")

    def may_end(self, diary: Diary, end: End) -> bool:
        """Whether a connection may be closed."""
        return end.code in (None, 1006) and diary in self._lost

    async def check(self, scene: Scene) -> None:
        """Tell how many were closed."""
        scene.row.remarks.append(f"{len(self._lost)} connections were the victims'")


def _is_even(service: Service) -> bool:
    """Whether the balance has nothing to do."""
    counts = [len(holders.clients(pid, service.port)) for pid in service.workers]
    return max(counts) - min(counts) <= BALANCE["wsd.supervisor.balance:WORTHWHILE"]


def _is_ready(service: Service) -> bool:
    """Whether a worker has said that it is ready, and the supervisor has not heard it."""
    return any(message.get("say") == "ready" for message in holders.unheard(service.pid))


def _seated(service: Service, first: int) -> int:
    """The worker of place 0: the last one that the log names, or the first one."""
    said = [line for line in service.log if "worker 0 (pid " in line and line.rstrip().endswith("is ready")]
    return int(said[-1].partition("(pid ")[2].partition(")")[0]) if said else first


def _holdings(service: Service) -> list[int]:
    """Descriptors of the supervisor and of each worker, those of clients excepted."""
    return [
        holders.others(service.pid, service.port),
        *sorted(holders.others(pid, service.port) for pid in service.workers),
    ]


class _SupervisorDies:
    """The supervisor dies when a process has reached a step.

    Args:
        step: the step.
    """

    def __init__(self, step: Move | Reload) -> None:
        self._step = step

    async def act(self, scene: Scene) -> None:
        """Let it die, and wait until all processes have ended."""
        service = scene.service
        trap = _trap(scene, self._step)
        service.signal(signal.SIGHUP)
        await asyncio.to_thread(trap.wait_for_stop)
        workers = service.workers
        self._when = time.monotonic()
        service.signal(signal.SIGKILL)
        trap.release()
        self._swift = time.time() - trap.told.stat().st_mtime < CONFIRM_PATIENCE / 2
        await eventually(lambda: all(member.gone for member in scene.crowd.members), "the end of all connections")
        await eventually(lambda: not any(map(is_alive, workers)), "the end of all workers")

    def may_end(self, diary: Diary, end: End) -> bool:
        """Whether a connection may be closed."""
        return end.when > self._when and (end.code == 1012 or end.reason.startswith("not let in"))

    async def check(self, scene: Scene) -> None:
        """The workers have gone on to deliver until they had sent all away."""
        newest: dict[str, int] = {}
        for diary in scene.crowd.diaries:
            for topic, stretches in diary.stretches():
                last = max((run.last for stretch in stretches for run in stretch.runs), default=0)
                newest[topic] = max(newest.get(topic, 0), last)
        book = scene.numbers.book.places[0]
        assert any(last % PLACE >= book[topic].first_after(self._when) for topic, last in newest.items()), "no delivery"
        if self._swift and scene.row.verdict.gaps:  # else the other side did not wait for the one that was stopped
            scene.row.problems.append(f"gaps were announced: {dict(scene.row.verdict.gaps.most_common(3))}")


def worker_dies(
    victim: Victim, steps: Sequence[Move | Reload], name: str, *, workers: int = 2, size: Size = FEW
) -> Scenario:
    """A worker dies at one step after the other.

    Args:
        victim: which.
        steps: where.
        name: of the scenario.
        workers: how many the service has.
        size: of the crowd.
    """
    killing = _WorkerDies(victim, steps)
    return Scenario(
        name,
        killing.act,
        len(steps) + 1,
        workers=workers,
        size=size,
        prepare=killing.prepare,
        may_end=killing.may_end,
        check=killing.check,
        complaints=("reload failed",) if victim is Victim.NEW and not set(UNREADY).isdisjoint(steps) else (),
        impossible=holders.cannot_look,
    )


def supervisor_dies(step: Move | Reload, workers: int = 2) -> Scenario:
    """The supervisor dies at a step."""
    killing = _SupervisorDies(step)
    return Scenario(
        f"kill -9 of the supervisor at {step.name}",
        killing.act,
        workers=workers,
        settings={"WSD_DRAIN_SECONDS": "1"},
        size=SWIFT,
        prepare=_prepare,
        may_end=killing.may_end,
        gaps=True,
        check=killing.check,
        status=-signal.SIGKILL,
    )


SCENARIOS: Sequence[Scenario] = [
    *(
        worker_dies(
            victim, list(Move), f"kill -9 of {victim.value} at each step of the hand-over{those}", workers=workers
        )
        for workers, those in ((2, ""), (1, ", one worker"))
        for victim in Victim
    ),
    *(
        worker_dies(victim, steps, f"kill -9 of {victim.value} at each step of the reload")
        for victim, steps in ((Victim.OLD, list(Reload)[:9]), (Victim.NEW, list(Reload)[1:]))
    ),
    *(supervisor_dies(step) for step in (*Move, *Reload)),
]
"""An old worker is there until it is gone; a new one, when it was launched."""
