"""Who gets a place: not a process that has ended already."""

from __future__ import annotations

import asyncio
from typing import cast

from wsd.metrics import Metrics
from wsd.pipe import pair
from wsd.supervisor.launch import Launched, Launcher
from wsd.supervisor.team import Seat, Team

NOBODY = 2**30
"""No process has such a number (pid_max, proc(5)): it has ended, and somebody else has waited for it."""


class Deaf:
    """Counts launches, and starts nothing."""

    launches = 0

    def launch(self) -> Launched:
        self.launches += 1
        raise OSError(11, "Resource temporarily unavailable")


def test_a_first_worker_that_has_ended_before_the_start_is_replaced() -> None:
    """A supervisor that has stood still hears at once what it has read and that it is gone."""

    async def play() -> None:
        launcher = Deaf()
        team = Team(cast(Launcher, launcher), Metrics(), -1)
        ours, theirs = pair()
        first = team.adopt(Launched(NOBODY, ours))
        theirs.close()
        first.reap()
        await first.ended
        team.seats = [Seat(0)]
        team.begin(first)
        (seat,) = team.seats
        assert seat.child is None and seat.timer is not None
        await asyncio.sleep(0.01)
        assert launcher.launches == 1
        seat.timer.cancel()

    asyncio.run(play())
