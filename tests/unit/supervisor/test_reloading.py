"""Workers that die amid a reload: who is none, and who takes the clients of an old one then."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from wsd.supervisor import reloading
from wsd.supervisor.reloading import Reloader, ReloadError
from wsd.supervisor.team import Seat


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reloading, "DEATH_PATIENCE", 0.001)


def test_a_worker_that_is_due_later_is_waited_for() -> None:
    async def play() -> None:
        seat, team, loop = Seat(0), SimpleNamespace(), asyncio.get_running_loop()
        child: Any = SimpleNamespace(number=0, ready=loop.create_future(), status=None, reap=lambda: None)
        child.ready.set_result({})

        def fill() -> None:
            seat.timer, seat.child = None, child

        seat.timer = loop.call_later(0.1, fill)
        assert await Reloader(team)._taker(seat) is child  # type: ignore[arg-type]

    asyncio.run(play())


def test_nobody_is_waited_for_where_nobody_is_due() -> None:
    async def play() -> None:
        assert await Reloader(SimpleNamespace())._taker(Seat(0)) is None  # type: ignore[arg-type]

    asyncio.run(play())


def test_a_worker_that_has_died_as_soon_as_it_was_ready_is_none() -> None:
    """Nobody has told of its end yet."""

    async def play() -> None:
        child: Any = SimpleNamespace(number=3, ready=asyncio.get_running_loop().create_future(), status=None)
        child.ready.set_result({})
        child.reap = lambda: setattr(child, "status", -9)
        with pytest.raises(ReloadError, match="worker 3 was killed by SIGKILL as soon as it was ready"):
            await Reloader(SimpleNamespace())._until_ready(child)  # type: ignore[arg-type]

    asyncio.run(play())
