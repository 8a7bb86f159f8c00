"""Much small work: at once while there is time, and else at the next turns, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import pytest

from wsd import slices as slices_module
from wsd.slices import Slices


class Loop:
    """The loop's queue of callbacks, and a clock that only work moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.queue: deque[Callable[[], None]] = deque()
        self.now = 0.0
        self.done: list[int] = []
        monkeypatch.setattr(slices_module, "perf_counter", lambda: self.now)
        self.slices = Slices(self.queue.append)

    def work(self, number: int, seconds: float) -> Callable[[], None]:
        def do() -> None:
            self.now += seconds
            self.done.append(number)

        return do

    def turn(self) -> None:
        for _ in range(len(self.queue)):
            self.queue.popleft()()


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    return Loop(monkeypatch)


def test_little_work_is_done_at_once(loop: Loop) -> None:
    for number in range(3):
        loop.slices.do(loop.work(number, 0.0001))
    assert loop.done == [0, 1, 2]


def test_much_work_is_done_in_slices_and_in_order(loop: Loop) -> None:
    for number in range(10):
        loop.slices.do(loop.work(number, 0.0011))
    assert loop.done == [0, 1]
    loop.turn()
    assert loop.done == [0, 1, 2, 3]
    loop.slices.do(loop.work(10, 0.0))  # not ahead of those who wait
    for _ in range(4):
        loop.turn()
    assert loop.done == list(range(11))
    loop.turn()
    assert not loop.queue, "nothing is scheduled when nothing waits"


def test_each_turn_has_a_slice_of_its_own(loop: Loop) -> None:
    for number in range(6):
        loop.slices.do(loop.work(number, 0.0015))
        loop.turn()
    assert loop.done == list(range(6))


def test_work_that_raises_does_not_stop_the_rest(loop: Loop) -> None:
    loop.slices.do(loop.work(0, 0.01))

    def fail() -> None:
        raise ZeroDivisionError

    loop.slices.do(fail)
    loop.slices.do(loop.work(1, 0.0))
    with pytest.raises(ZeroDivisionError):
        loop.turn()
    loop.turn()
    assert loop.done == [0, 1]
