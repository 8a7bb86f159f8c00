"""The workers, each in its place: who is started, replaced, and sent away.

A place has a number, listening sockets, and one worker at a time; while a reload replaces that worker, the one that
leaves is still a child, but has no place any more. A worker that ends by itself is replaced at once, and with a growing
wait if the next ones end soon, too. The sockets of the place stay open meanwhile, and so does the queue of clients that
wait to be accepted.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

from wsd import headcount, logs
from wsd.backoff import Backoff
from wsd.codes import Restart
from wsd.metrics import Metrics
from wsd.pipe import Message
from wsd.report import Report, Retired
from wsd.supervisor.autopsy import put_down
from wsd.supervisor.child import Child, Gone, Stage, how_it_ended
from wsd.supervisor.chosen import Chosen
from wsd.supervisor.launch import Launched, Launcher
from wsd.supervisor.listening import Listening

__all__ = ["START_PATIENCE", "Seat", "Team"]

TICK = 1.0
"""Seconds between two looks whether all workers live. They give a sign of life as often."""

FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
"""Seconds until a worker is replaced whose predecessor has ended soon, too."""

STEADY = 60.0
"""Seconds of life after which a worker that ends has not ended soon."""

DYING = 0.01
"""Seconds between two looks whether a worker that is dying has died."""

START_PATIENCE = 60.0
"""Seconds for a new worker to be imported and to begin to give signs of life, on a machine that is busy."""

logger = logging.getLogger(__name__)


class Seat:
    """A place in the team.

    Args:
        number: from 0.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.child: Child | None = None  # who has the place; None while it is empty
        self.comes: Child | None = None  # who will have it as soon as it is ready, at a reload
        self.served = asyncio.get_running_loop().time()  # when it last had a worker that serves; first, the start
        self.soon = 0  # workers in a row that have ended soon
        self.waits = Backoff(FIRST_WAIT, LONGEST_WAIT)  # until the next one is started
        self.timer: asyncio.TimerHandle | None = None  # starts it; None if nobody is due

    def expect_nobody(self) -> None:
        """Start nobody later. Without that, somebody who comes meanwhile would lose the place, and live on."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Team:
    """The workers.

    Args:
        launcher: starts processes.
        metrics: counts restarts.
        count: the descriptor of the memory in which workers count their clients; see wsd.headcount.
    """

    def __init__(self, launcher: Launcher, metrics: Metrics, count: int) -> None:
        self.launcher = launcher
        self.metrics = metrics
        self.count = count
        self.chosen: Chosen | None = None  # the settings of workers that are started now
        self.listening: Listening | None = None
        self.seats: list[Seat] = []
        self.children: dict[Child, None] = {}  # every process, in the order of their starts; those that leave included
        self.retired = Retired()  # what those that are gone had counted
        self.lost_lines = 0  # of the log, by this process before it executed itself
        self.trouble = ""  # what went wrong with the last reload, for people
        self.complete = asyncio.Event()  # set when every worker has been ready once
        self.failed: asyncio.Future[int] = asyncio.get_running_loop().create_future()  # of the start: an exit status
        self.all_gone = asyncio.Event()  # set when there is no process left
        self.closing = False  # whether nobody is replaced any more
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()

    # Who comes.

    def adopt(self, launched: Launched) -> Child:
        """Take a process that was launched. It has no place yet."""
        child = Child(launched, self._heard, self._gone)
        self.children[child] = None
        self.all_gone.clear()
        return child

    def start(self, child: Child, number: int) -> None:
        """Tell a process to start as the worker of a place."""
        assert self.chosen is not None and self.listening is not None
        workers = self.chosen.workers
        taken = {other.place for other in self.children}
        child.number, child.stage = number, Stage.STARTED
        child.place = next(place for place in range(headcount.PLACES) if place not in taken)
        sockets = self.listening.of_worker(number, workers)
        child.tell(
            "start",
            [self.count, *(sock.fileno() for sock in sockets)],
            settings=self.chosen.given,
            number=number,
            workers=workers,
            place=child.place,
        )

    def begin(self, first: Child) -> None:
        """Start all workers.

        Args:
            first: a process that becomes the first one; another does if it has ended meanwhile.
        """
        seat = self.seats[0]
        seat.child = first
        if first.stage is Stage.GONE:
            self._lost(seat, first)
        else:
            self.start(first, seat.number)
        for seat in self.seats[1:]:
            self.fill(seat)

    def fill(self, seat: Seat) -> None:
        """Start a worker in an empty place, now."""
        seat.expect_nobody()
        try:
            child = self.adopt(self.launcher.launch())
        except OSError as exc:
            wait = next(seat.waits)
            logger.error(
                "worker %d can't be started (%s); it is tried again in %.1f s",
                seat.number,
                exc.strerror,
                wait,
                extra=logs.fields(worker=seat.number),
            )
            seat.timer = self._loop.call_later(wait, self.fill, seat)
        else:
            seat.child = child
            self.start(child, seat.number)

    # What they say.

    def _heard(self, child: Child, message: Message, descriptors: list[int]) -> None:
        match message.get("say"):
            case "report":
                child.report = Report.load(message["report"]).after(child.report)
            case "ready" if child.stage is Stage.STARTED:
                child.stage, child.ready_at = Stage.READY, child.heard
                if self.complete.is_set():
                    logger.info(
                        "worker %d (pid %d) is ready",
                        child.number,
                        child.pid,
                        extra=logs.fields(worker=child.number, pid=child.pid),
                    )
                elif all(seat.child is not None and seat.child.ready_at for seat in self.seats):
                    self.complete.set()

    # Who goes.

    def _gone(self, child: Child) -> None:
        self.children.pop(child, None)
        if child.place >= 0:
            headcount.clear(self.count, child.place)
        if child.number >= 0:
            self.retired = self.retired.adding(child.number, child.report)
        if not self.children:
            self.all_gone.set()
        seat = next((seat for seat in self.seats if seat.child is child), None)
        if seat is not None:
            self._lost(seat, child)

    def _lost(self, seat: Seat, child: Child) -> None:
        """The worker of a place has gone."""
        seat.child = None
        if child.ready_at:
            seat.served = self._loop.time()
        if self.closing or seat.comes is not None:
            return
        assert child.status is not None
        if not self.complete.is_set() and not child.ready_at and child.status > 0:
            if not self.failed.done():
                self.failed.set_result(child.status)  # it has said why
            return
        self._replace(seat, child, child.status)

    def _replace(self, seat: Seat, child: Child, status: int) -> None:
        """Start another worker in a place whose worker has ended by itself."""
        reason = _reason(child, status)
        self.metrics.worker_restarts[reason] += 1
        if child.ready_at and self._loop.time() - child.ready_at >= STEADY:
            seat.soon = 0
            seat.waits.reset()
        wait = next(seat.waits) if seat.soon else 0.0
        seat.soon += 1
        logger.log(
            logging.WARNING if status else logging.INFO,
            "worker %d (pid %d) %s; another is started %s",
            seat.number,
            child.pid,
            how_it_ended(status),
            f"in {wait:.1f} s" if wait else "at once",
            extra=logs.fields(worker=seat.number, pid=child.pid, reason=str(reason), status=status, wait=wait),
        )
        seat.timer = self._loop.call_later(wait, self.fill, seat)

    def dismiss(self, do: str, **values: Any) -> None:
        """Send all workers away, and replace nobody any more."""
        self.closing = True
        for seat in self.seats:
            seat.expect_nobody()
        for child in self.children:
            child.stage = max(child.stage, Stage.LEAVING)
            child.tell(do, **values)
        if not self.children:
            self.all_gone.set()

    def kill(self) -> None:
        """End all processes at once."""
        for child in self.children:
            child.kill()

    def reap(self) -> None:
        """See who has ended."""
        for child in list(self.children):
            child.reap()

    async def see_off(self) -> None:
        """Wait until nobody is dying any more. Of one that is, there is no pipe that another program could go on with.

        It looks itself, because signals may be held back.
        """
        while dying := [child for child in self.children if child.dying]:
            for child in dying:
                child.kill()  # a process without a pipe is of no use, and may live on
            await asyncio.sleep(DYING)
            self.reap()

    # Who lives.

    async def watch(self) -> None:
        """Look for workers that stand still, for ever."""
        while True:
            due = self._loop.time() + TICK
            await asyncio.sleep(TICK)
            late = self._loop.time() - due
            if late > TICK:
                # It is the supervisor who has stood still: what the workers have said meanwhile may not be read yet.
                for child in self.children:
                    child.heard = min(child.heard + late, self._loop.time())
            logs.tick()
            for child in self.children:
                silence = self._loop.time() - child.heard
                if silence > self.patience(child) and not child.stuck:
                    child.stuck = True
                    self._run(put_down(child, silence))

    def patience(self, child: Child) -> float:
        """Seconds that a worker may be silent."""
        least = self.chosen.worker_timeout if self.chosen is not None else 0.0
        has_begun = child.report is not None or child.stage >= Stage.READY
        return least if has_begun else max(least, START_PATIENCE)

    def lives(self) -> bool:
        """Whether the event loop of every worker turns."""
        now = self._loop.time()
        return all(now - child.heard <= self.patience(child) for child in self.children)

    def _run(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # For the admin port.

    async def ask_all(self, whole: bool) -> None:
        """Ask every worker that serves for a report, and wait until all have come."""
        asked = [child for child in self.children if child.report is not None]
        await asyncio.gather(*(child.ask("report", whole=whole) for child in asked), return_exceptions=True)

    async def page(self, child: Child, **values: Any) -> str:
        """Let a worker make a page.

        Raises:
            OSError: if it ends meanwhile.
        """
        try:
            return str((await child.ask("page", **values))["text"])
        except Gone as exc:
            raise OSError(str(exc)) from None

    def close(self) -> None:
        """Close the listening sockets, and give the memory of the counts back."""
        if self.listening is not None:
            self.listening.close()
        os.close(self.count)


def _reason(child: Child, status: int) -> Restart:
    """Why a worker is not there any more."""
    if not child.ready_at:
        return Restart.UNSTARTED
    if child.stuck:
        return Restart.STUCK
    if status < 0:
        return Restart.KILLED
    return Restart.EXITED if status else Restart.STOPPED
