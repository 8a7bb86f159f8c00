"""When the load is uneven, and how many clients move then."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsd.supervisor.balance import TOLERANCE, WORTHWHILE, due


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
