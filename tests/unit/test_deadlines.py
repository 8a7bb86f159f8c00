"""The sweep is held to its clock: nobody is visited early, nor later than one tick, whatever visits do."""

from __future__ import annotations

import asyncio
import logging
import math
import weakref
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsd.deadlines import HORIZON, NOWHERE, RESOLUTION, Sweep


class Clock:
    """Time, and ticks at the multiples of the resolution."""

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now
        self.sweep = Sweep(lambda: self.now)

    def run(self, seconds: float) -> None:
        """Let time pass; tick on time."""
        end = self.now + seconds
        while (due := (self.now // RESOLUTION + 1) * RESOLUTION) <= end:
            self.now = due
            self.sweep.tick(due)
        self.now = end


class Guest:
    """Somebody with deadlines, who records visits."""

    def __init__(self, clock: Clock, then: Callable[[Guest], float] = lambda guest: math.inf) -> None:
        self.slot = NOWHERE
        self.clock = clock
        self.then = then  # what happens in a visit; returns the next deadline
        self.visits: list[float] = []  # seconds since 1,000

    def visit(self, now: float) -> float:
        assert now == self.clock.now
        self.visits.append(now - 1_000)
        return self.then(self)


@pytest.fixture
def clock() -> Clock:
    return Clock()


# In time.


@pytest.mark.parametrize(
    ("seconds", "visit"),
    [(1.0, 1.0), (1.01, 1.25), (0.99, 1.0), (0.25, 0.25), (0.01, 0.25), (0.0, 0.25), (-5.0, 0.25), (-math.inf, 0.25)],
)
def test_a_visit_comes_at_the_first_tick_from_its_time(seconds: float, visit: float, clock: Clock) -> None:
    guest = Guest(clock)
    clock.sweep.schedule(guest, clock.now + max(seconds, -1e9))
    clock.run(5)
    assert guest.visits == [visit]


@settings(deadline=None)
@given(st.lists(st.floats(0, HORIZON - 1), max_size=10), st.floats(0, 10**6))
def test_nobody_is_visited_early_or_later_than_one_tick(delays: list[float], start: float) -> None:
    clock = Clock(start)
    guests = [Guest(clock) for _ in delays]
    for guest, delay in zip(guests, delays, strict=True):
        clock.sweep.schedule(guest, start + delay)
    clock.run(HORIZON - 0.5)
    for guest, delay in zip(guests, delays, strict=True):
        (visit,) = guest.visits
        assert start + delay <= visit + 1_000 <= start + delay + RESOLUTION


def test_what_a_visit_returns_is_the_time_of_the_next(clock: Clock) -> None:
    guest = Guest(clock, lambda guest: guest.clock.now + 2)
    clock.sweep.schedule(guest, clock.now + 1)
    clock.run(7)
    assert guest.visits == [1, 3, 5, 7]


def test_a_visit_that_asks_for_the_past_is_repeated_at_the_next_tick(clock: Clock) -> None:
    guest = Guest(clock, lambda guest: guest.clock.now - 5)
    clock.sweep.schedule(guest, clock.now)
    clock.run(1)
    assert guest.visits == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(
    ("far", "visits"), [(HORIZON, [64]), (150.0, [64, 128, 150]), (1e300, [64, 128, 192]), (math.inf, [64, 128, 192])]
)
def test_far_deadlines_are_looked_at_again_at_the_horizon(far: float, visits: list[float], clock: Clock) -> None:
    guest = Guest(clock, lambda guest: 1_000 + far if guest.visits[-1] < far else math.inf)
    clock.sweep.schedule(guest, 1_000 + far)
    clock.run(visits[-1] + 1)
    assert guest.visits == visits


# Changed plans.


def test_the_last_appointment_is_the_one_that_holds(clock: Clock) -> None:
    guest = Guest(clock)
    for seconds in (1, 3, 2):
        clock.sweep.schedule(guest, clock.now + seconds)
    clock.run(10)
    assert guest.visits == [2]


@pytest.mark.parametrize(
    ("first", "hastened", "visit"), [(3, 1, 1), (1, 3, 1), (2, 2, 2), (3, -5, 0.25), (1, math.inf, 1)]
)
def test_hastening_never_delays(first: float, hastened: float, visit: float, clock: Clock) -> None:
    guest = Guest(clock)
    clock.sweep.schedule(guest, clock.now + first)
    clock.sweep.hasten(guest, clock.now + hastened)
    clock.run(10)
    assert guest.visits == [visit]


def test_hastening_somebody_without_an_appointment_makes_one(clock: Clock) -> None:
    guest = Guest(clock)
    clock.sweep.hasten(guest, clock.now + 1)
    clock.run(10)
    assert guest.visits == [1]


def test_whoever_is_removed_is_not_visited(clock: Clock) -> None:
    guest = Guest(clock)
    clock.sweep.schedule(guest, clock.now + 1)
    clock.sweep.remove(guest)
    clock.sweep.remove(guest)
    clock.run(10)
    assert (guest.visits, guest.slot) == ([], NOWHERE)


# Inside a visit.


def test_a_visit_may_end_its_own_appointments(clock: Clock) -> None:
    def leave(guest: Guest) -> float:
        clock.sweep.remove(guest)
        return clock.now + 1

    guest = Guest(clock, leave)
    clock.sweep.schedule(guest, clock.now + 1)
    clock.run(10)
    assert (guest.visits, guest.slot) == ([1], NOWHERE)


@pytest.mark.parametrize("change", ["schedule", "hasten"])
def test_a_visit_may_make_an_appointment_of_its_own(change: str, clock: Clock) -> None:
    """What it returns holds for ``hasten`` too: the connection computes it last, from all its deadlines."""

    def change_plans(guest: Guest) -> float:
        getattr(clock.sweep, change)(guest, clock.now + 2)
        return clock.now + 3 if change == "schedule" else clock.now + 2

    guest = Guest(clock, change_plans)
    clock.sweep.schedule(guest, clock.now + 1)
    clock.run(6)
    assert guest.visits == [1, 3, 5]


def test_a_visit_may_remove_others_that_are_due_at_the_same_tick(clock: Clock) -> None:
    guests: list[Guest] = []

    def remove_all(visited: Guest) -> float:
        for guest in guests:
            clock.sweep.remove(guest)
        return math.inf

    guests += [Guest(clock, remove_all) for _ in range(5)]
    for guest in guests:
        clock.sweep.schedule(guest, clock.now + 1)
    clock.run(10)
    assert sum(len(guest.visits) for guest in guests) == 1


@pytest.mark.parametrize("seconds", [-1.0, 0.0, 1.0])
def test_hastening_others_inside_a_visit_never_delays_them(seconds: float, clock: Clock) -> None:
    guests: list[Guest] = []

    def hasten_all(visited: Guest) -> float:
        for guest in guests:
            clock.sweep.hasten(guest, clock.now + seconds)
        return math.inf

    guests += [Guest(clock, hasten_all) for _ in range(5)]
    for guest in guests:
        clock.sweep.schedule(guest, clock.now + 1)
    clock.run(1)
    assert [guest.visits for guest in guests] == [[1]] * 5


def test_a_visit_may_bring_newcomers(clock: Clock) -> None:
    newcomer = Guest(clock)

    def bring(visited: Guest) -> float:
        clock.sweep.schedule(newcomer, clock.now)
        return math.inf

    clock.sweep.schedule(Guest(clock, bring), clock.now + 1)
    clock.run(2)
    assert newcomer.visits == [1.25]


def test_a_visit_that_fails_is_logged_and_repeated_and_the_others_are_made(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = Guest(clock, lambda guest: 1 / 0), Guest(clock)
    for guest in (bad, good):
        clock.sweep.schedule(guest, clock.now + 1)
    clock.run(2.5)
    assert (bad.visits, good.visits) == ([1, 2], [1])
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2


# Late ticks.


def test_after_a_standstill_everyone_that_is_due_is_visited_at_once_in_order(clock: Clock) -> None:
    order: list[int] = []

    def note(number: int) -> Callable[[Guest], float]:
        def then(guest: Guest) -> float:
            order.append(number)
            return math.inf

        return then

    for number in (3, 1, 2, 9):
        clock.sweep.schedule(Guest(clock, note(number)), clock.now + number)
    clock.now += 5.1
    clock.sweep.tick(clock.now)
    assert order == [1, 2, 3]
    clock.run(5)
    assert order == [1, 2, 3, 9]


def test_an_appointment_made_before_a_late_tick_is_kept_by_it(clock: Clock) -> None:
    guest = Guest(clock)
    clock.now += 10
    clock.sweep.schedule(guest, clock.now - 1)
    clock.sweep.tick(clock.now)
    assert guest.visits == [10]


def test_a_tick_that_comes_twice_visits_once(clock: Clock) -> None:
    guest = Guest(clock, lambda guest: guest.clock.now)
    clock.sweep.schedule(guest, clock.now + 1)
    clock.now += 1
    for _ in range(3):
        clock.sweep.tick(clock.now)
    assert guest.visits == [1]


# Any plans.

PLANS = st.tuples(
    st.sampled_from(["schedule", "hasten", "remove", "run"]), st.integers(0, 3), st.floats(0, HORIZON / 2)
)


@settings(deadline=None)
@given(st.lists(PLANS, max_size=25))
def test_any_plans_are_kept(plans: list[tuple[str, int, float]]) -> None:
    clock = Clock()
    guests = [Guest(clock) for _ in range(4)]
    agreed: list[float | None] = [None] * 4  # when each is to be visited

    def made(number: int) -> Callable[[Guest], float]:
        def then(guest: Guest) -> float:
            when = agreed[number]
            assert when is not None
            assert when <= clock.now <= when + RESOLUTION
            agreed[number] = clock.now + 60  # longer than this test looks ahead at a time
            return clock.now + 60

        return then

    for number, guest in enumerate(guests):
        guest.then = made(number)
    for plan, number, seconds in plans:
        when = clock.now + seconds
        if plan == "run":
            clock.run(seconds)
        elif plan == "remove":
            clock.sweep.remove(guests[number])
            agreed[number] = None
        elif plan == "schedule":
            clock.sweep.schedule(guests[number], when)
            agreed[number] = when
        else:
            clock.sweep.hasten(guests[number], when)
            agreed[number] = min(agreed[number] or math.inf, when)
        assert all(when is None or clock.now <= when + RESOLUTION for when in agreed)


# Leaks.


@pytest.mark.parametrize("end", ["removed", "rescheduled, removed", "visited, removed", "removed itself"])
def test_nothing_is_kept_of_those_who_are_gone(end: str, clock: Clock) -> None:
    def leave(guest: Guest) -> float:
        clock.sweep.remove(guest)
        return math.inf

    guest = Guest(clock, leave) if "itself" in end else Guest(clock)
    trace = weakref.ref(guest)
    clock.sweep.schedule(guest, clock.now + 1)
    if "rescheduled" in end:
        clock.sweep.schedule(guest, clock.now + 2)
    if "visited" in end or "itself" in end:
        clock.run(2)
    if "itself" not in end:
        clock.sweep.remove(guest)
    del guest
    assert trace() is None


# The loop.


class Stop(Exception):
    pass


class Loop:
    """A loop whose sleeps last longer than they should, and that notes what happens."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, oversleeps: list[float]) -> None:
        self.now = 1_000.1
        self.oversleeps = oversleeps
        self.slept: list[float] = []
        self.late: list[float] = []
        self.sweep = Sweep(lambda: self.now, lambda seconds: self.late.append(round(seconds, 3)))
        monkeypatch.setattr(asyncio, "sleep", self.sleep)

    async def sleep(self, seconds: float) -> None:
        if not self.oversleeps:
            raise Stop
        self.slept.append(round(seconds, 3))
        self.now += seconds + self.oversleeps.pop(0)

    def run(self) -> None:
        with pytest.raises(Stop):
            self.sweep.run().send(None)


def test_it_sleeps_from_tick_to_tick_and_tells_how_late_the_loop_is(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop(monkeypatch, [0.0, 0.0, 0.02, 0.0, 0.2, 0.0, -0.001, 0.0, 0.0, 0.0])
    loop.run()
    # A sleep of 0 lets the loop read once before a tick is worked off.
    assert loop.slept == [0.15, 0, 0.25, 0, 0.23, 0, 0.05, 0, 0.001, 0]
    assert loop.late == [0.0, 0.02, 0.2, 0.0, 0.0]


def test_a_tick_that_comes_a_hair_too_early_is_not_tried_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop(monkeypatch, [-1e-9, *[0.0] * 3])
    loop.run()
    assert loop.slept == [0.15, 0, 0.001, 0]


class Punctual:
    """Somebody who must do something until a deadline, and notes what came."""

    def __init__(self, loop: Loop, seconds: float) -> None:
        self.slot = NOWHERE
        self.loop = loop
        self.deadline = loop.sweep.time() + seconds
        self.visits: list[tuple[float, bool]] = []  # the loop's time, and whether the deadline had passed
        loop.sweep.schedule(self, self.deadline)

    def visit(self, now: float) -> float:
        self.visits.append((round(self.loop.now, 3), now >= self.deadline))
        return self.deadline if now < self.deadline else math.inf


def test_after_a_standstill_the_loop_reads_before_anybody_is_visited(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop(monkeypatch, [60.0, 0.0, 0.0, 0.0])
    late = Punctual(loop, 0.1)
    loop.run()
    assert loop.late[0] == 60
    # The tick was due at 1,000.25; the loop got a quarter of a second for what had come.
    assert loop.slept[:2] == [0.15, RESOLUTION]
    assert late.visits == [(1_060.5, True)]


def test_a_standstill_brings_no_deadline_nearer(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop(monkeypatch, [0.0, 0.0, 60.0, 0.0, *[0.0] * 20, 5.0, 0.0, *[0.0] * 30])
    others = [Punctual(loop, seconds) for seconds in (0.3, 1.0, 5.0)]
    loop.run()
    # Of the time in which it stood still, and the quarter of a second for reading, nothing counts.
    assert [other.visits for other in others] == [
        [(1_060.75, True)],
        [(1_061.5, True)],
        [(1_070.75, True)],
    ]


def test_the_time_never_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read while nobody knows yet that the loop has stood still must not be the future of what comes then."""
    loop = Loop(monkeypatch, [0.0, 0.0, 60.0, 0.0, 0.2, 0.0, 0.1, 0.0, 5.0, 0.0, *[0.0] * 6])
    times = [loop.sweep.time()]
    sleep = loop.sleep

    async def read(seconds: float) -> None:
        times.append(loop.sweep.time())
        await sleep(seconds)
        times.append(loop.sweep.time())

    monkeypatch.setattr(asyncio, "sleep", read)
    loop.run()
    assert times == sorted(times)
    assert times[-1] - times[0] < 3  # and what the loop stood still does not count


def test_a_loop_that_is_always_late_still_visits(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop(monkeypatch, [0.4] * 40)
    guest = Punctual(loop, 2.0)
    loop.run()
    assert [passed for _, passed in guest.visits] == [True]


def test_somebody_is_visited_once_by_a_tick_however_late_it_is() -> None:
    clock = Clock()
    guest = Guest(clock, lambda guest: guest.clock.now - 5)
    clock.sweep.schedule(guest, clock.now + 1)
    clock.now += 10
    clock.sweep.tick(clock.now)
    assert guest.visits == [10]
    clock.run(0.5)
    assert guest.visits == [10, 10.25, 10.5]
