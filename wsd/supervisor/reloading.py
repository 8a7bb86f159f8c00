"""A reload: new settings and new code, worker after worker, without a client that notices.

A candidate, which is a process of the code that is installed now, reads the settings. If they are wrong, nothing
changes. Else the candidate becomes the first new worker: it accepts clients beside the old one, which then accepts
nobody any more, hands its clients over, drains who is left, and ends. The other places follow, one after another. In
the end the supervisor executes itself.

What dies meanwhile harms nobody else. A new worker that ends before it is ready leaves the old one where it was, and
the reload has failed. An old worker that ends was about to.
"""

from __future__ import annotations

import asyncio
import logging
import math
from contextlib import suppress
from dataclasses import replace

from wsd import logs
from wsd.errors import StartupError
from wsd.pipe import Message
from wsd.supervisor import steps
from wsd.supervisor.child import Child, Gone, Stage, how_it_ended
from wsd.supervisor.chosen import Chosen
from wsd.supervisor.moving import Outcome, move
from wsd.supervisor.steps import Step
from wsd.supervisor.team import START_PATIENCE, Seat, Team

__all__ = ["ReloadError", "Reloader"]

NEEDS_RESTART = ("host", "port", "admin_host", "admin_port")
"""Settings of the listening sockets, which stay open as long as the supervisor lives."""

READY_PATIENCE = START_PATIENCE
"""Seconds for a new worker to be ready, on a machine that is busy; it waits 5 of them for Redis."""

MOVE_LEAST = 10.0
"""Seconds at the least that a hand-over goes on without a connection that moves: a service that drains in no time shall
not lose its clients by a reload. It takes as long only if a client does not read what was sent to it."""

MOVES = 3
"""Attempts to hand the clients of a worker over. Each but the last has ended by the death of who took them."""

DEATH_PATIENCE = 0.5
"""Seconds until it is seen that a worker has died, or until another one is in its place."""

END_PATIENCE = 15.0
"""Seconds beyond its drain after which an old worker that does not end is killed."""

logger = logging.getLogger(__name__)


class ReloadError(Exception):
    """A reload has failed: one line for each reason."""

    def __init__(self, *lines: str) -> None:
        super().__init__("; ".join(lines))
        self.lines = lines


class Reloader:
    """Replaces all workers.

    Args:
        team: the workers.
    """

    def __init__(self, team: Team) -> None:
        self._team = team
        self.understood: int | None = None  # the version of the supervisor's state that the new code understands
        self._outcome = Outcome()  # what has become of the clients so far
        self._replaced = 0  # how many workers are new so far

    async def reload(self) -> Outcome:
        """Read the settings anew, and replace the workers; return what became of the clients.

        Raises:
            ReloadError: if it has failed. Every place has a worker all the same, an old or a new one.
        """
        steps.reached(Step.BEGINS)
        candidate = self._launch()
        steps.reached(Step.CANDIDATE_LAUNCHED)
        before = self._team.chosen
        try:
            chosen, message = await self._read(candidate)
            steps.reached(Step.SETTINGS_READ)
            said = self._put_in_force(chosen, message["changed"])
            old = await self._replace_all(candidate)
        except BaseException as exc:
            if not self._replaced:
                self._take_back(before, candidate)
            elif isinstance(exc, ReloadError):
                raise ReloadError(
                    *exc.lines, f"{self._replaced} workers are new all the same; {self._outcome}"
                ) from exc
            raise
        await self._end(old)
        steps.reached(Step.OLD_GONE)
        outcome = self._outcome
        logger.log(
            logging.INFO if outcome.clean else logging.WARNING,
            "reloaded: %s%s; %s",
            said,
            _new_version(old, candidate),
            outcome,
            extra=logs.fields(result="done", changed=",".join(message["changed"]), **outcome.fields()),
        )
        return outcome

    def _take_back(self, before: Chosen | None, candidate: Child) -> None:
        """Leave everything as it was: no worker is new, and none will be."""
        assert before is not None
        self._team.chosen = before
        logs.set_level(before.log_level)
        candidate.tell("stop")

    # The settings.

    def _launch(self) -> Child:
        try:
            return self._team.adopt(self._team.launcher.launch())
        except OSError as exc:
            raise ReloadError(f"no new process can be started: {exc.strerror}") from None

    async def _read(self, candidate: Child) -> tuple[Chosen, Message]:
        """Let the candidate read the settings."""
        before = self._team.chosen
        assert before is not None
        candidate.tell("read", before=before.given)
        try:
            async with asyncio.timeout(START_PATIENCE):
                message = await asyncio.shield(candidate.settings)
        except TimeoutError:
            candidate.kill()
            raise ReloadError(f"the new process has not read the settings within {START_PATIENCE:g} s") from None
        except Gone as exc:
            raise ReloadError(f"the new process {exc} before it had read the settings; it has said why") from None
        if message["say"] == "mistakes":
            raise ReloadError(*message["mistakes"])
        self.understood = message.get("state")
        for line in message["warnings"]:
            logger.warning("%s", line)
        return _kept(Chosen.of_message(message), before), message

    def _put_in_force(self, chosen: Chosen, changed: list[str]) -> str:
        """Make the new settings those of workers that are started from now on; say what has changed."""
        team = self._team
        assert team.listening is not None
        held = [name for name in NEEDS_RESTART if name in changed]
        if held:
            logger.warning("changed, which needs a restart: %s", ", ".join(held))
        try:
            team.listening.provide(chosen.workers)
        except StartupError as exc:
            raise ReloadError(str(exc)) from None
        team.chosen = chosen
        logs.set_level(chosen.log_level)
        taken = [name for name in changed if name not in held]
        said = f"new are {', '.join(taken)}" if taken else "no setting has changed"
        return f"{said}; changed, which needs a restart: {', '.join(held)}" if held else said

    # The workers.

    async def _replace_all(self, candidate: Child) -> list[Child]:
        """Put a new worker into every place; return the old ones, which drain."""
        team = self._team
        assert team.chosen is not None
        old: list[Child] = []
        wanted = team.chosen.workers
        seats = team.seats[:wanted]
        for seat in seats:
            new = candidate if seat.number == 0 else self._launch()
            old += await self._replace(seat, new)
        added = [Seat(number) for number in range(len(team.seats), wanted)]
        team.seats += added
        for seat in added:
            team.fill(seat)
        retired, team.seats = team.seats[wanted:], team.seats[:wanted]
        for seat in retired:
            old += await self._retire(seat)
        for seat in added:
            if seat.child is not None:
                await self._until_ready(seat.child)
        return old

    async def _replace(self, seat: Seat, new: Child) -> list[Child]:
        """Put a new worker into a place; return the one that was there."""
        team = self._team
        seat.comes = new
        team.start(new, seat.number)
        steps.reached(Step.WORKER_STARTED)
        try:
            await self._until_ready(new)
        except ReloadError:
            seat.comes = None
            if seat.child is None:  # the old one has ended meanwhile
                team.fill(seat)
            raise
        seat.comes = None
        steps.reached(Step.WORKER_READY)
        old, seat.child = seat.child, new
        self._replaced += 1
        seat.expect_nobody()
        return [] if old is None else [await self._dismiss(old, seat)]

    async def _until_ready(self, child: Child) -> None:
        try:
            async with asyncio.timeout(READY_PATIENCE):
                await asyncio.shield(child.ready)
        except TimeoutError:
            child.kill()
            raise ReloadError(f"the new worker {child.number} was not ready within {READY_PATIENCE:g} s") from None
        except Gone as exc:
            raise ReloadError(f"the new worker {child.number} {exc} before it was ready; it has said why") from None
        child.reap()  # a supervisor that had stood still hears at once that it was ready and that it is gone
        if child.status is not None:
            raise ReloadError(f"the new worker {child.number} {how_it_ended(child.status)} as soon as it was ready")

    async def _retire(self, seat: Seat) -> list[Child]:
        """Give a place up. Its clients go to the worker that has the fewest."""
        seat.expect_nobody()
        old, seat.child = seat.child, None
        return [] if old is None else [await self._dismiss(old, min(self._team.seats, key=_clients))]

    async def _dismiss(self, old: Child, heir: Seat) -> Child:
        """Let a worker accept nobody any more, hand its clients over to the one in a place, drain, and end."""
        assert self._team.chosen is not None
        seconds = self._team.chosen.drain_seconds
        old.stage = max(old.stage, Stage.LEAVING)
        old.tell("close")
        steps.reached(Step.OLD_CLOSED)
        outcome = await self._move_all(old, heir, max(seconds, MOVE_LEAST))
        self._outcome = self._outcome.beside(outcome)
        old.tell("drain", seconds=seconds, replaced=True)
        steps.reached(Step.OLD_DRAINS)
        return old

    async def _move_all(self, old: Child, heir: Seat, seconds: float) -> Outcome:
        """Hand all clients of a worker over; again, if the one who took them has died."""
        outcome = Outcome(left=old.clients, reasons=("no worker came into its place",))
        for _ in range(MOVES):
            taker = await self._taker(heir)
            if taker is None:
                break
            attempt = await move(old, taker, None, seconds)
            steps.reached(Step.MOVED)
            logger.info(
                "worker %d: from process %d to process %d: %s",
                old.number,
                old.pid,
                taker.pid,
                attempt,
                extra=logs.fields(worker=old.number, **attempt.fields()),
            )
            outcome = outcome.then(attempt)
            if not attempt.left or not await self._has_died(taker):
                break
        return outcome

    async def _has_died(self, taker: Child) -> bool:
        """Whether a worker has died; that may be seen a little later."""
        with suppress(TimeoutError):
            async with asyncio.timeout(DEATH_PATIENCE):
                await asyncio.shield(taker.ended)
        return taker.stage is Stage.GONE

    async def _taker(self, heir: Seat) -> Child | None:
        """The worker in a place, when it is ready; None if there comes none."""
        for _ in range(MOVES):
            # One may be due, in half a minute at the most. Until then the old one serves on.
            while heir.child is None and heir.timer is not None:  # noqa: ASYNC110 - rare
                await asyncio.sleep(DEATH_PATIENCE)
            with suppress(ReloadError):
                if heir.child is not None:
                    await self._until_ready(heir.child)
                    return heir.child
            await asyncio.sleep(DEATH_PATIENCE)
        return None

    async def _end(self, old: list[Child]) -> None:
        """Wait until the old workers have ended."""
        assert self._team.chosen is not None
        patience = self._team.chosen.drain_seconds + END_PATIENCE
        try:
            async with asyncio.timeout(patience):
                await asyncio.gather(*(asyncio.shield(child.ended) for child in old))
        except TimeoutError:
            for child in old:
                if child.stage is not Stage.GONE:
                    logger.warning(
                        "worker %d (pid %d) has not ended within %g s, and is killed", child.number, child.pid, patience
                    )
                    child.kill()


def _new_version(old: list[Child], new: Child) -> str:
    """Which version has come in the place of which; "" if it is the same."""
    before = {child.version for child in old} - {new.version}
    return f"; wsd {new.version} has taken the place of {', '.join(sorted(before))}" if before else ""


def _clients(seat: Seat) -> float:
    """How many clients a place has, to find the one that has the fewest and can take some."""
    return math.inf if seat.child is None else seat.child.clients


def _kept(chosen: Chosen, before: Chosen) -> Chosen:
    """The new settings, with those that need a restart as they were."""
    given = {name: value for name, value in chosen.given.items() if name not in NEEDS_RESTART}
    given |= {name: before.given[name] for name in NEEDS_RESTART if name in before.given}
    return replace(chosen, given=given, **{name: getattr(before, name) for name in NEEDS_RESTART})
