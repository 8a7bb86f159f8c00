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
from typing import Any

from wsd import logs
from wsd.errors import StartupError
from wsd.pipe import Message, pair
from wsd.supervisor import steps
from wsd.supervisor.child import Child, Gone, Stage
from wsd.supervisor.chosen import Chosen
from wsd.supervisor.steps import Step
from wsd.supervisor.team import START_PATIENCE, Seat, Team

__all__ = ["ReloadError", "Reloader", "move"]

NEEDS_RESTART = ("host", "port", "admin_host", "admin_port")
"""Settings of the listening sockets, which stay open as long as the supervisor lives."""

READY_PATIENCE = START_PATIENCE
"""Seconds for a new worker to be ready, on a machine that is busy; it waits 5 of them for Redis."""

MOVE_LEAST = 10.0
"""Seconds at the least that a hand-over goes on without a connection that moves: a service that drains in no time shall
not lose its clients by a reload. It takes as long only if a client does not read what was sent to it."""

MOVE_PATIENCE = 5.0
"""Seconds that the taker may say nothing when the giver has said that it is over."""

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

    async def reload(self) -> None:
        """Read the settings anew, and replace the workers.

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
        except BaseException:
            if all(seat.child is not candidate for seat in self._team.seats):  # nothing has changed, and nothing will
                self._team.chosen = before
                candidate.tell("stop")
            raise
        await self._end(old)
        steps.reached(Step.OLD_GONE)
        logger.info("reloaded: %s", said, extra=logs.fields(result="done", changed=",".join(message["changed"])))

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
        if seat.timer is not None:
            seat.timer.cancel()
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

    async def _retire(self, seat: Seat) -> list[Child]:
        """Give a place up. Its clients go to the worker that has the fewest."""
        if seat.timer is not None:
            seat.timer.cancel()
        old, seat.child = seat.child, None
        return [] if old is None else [await self._dismiss(old, min(self._team.seats, key=_clients))]

    async def _dismiss(self, old: Child, heir: Seat) -> Child:
        """Let a worker accept nobody any more, hand its clients over to the one in a place, drain, and end."""
        assert self._team.chosen is not None
        seconds = self._team.chosen.drain_seconds
        old.stage = max(old.stage, Stage.LEAVING)
        old.tell("close")
        steps.reached(Step.OLD_CLOSED)
        for _ in range(MOVES):
            if not await self._move_all(old, heir, max(seconds, MOVE_LEAST)):
                break
        old.tell("drain", seconds=seconds, replaced=True)
        steps.reached(Step.OLD_DRAINS)
        return old

    async def _move_all(self, old: Child, heir: Seat, seconds: float) -> bool:
        """Hand all clients of a worker over; return whether to try it once more, because the one who took has died."""
        taker = await self._taker(heir)
        if taker is None:
            return False
        given = await move(old, taker, None, seconds)
        steps.reached(Step.MOVED)
        logger.info(
            "worker %d: %d clients went over from process %d to %d, %d were left%s",
            old.number,
            given.get("moved", 0),
            old.pid,
            taker.pid,
            given.get("left", 0),
            f" ({given['reason']})" if given.get("reason") else "",
            extra=logs.fields(worker=old.number, **given),
        )
        if not given.get("left"):
            return False
        with suppress(TimeoutError):  # that it has died may be seen a little later
            async with asyncio.timeout(DEATH_PATIENCE):
                await asyncio.shield(taker.ended)
        return taker.stage is Stage.GONE

    async def _taker(self, heir: Seat) -> Child | None:
        """The worker in a place, when it is ready; None if there comes none."""
        for _ in range(MOVES):
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


async def move(giver: Child, taker: Child, count: int | None, seconds: float) -> dict[str, Any]:
    """Let a worker hand clients over to another.

    Args:
        giver: who has them.
        taker: who gets them.
        count: how many; None for all.
        seconds: that it goes on without a connection that moves. There is no other bound: a giver that does not
            answer stands still, and is ended as any worker that does.

    Returns:
        What the giver says of it: ``moved``, ``gaps``, ``left``, ``reason``. Only a reason if it has died.
    """
    one, other = pair()
    with one, other:
        # Only they have the ends of the pipe then, so that one sees when the other dies.
        taking = asyncio.ensure_future(taker.ask("take", other))
        giving = asyncio.ensure_future(giver.ask("give", one, count=count, seconds=seconds))
        steps.reached(Step.MOVING)
        try:
            given = await giving
            with suppress(Gone, TimeoutError):
                async with asyncio.timeout(MOVE_PATIENCE):
                    await taking
        except Gone as exc:
            return {"reason": f"the old process {exc}"}
        finally:
            for asked in (taking, giving):
                asked.cancel()
            await asyncio.gather(taking, giving, return_exceptions=True)
    return {name: value for name, value in given.items() if name in ("moved", "gaps", "left", "lost", "reason")}


def _clients(seat: Seat) -> float:
    """How many clients a place has, to find the one that has the fewest and can take some."""
    return math.inf if seat.child is None else seat.child.clients


def _kept(chosen: Chosen, before: Chosen) -> Chosen:
    """The new settings, with those that need a restart as they were."""
    given = {name: value for name, value in chosen.given.items() if name not in NEEDS_RESTART}
    given |= {name: before.given[name] for name in NEEDS_RESTART if name in before.given}
    return replace(chosen, given=given, **{name: getattr(before, name) for name in NEEDS_RESTART})
