"""The fan-out is held to what its docstring promises, with fakes for connections and for the loop's queue.

The promise to a connection: it is written to at most once per pass, and what is written is what was published on the
topics that it listens to, in the order of publishing and without a gap. One that begins to listen may get what the
pass in progress had collected before; one that leaves gets nothing of that topic any more, and misses at most what the
next pass would have begun to write.
"""

from __future__ import annotations

import json
from collections import deque
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.unit.delivery.house import Ear, House, cut_into_slices, message, notice
from wsd.delivery import fanout as fanout_module
from wsd.delivery import shares as shares_module
from wsd.delivery.fanout import PORTION, Bounds
from wsd.protocol.frames import text_frame
from wsd.protocol.messages import message_head

# A pass.


def test_nothing_is_written_before_the_pass_ends(house: House) -> None:
    ear = house.join(Ear(), "a")
    house.publish("a", "1")
    assert ear.writes == []
    house.loop.run()
    assert ear.writes == [message("a", "1")]


def test_everything_of_a_pass_is_one_write_and_one_buffer_for_all(house: House) -> None:
    ann, bob = house.ears(2, "a")
    house.publish("a", "1", "2", "3")
    house.loop.run()
    assert ann.writes == bob.writes == [message("a", "1", "2", "3")]
    assert ann.writes[0] is bob.writes[0]


def test_a_pass_is_scheduled_once(house: House) -> None:
    house.ears(3, "a", "b")
    for topic in ("a", "b", "a"):
        house.publish(topic, "1", "2")
    assert len(house.loop.queue) == 1
    house.loop.run_one()
    assert not house.loop.queue


def test_topics_of_a_pass_come_in_the_order_of_publishing_in_one_write(house: House) -> None:
    both, only_b = house.join(Ear(), "a", "b"), house.join(Ear(), "b")
    house.publish("a", "1")
    house.publish("b", "2", "3")
    house.publish("a", "4")
    house.loop.run()
    assert both.writes == [message("a", "1") + message("b", "2", "3") + message("a", "4")]
    assert only_b.writes == [message("b", "2", "3")]


def test_passes_do_not_mix(house: House) -> None:
    ear = house.join(Ear(), "a")
    for payload in ("1", "2"):
        house.publish("a", payload)
        house.loop.run()
    assert ear.writes == [message("a", "1"), message("a", "2")]


def test_who_does_not_listen_gets_nothing(house: House) -> None:
    stranger, waiting = house.join(Ear(), "b"), Ear()
    house.topics.wait("a", waiting)
    house.publish("a", "1")
    house.publish("unknown", "2")
    assert not house.loop.queue
    assert stranger.writes == waiting.writes == []
    assert (house.metrics.messages, house.metrics.deliveries) == (2, 0)


def test_any_payload_is_delivered(house: House) -> None:
    ear = house.join(Ear(), "a")
    house.fanout.publish(b"a", b"\xff")
    house.fanout.publish(b"a", b"not JSON")
    house.loop.run()
    assert ear.writes == [
        text_frame(message_head("a") + b'"/w==","encoding":"base64"}') + text_frame(message_head("a") + b'"not JSON"}')
    ]


def test_who_joins_or_leaves_before_the_pass_is_written_takes_part_or_not(house: House) -> None:
    early, late = house.ears(2, "a")
    house.publish("a", "1")
    house.leave(early, "a")
    house.join(late, "a")
    house.loop.run()
    assert (early.writes, late.writes) == ([], [message("a", "1")])


# Slices.


@pytest.mark.usefixtures("slices_of_two")
def test_a_pass_over_many_yields_to_the_loop(house: House) -> None:
    ears = house.ears(5, "a")
    house.publish("a", "1", "2")
    for served in (2, 4, 5):
        house.loop.run_one()
        assert [len(ear.writes) for ear in ears] == [1] * served + [0] * (5 - served)
    assert not house.loop.queue
    assert all(ear.writes == [message("a", "1", "2")] for ear in ears)


@pytest.mark.usefixtures("slices_of_two")
def test_what_comes_between_two_slices_goes_out_after_the_last(house: House) -> None:
    ears = house.ears(5, "a", "b")
    house.publish("a", "1")
    house.loop.run_one()
    house.publish("b", "2")
    house.loop.run_one()
    house.publish("a", "3")
    assert len(house.loop.queue) == 1
    house.loop.run()
    assert all(ear.writes == [message("a", "1"), message("b", "2") + message("a", "3")] for ear in ears)


@pytest.mark.usefixtures("slices_of_two")
def test_a_small_pass_waits_for_the_slices_of_a_large_one(house: House) -> None:
    ears = house.ears(3, "a")
    house.join(ears[2], "b")
    house.publish("a", "1")
    house.loop.run_one()
    house.publish("b", "2")
    house.loop.run()
    assert ears[2].writes == [message("a", "1"), message("b", "2")]


@pytest.mark.usefixtures("slices_of_two")
def test_who_leaves_between_two_slices_gets_first_what_is_due(house: House) -> None:
    ears = house.ears(5, "a", "b")
    house.publish("a", "1")
    house.publish("b", "2")
    house.loop.run_one()
    house.leave(ears[4], "a")
    assert ears[4].writes == [message("a", "1") + message("b", "2")]
    house.publish("a", "3")
    house.publish("b", "4")
    house.loop.run()
    assert ears[4].writes[1:] == [message("b", "4")]
    assert ears[3].writes[1:] == [message("a", "3") + message("b", "4")]


@pytest.mark.usefixtures("slices_of_two")
def test_who_joins_between_two_slices_gets_nothing_of_them(house: House) -> None:
    house.ears(5, "a")
    house.publish("a", "1")
    house.loop.run_one()
    late = house.join(Ear(), "a")
    house.publish("a", "2")
    house.loop.run()
    assert late.writes == [message("a", "2")]


@pytest.mark.usefixtures("slices_of_two")
def test_who_is_gone_between_two_slices_gets_nothing(house: House) -> None:
    ears = house.ears(5, "a")
    house.publish("a", "1")
    house.loop.run_one()
    for ear in ears[2:]:
        house.vanish(ear, "a")
    house.loop.run()
    assert [len(ear.writes) for ear in ears] == [1, 1, 0, 0, 0]


def test_settling_what_owes_nothing_is_fine(house: House) -> None:
    house.fanout.settle(Ear())


# What may happen inside a write.


def fail(error: type[Exception] = RuntimeError) -> None:
    raise error("the transport is closing")


@pytest.mark.parametrize("count", [3, 7], ids=["one slice", "several"])
@pytest.mark.parametrize("error", [RuntimeError, OSError, ZeroDivisionError])
@pytest.mark.usefixtures("slices_of_two")
def test_a_write_that_raises_hurts_nobody_else(count: int, error: type[Exception], house: House) -> None:
    ears = house.ears(count, "a")
    for ear in ears[::2]:
        ear.then = lambda: fail(error)
    for payload in ("1", "2"):
        house.publish("a", payload)
        house.loop.run()
    assert all(ear.writes == [message("a", "1"), message("a", "2")] for ear in ears)


@pytest.mark.parametrize("size", [2, 100], ids=["slices", "no slices"])
def test_a_listener_may_leave_while_it_is_written_to(size: int, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_into_slices(monkeypatch, size)
    ears = house.ears(5, "a", "b")
    ears[1].then = lambda: house.vanish(ears[1], "a", "b")
    ears[3].then = lambda: house.leave(ears[3], "a")
    house.publish("a", "1")
    house.loop.run()
    house.publish("a", "2")
    house.publish("b", "3")
    house.loop.run()
    assert [ear.writes[1:] for ear in ears[1:4]] == [[], [message("a", "2") + message("b", "3")], [message("b", "3")]]


@pytest.mark.usefixtures("slices_of_two")
def test_a_listener_may_take_others_along_while_it_is_written_to(house: House) -> None:
    ears = house.ears(5, "a")

    def end_all() -> None:
        for ear in ears:
            house.vanish(ear, "a")

    ears[0].then = end_all
    house.publish("a", "1")
    house.loop.run()
    assert [len(ear.writes) for ear in ears] == [1, 0, 0, 0, 0]


@pytest.mark.parametrize("size", [2, 100], ids=["slices", "no slices"])
def test_others_may_join_inside_a_write(size: int, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_into_slices(monkeypatch, size)
    ears, late = house.ears(3, "a"), Ear()
    ears[0].then = lambda: house.join(late, "a")
    house.publish("a", "1")
    house.loop.run()
    house.publish("a", "2")
    house.loop.run()
    assert late.writes == [message("a", "2")]


# Gaps.


def test_a_gap_is_announced_before_the_next_message(house: House) -> None:
    both = house.join(Ear(), "a", "b")
    house.publish("a", "1")
    house.fanout.announce_gap(b"a")
    house.publish("a", "2")
    house.fanout.announce_gap(b"b")
    house.fanout.announce_gap(b"unknown")
    house.loop.run()
    assert both.writes == [message("a", "1") + notice("a") + message("a", "2") + notice("b")]


def test_a_gap_alone_is_announced_too(house: House) -> None:
    old = house.join(Ear(), "a")
    house.fanout.announce_gap(b"a")
    new = house.join(Ear(), "a")
    house.loop.run()
    assert (old.writes, new.writes) == ([notice("a")], [])


def test_who_begins_to_listen_after_a_gap_has_missed_nothing(house: House) -> None:
    old, new, waiting = house.join(Ear(), "a"), Ear(), Ear()
    house.topics.wait("a", waiting)
    house.fanout.announce_gap(b"a")
    house.join(new, "a")
    house.publish("a", "1")
    house.loop.run()
    assert (old.writes, new.writes) == ([notice("a") + message("a", "1")], [message("a", "1")])
    assert waiting.writes == []
    assert house.metrics.gap_notices == 1


@pytest.mark.parametrize("wanted", [True, False])
def test_a_confirmation_after_a_gap_tells_those_who_listen_unless_notices_are_off(wanted: bool) -> None:
    house = House(gap_notices=wanted)
    ear = house.join(Ear(), "a")
    house.topics.unconfirm([b"a"])
    house.fanout.confirm(b"a", True)
    house.fanout.confirm(b"a", False)
    assert house.topics.channels[b"a"].confirmed
    house.loop.run()
    assert ear.writes == ([notice("a")] if wanted else [])


def test_who_has_left_is_not_told_of_a_gap(house: House) -> None:
    """It has read ``context unsubscribed``, and a notice of that topic would come behind it."""
    stays, leaves = house.ears(2, "a")
    house.fanout.announce_gap(b"a")
    house.leave(leaves, "a")
    house.loop.run()
    assert (stays.writes, leaves.writes) == ([notice("a")], [])
    assert house.metrics.gap_notices == 1


# What is bounded.


def test_a_connection_is_handed_a_portion_at_a_time(house: House) -> None:
    both, other = house.join(Ear(), "a", "b"), house.join(Ear(), "b")
    numbers = [str(number) + "0" * 90 for number in range(10_000, 13_000)]
    for number in numbers:
        house.publish("a", "1" + number)
        house.publish("b", "2" + number)
    house.loop.run()
    for ear in (both, other):
        assert max(map(len, ear.writes)) <= PORTION
    # Not in smaller pieces than need be, either.
    assert len(both.writes) <= 1 + sum(map(len, both.writes)) / (PORTION - 1000)
    frames = [message(topic, first + number) for number in numbers for topic, first in (("a", "1"), ("b", "2"))]
    assert b"".join(both.writes) == b"".join(frames)
    assert b"".join(other.writes) == b"".join(frames[1::2])


def test_a_portion_is_no_larger_than_what_may_wait() -> None:
    house = House(Bounds(max_backlog=4096, max_backlog_age=10.0))
    ear = house.join(Ear(), "a")
    house.publish("a", *["1" * 100] * 100)
    house.loop.run()
    assert max(map(len, ear.writes)) <= 4096
    assert b"".join(ear.writes) == message("a", *["1" * 100] * 100)


def test_a_message_longer_than_a_portion_is_written_alone(house: House) -> None:
    ear = house.join(Ear(), "a", "b")
    long = "1" * (PORTION + 1)
    house.publish("a", "2", "3", long, "4")
    house.publish("b", "5")
    house.loop.run()
    assert ear.writes == [message("a", "2", "3"), message("a", long), message("a", "4") + message("b", "5")]


def test_connections_that_are_due_the_same_share_the_bytes(house: House) -> None:
    same = house.ears(20, "a", "b", "c")
    others = house.ears(20, "a", "c")
    house.publish("a", "1")
    house.publish("b", "2")
    house.publish("a", "3")
    house.publish("c", "4")
    house.loop.run()
    assert {id(ear.writes[0]) for ear in same} == {id(same[0].writes[0])}
    assert {id(ear.writes[0]) for ear in others} == {id(others[0].writes[0])}
    assert same[0].writes == [message("a", "1") + message("b", "2") + message("a", "3") + message("c", "4")]
    assert others[0].writes == [message("a", "1", "3") + message("c", "4")]


def test_sorting_yields_to_the_loop_too(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_into_slices(monkeypatch, 2)
    monkeypatch.setattr(shares_module, "SORT_STEP", 2)
    ears = house.ears(6, "a", "b")
    house.publish("a", "1")
    house.publish("b", "2")
    for _ in range(4):
        house.loop.run_one()
    assert not any(ear.writes for ear in ears)
    house.leave(ears[5], "b")  # the rest is sorted at once
    assert ears[5].writes == [message("a", "1") + message("b", "2")]
    house.loop.run()
    assert all(ear.writes == [message("a", "1") + message("b", "2")] for ear in ears)


def test_the_loop_turns_when_the_time_is_up(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1_000_000))
    monkeypatch.setattr(fanout_module, "perf_counter", lambda: next(clock) * 0.0007)  # 0.7 ms between two looks
    ears = house.ears(10 * fanout_module.STEP, "a")
    house.publish("a", "1")
    house.loop.run_one()
    assert sum(len(ear.writes) for ear in ears) == 2 * fanout_module.STEP
    house.loop.run()
    assert all(ear.writes == [message("a", "1")] for ear in ears)


def test_long_writes_are_looked_at_more_often(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fanout_module, "SLICE", 0.0)
    ears = house.ears(10, "a")
    house.publish("a", "1" * fanout_module.STEP * fanout_module.WRITE_BYTES)
    for served in range(1, 11):
        house.loop.run_one()
        assert sum(len(ear.writes) for ear in ears) == served


def test_the_source_is_held_while_much_waits(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fanout_module, "MAX_WAITING", 1_000_000)
    ear = house.join(Ear(), "a")
    payload = "1" * 10_000
    for _ in range(99):
        house.publish("a", payload)
    assert house.held == []
    for _ in range(20):
        house.publish("a", payload)
    assert house.held == [True]
    house.loop.run()
    assert house.held == [True, False]
    assert b"".join(ear.writes) == message("a", *[payload] * 119)


def test_a_message_near_the_bound_of_a_backlog_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    house = House(Bounds(max_backlog=4000, max_backlog_age=10.0))
    house.join(Ear(), "a")
    house.publish("a", "1" * 900)
    assert (caplog.messages, house.metrics.large_messages) == ([], 0)
    house.publish("a", *["1" * 1000] * 100)
    assert house.metrics.large_messages == 100
    (line,) = caplog.messages
    assert "b'a'" in line
    assert "max_backlog" in line


# Bugs.


def test_a_bug_behind_a_write_is_counted_and_logged(house: House, caplog: pytest.LogCaptureFixture) -> None:
    ears = house.ears(100, "a")
    for ear in ears[::2]:
        ear.then = lambda: fail(KeyError)
    house.publish("a", "1")
    house.loop.run()
    assert house.metrics.internal_errors == 50
    assert all(ear.writes == [message("a", "1")] for ear in ears)
    assert len(caplog.records) == 1
    assert "KeyError" in caplog.text
    assert "Traceback" in caplog.text


def test_a_bug_in_a_pass_costs_that_pass_alone(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    ear = house.join(Ear(), "a", "b")
    house.publish("a", "1")
    house.publish("b", "1")
    with monkeypatch.context() as patched:
        patched.setattr(fanout_module, "sort", lambda *args: fail())
        house.loop.run_one()
    assert (house.metrics.internal_errors, ear.writes) == (1, [])
    house.publish("a", "2")
    house.publish("b", "3")
    house.loop.run()
    assert ear.writes == [message("a", "2") + message("b", "3")]


# Counters.


@pytest.mark.parametrize("size", [2, 100], ids=["slices", "no slices"])
def test_what_is_counted(size: int, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_into_slices(monkeypatch, size)
    ears = [*house.ears(3, "a"), *house.ears(1, "a", "b")]
    house.publish("a", "1", "2")
    house.publish("b", "3")
    house.publish("nobody", "4")
    house.loop.run()
    house.publish("a", "5", "6")
    house.loop.run()
    metrics = house.metrics
    assert metrics.messages == 6
    assert metrics.deliveries == 4 * 2 + 1 + 4 * 2
    assert metrics.writes == sum(len(ear.writes) for ear in ears) == 8
    assert metrics.bytes_out == sum(len(data) for ear in ears for data in ear.writes)
    assert sum(metrics.pass_seconds.counts) == 2


# The model.

TOPICS = st.sampled_from(["a", "b", "c"])
EARS = st.integers(0, 4)


class Stay:
    """From the time when an ear begins to listen to a topic to the time when it leaves."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.published: list[int] = []  # while it lasted
        self.heard: list[int] = []
        self.gaps: deque[int] = deque()  # announced and not heard of: the number of the last message before each
        self.announced = self.told = 0  # gaps


class ModelEar(Ear):
    """An ear that checks every write against what it listens to at that moment."""

    def __init__(self) -> None:
        super().__init__()
        self.stays: dict[str, Stay] = {}
        self.last = 0  # the number of the last message: numbers only rise
        self.steps: list[int] = []  # when it was written to

    def hear(self, data: bytes, step: int, number_of_all: int) -> None:
        assert step not in self.steps[-1:], "written to twice in a step"
        self.steps.append(step)
        while data:
            payload, data = data[2 : 2 + data[1]], data[2 + data[1] :]
            parsed = json.loads(payload)
            stay = self.stays[parsed["topic"]]  # a KeyError: it has left
            if parsed["action"] == "gap":
                stay.told += 1
                # One that left and came back in the same pass may hear of a gap from before.
                assert self.last <= (stay.gaps.popleft() if stay.gaps else number_of_all), "a gap comes too late"
                continue
            number = parsed["snapshot"]
            assert number > self.last, "out of order, or twice"
            assert number <= (stay.gaps[0] if stay.gaps else number_of_all), "a gap was not announced"
            self.last = number
            stay.heard.append(number)


class FanoutMachine(RuleBasedStateMachine):
    """Any sequence of publishing, gaps, joining, leaving and of the loop's steps."""

    def __init__(self) -> None:
        super().__init__()
        self.house = House()
        self.step = self.published = 0
        self.barriers: list[bool] = []  # whether each has been passed
        self.ears = [ModelEar() for _ in range(5)]
        for ear in self.ears:
            self.record(ear)

    def record(self, ear: ModelEar) -> None:
        ear.then = lambda: ear.hear(ear.writes[-1], self.step, self.published)

    @rule(topic=TOPICS, times=st.integers(1, 3))
    def publish(self, topic: str, times: int) -> None:
        for _ in range(times):
            self.published += 1
            self.house.publish(topic, str(self.published))
            for ear in self.ears:
                if topic in ear.stays:
                    ear.stays[topic].published.append(self.published)

    @rule(topic=TOPICS)
    def announce_gap(self, topic: str) -> None:
        self.house.fanout.announce_gap(topic.encode())
        for ear in self.ears:
            if topic in ear.stays:
                ear.stays[topic].gaps.append(self.published)
                ear.stays[topic].announced += 1

    @rule(ear=EARS, topic=TOPICS)
    def join(self, ear: int, topic: str) -> None:
        if topic not in self.ears[ear].stays:
            self.ears[ear].stays[topic] = Stay(topic)
            self.house.join(self.ears[ear], topic)

    @rule(ear=EARS, topic=TOPICS)
    def leave(self, ear: int, topic: str) -> None:
        if topic in self.ears[ear].stays:
            self.step += 1
            self.house.leave(self.ears[ear], topic)
            stay = self.ears[ear].stays.pop(topic)
            heard = [number for number in stay.heard if number in stay.published]
            assert heard == stay.published[: len(heard)], "a gap, and not at the end"

    @rule(old=EARS, new=EARS, topic=TOPICS)
    def swap(self, old: int, new: int, topic: str) -> None:
        mine, other = self.ears[old], self.ears[new]
        if topic in mine.stays and topic not in other.stays:
            self.step += 1
            self.house.fanout.settle(mine)
            assert self.house.topics.swap(topic, mine, other)
            other.stays[topic] = mine.stays.pop(topic)  # as if it had been there from the beginning

    @rule()
    def barrier(self) -> None:
        stays = [(stay, list(stay.published), stay.announced) for ear in self.ears for stay in ear.stays.values()]
        number, last = len(self.barriers), self.published

        def then() -> None:
            self.barriers[number] = True
            assert all(self.barriers[:number]), "barriers out of order"
            there = [stay for ear in self.ears for stay in ear.stays.values()]
            for stay, published, announced in stays:
                assert max(stay.heard, default=0) <= last, "it is behind the barrier"
                if stay in there:
                    assert [heard for heard in stay.heard if heard in published] == published
                    assert stay.told >= announced, "a notice from before the barrier is due"

        self.barriers.append(False)
        self.house.fanout.barrier(then)

    @rule(ear=EARS)
    def vanish(self, ear: int) -> None:
        self.house.vanish(self.ears[ear], *self.ears[ear].stays)
        self.ears[ear] = ModelEar()
        self.record(self.ears[ear])

    @rule()
    def run_one(self) -> None:
        if self.house.loop.queue:
            self.step += 1
            self.house.loop.run_one()

    @invariant()
    def one_callback_at_most(self) -> None:
        assert len(self.house.loop.queue) <= 1

    @invariant()
    def nothing_was_wrong_in_a_write(self) -> None:
        assert not self.house.metrics.internal_errors  # an AssertionError of an ear ends here; the log has it

    def teardown(self) -> None:
        while self.house.loop.queue:
            self.run_one()
        assert all(self.barriers)
        for ear in self.ears:
            for stay in ear.stays.values():
                assert [number for number in stay.heard if number in stay.published] == stay.published
                assert not stay.gaps


def test_any_sequence_keeps_the_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    cut_into_slices(monkeypatch, 2)
    case: Any = FanoutMachine.TestCase
    case.settings = settings(deadline=None)
    case().runTest()
