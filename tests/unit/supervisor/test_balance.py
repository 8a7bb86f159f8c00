"""When the load is uneven, and how many clients move then."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsd.supervisor import balance
from wsd.supervisor.balance import TOLERANCE, WORTHWHILE, Balance, due
from wsd.supervisor.child import Stage
from wsd.supervisor.moving import Outcome
from wsd.supervisor.team import Team


@pytest.mark.parametrize(
    "clients", [[0, 0], [8, 0], [100, 100], [105, 95], [500, 470, 480], [1, 2, 3], [1000, 1000, 990, 1010]]
)
def test_what_is_even_stays(clients: list[int]) -> None:
    assert due(clients) is None


@pytest.mark.parametrize(
    ("clients", "move"),
    [
        ([60, 0], (0, 1, 30)),
        ([0, 60], (1, 0, 30)),
        ([90, 0, 0], (0, 1, 30)),
        ([100, 100, 0], (0, 2, 33)),
        ([110, 95, 95, 100], (0, 1, 5)),
    ],
)
def test_the_fullest_gives_to_the_emptiest(clients: list[int], move: tuple[int, int, int]) -> None:
    assert due(clients) == move


@given(st.lists(st.integers(0, 100_000), min_size=2, max_size=16))
def test_after_some_moves_no_worker_is_too_full(clients: list[int]) -> None:
    total = sum(clients)
    for _ in range(len(clients) * 2):
        move = due(clients)
        if move is None:
            break
        giver, taker, count = move
        assert 0 < count <= clients[giver]
        clients[giver] -= count
        clients[taker] += count
    assert due(clients) is None
    assert sum(clients) == total
    mean = total / len(clients)
    assert max(clients) <= max(TOLERANCE * mean, mean + WORTHWHILE)


def child(number: int, clients: int) -> SimpleNamespace:
    """A worker that is ready."""
    return SimpleNamespace(number=number, clients=clients, stage=Stage.READY, report=SimpleNamespace(unready=""))


async def test_why_the_load_stays_uneven_is_said_once_for_each_reason(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    full, empty = child(0, 60), child(1, 0)
    team = SimpleNamespace(seats=[SimpleNamespace(child=full), SimpleNamespace(child=empty)], closing=False)
    balancing = Balance(cast(Team, team), asyncio.Lock())
    outcomes: Iterator[Outcome]

    async def move(*args: Any) -> Outcome:
        return next(outcomes)

    async def look(*became: Outcome) -> list[str]:
        nonlocal outcomes
        outcomes = iter(became)
        caplog.clear()
        for _ in became:
            await balancing._look()
        return [f"{record.levelname} {record.message}" for record in caplog.records]

    monkeypatch.setattr(balance, "move", move)
    caplog.set_level(logging.INFO)
    no_room, dead, gone = Outcome(left=30, reasons=("no room",)), Outcome(left=30, reasons=("dead",)), Outcome()
    stays = "WARNING the load stays uneven: worker 0 has 60 clients and worker 1 has 0; 30 could not be moved"
    assert await look(no_room, no_room, gone, no_room, dead) == [f"{stays}: no room", f"{stays}: dead"]
    assert await look(Outcome(moved=9)) == ["INFO evened out from worker 0 to worker 1: 9 clients went over"]
    assert await look(no_room) == [f"{stays}: no room"]
    full.clients = 0
    assert await balancing._look() is None
    full.clients = 60
    assert await look(no_room) == [f"{stays}: no room"]
    assert await look(Outcome(moved=9, gaps={"away": 2})) == [
        "WARNING evened out from worker 0 to worker 1: 9 clients went over, 2 of them with a gap (away)"
    ]
