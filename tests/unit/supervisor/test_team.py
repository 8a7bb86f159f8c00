"""Who gets a place: not a process that has ended already. And who is put down."""

from __future__ import annotations

import asyncio
import time
from typing import cast

import pytest

from wsd.metrics import Metrics
from wsd.pipe import pair
from wsd.supervisor import team as module
from wsd.supervisor.child import Stage
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


def test_a_worker_that_is_started_now_is_not_started_later_once_more() -> None:
    """A reload fails in a place whose worker is due: the place would get two, and one of them would live on."""

    async def play() -> None:
        launcher = Deaf()
        team = Team(cast(Launcher, launcher), Metrics(), -1)
        seat = Seat(0)
        seat.timer = asyncio.get_running_loop().call_later(0.01, team.fill, seat)
        team.fill(seat)
        await asyncio.sleep(0.05)
        assert launcher.launches == 1
        seat.expect_nobody()

    asyncio.run(play())


def test_a_worker_that_is_ready_need_not_have_reported_to_be_put_down() -> None:
    async def play() -> None:
        team = Team(cast(Launcher, Deaf()), Metrics(), -1)
        ours, theirs = pair()
        child = team.adopt(Launched(NOBODY, ours))
        assert team.patience(child) == module.START_PATIENCE
        child.stage = Stage.READY
        assert team.patience(child) == 0.0, "no settings are known yet"
        theirs.close()

    asyncio.run(play())


def test_a_supervisor_that_has_stood_still_hears_nothing_from_the_future(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it hears first thing afterwards is no older than that."""

    async def play() -> None:
        monkeypatch.setattr(module, "TICK", 0.01)
        monkeypatch.setattr(module, "START_PATIENCE", 60.0)
        loop = asyncio.get_running_loop()
        team = Team(cast(Launcher, Deaf()), Metrics(), -1)
        ours, theirs = pair()
        child = team.adopt(Launched(NOBODY, ours))
        watching = loop.create_task(team.watch())
        await asyncio.sleep(0.05)
        time.sleep(0.2)  # noqa: ASYNC251 - it stands still
        child.heard = loop.time()
        await asyncio.sleep(0.02)
        assert child.heard <= loop.time()
        watching.cancel()
        theirs.close()

    asyncio.run(play())
