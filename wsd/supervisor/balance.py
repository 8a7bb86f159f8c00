"""Even load: clients move from the fullest worker to the emptiest.

The kernel spreads new connections, but those that stay for hours don't even out by themselves, and a worker that was
replaced after a crash begins with none.
"""

from __future__ import annotations

import asyncio
import logging

from wsd import logs
from wsd.backoff import Backoff
from wsd.supervisor.child import Child, Stage
from wsd.supervisor.moving import Outcome, move
from wsd.supervisor.team import Team

__all__ = ["Balance", "due"]

LOOK = 3.0
"""Seconds between two looks. The workers tell each second how many clients they have."""

TOLERANCE = 1.05
"""A worker is too full that has more than so many times the mean."""

WORTHWHILE = 8
"""Clients that the fullest must have more than the emptiest. With few clients, chance makes any share uneven."""

SECONDS = 30.0
"""Seconds that a move may take; what is left then is for the next one."""

FIRST_WAIT, LONGEST_WAIT = 5.0, 300.0
"""Seconds until it is tried again when clients could not be moved, or not without a gap."""

logger = logging.getLogger(__name__)


def due(clients: list[int]) -> tuple[int, int, int] | None:
    """Say who should give how many to whom; None if the load is even.

    Args:
        clients: how many each worker has.

    Returns:
        The place in the list of the fullest and of the emptiest, and how many clients shall move.
    """
    mean = sum(clients) / len(clients)
    most, least = max(clients), min(clients)
    if most <= TOLERANCE * mean or most - least <= WORTHWHILE:
        return None
    # As many as the one has too many, or the other too few: the rest is for the next in the list.
    count = int(min(most - mean, mean - least))
    return clients.index(most), clients.index(least), max(count, 1)


class Balance:
    """Moves clients when the load is uneven.

    Args:
        team: the workers.
        moving: held by whoever moves clients; a reload holds it all the time.
    """

    def __init__(self, team: Team, moving: asyncio.Lock) -> None:
        self._team = team
        self._moving = moving
        self._waits = Backoff(FIRST_WAIT, LONGEST_WAIT)
        self._said: tuple[str, ...] = ()  # why the load stays uneven, as the log has it already

    async def run(self) -> None:
        """Look, for ever."""
        while True:
            await asyncio.sleep(LOOK)
            async with self._moving:
                outcome = await self._look()
            if outcome is None:
                continue
            if outcome.moved and outcome.clean:
                self._waits.reset()
            else:
                await asyncio.sleep(next(self._waits))

    async def _look(self) -> Outcome | None:
        """Move some if the load is uneven; return what became of them, or None if nobody was to move."""
        workers = [seat.child for seat in self._team.seats]
        ready = [child for child in workers if child is not None and _is_ready(child)]
        if len(ready) < len(workers) or len(ready) < 2 or self._team.closing:
            return None
        chosen = due([child.clients for child in ready])
        if chosen is None:
            self._said = ()
            return None
        fullest, emptiest, count = ready[chosen[0]], ready[chosen[1]], chosen[2]
        outcome = await move(fullest, emptiest, count, SECONDS)
        if outcome.moved:
            self._said = ()
            logger.log(
                logging.WARNING if outcome.gaps else logging.INFO,
                "evened out from worker %d to worker %d: %s",
                fullest.number,
                emptiest.number,
                outcome,
                extra=logs.fields(**outcome.fields()),
            )
        elif outcome.reasons not in ((), self._said):  # without a reason they have gone by themselves meanwhile
            self._said = outcome.reasons
            logger.warning(
                "the load stays uneven: worker %d has %d clients and worker %d has %d; %s",
                fullest.number,
                fullest.clients,
                emptiest.number,
                emptiest.clients,
                outcome.why_left,
                extra=logs.fields(**outcome.fields()),
            )
        return outcome


def _is_ready(child: Child) -> bool:
    return child.stage is Stage.READY and child.report is not None and not child.report.unready
