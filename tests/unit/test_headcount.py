"""The count of all clients: in memory that workers share. Here all workers are in this process."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from wsd import headcount
from wsd.headcount import PLACES, Headcount


@pytest.fixture
def memory() -> Iterator[int]:
    descriptor = headcount.make()
    yield descriptor
    os.close(descriptor)


def test_the_last_place_is_given_once(memory: int) -> None:
    one, other = (Headcount(memory, place, most=3) for place in (0, PLACES - 1))
    assert one.claim(0) and one.claim(1) and other.claim(0)
    assert not one.claim(2) and not other.claim(1)
    assert one.total() == other.total() == 3, "a claim that failed leaves nothing"
    one.note(1)
    assert other.claim(1)
    assert not other.claim(2)


def test_two_that_claim_the_last_place_in_the_same_moment_do_not_both_get_it(memory: int) -> None:
    one, other = (Headcount(memory, place, most=1) for place in (0, 1))
    other.note(1)  # as its claim begins
    assert not one.claim(0)
    assert other.total() == 1


def test_a_worker_that_is_gone_is_forgotten(memory: int) -> None:
    one, other = (Headcount(memory, place, most=1000) for place in (0, 7))
    one.note(500)
    other.note(30)
    headcount.clear(memory, 0)
    assert other.total() == 30
