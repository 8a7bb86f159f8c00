"""Marks, and what is done at them: barriers of the fan-out, swaps of listeners, and gap notices for some.

Any sequence of all that: test_fanout.py.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.unit.delivery.house import Ear, House, message, notice
from wsd.delivery import fanout as fanout_module
from wsd.delivery.marks import Mark


class Seen:
    """What ears had been written when barriers were passed."""

    def __init__(self, *ears: Ear) -> None:
        self.ears = ears
        self.order: list[str] = []
        self.bytes: list[list[bytes]] = []  # at each barrier, of each ear

    def __call__(self, name: str = "") -> Callable[[], None]:
        """Something to do at a barrier."""

        def then() -> None:
            self.order.append(name)
            self.bytes.append([b"".join(ear.writes) for ear in self.ears])

        return then


# When it happens.


def test_it_happens_at_once_when_nothing_is_to_be_written(house: House) -> None:
    seen = Seen()
    house.fanout.barrier(seen("a"))
    assert seen.order == ["a"]
    assert not house.loop.queue


def test_all_before_it_is_written_and_nothing_behind_it(house: House) -> None:
    ear = house.join(Ear(), "a", "b")
    seen = Seen(ear)
    house.publish("a", "1")
    house.fanout.barrier(seen())
    house.publish("a", "2")
    house.publish("b", "3")
    assert seen.order == []
    house.loop.run()
    assert seen.bytes == [[message("a", "1")]]
    assert ear.writes == [message("a", "1"), message("a", "2") + message("b", "3")]


@pytest.mark.usefixtures("slices_of_two")
def test_a_pass_in_progress_is_before_it(house: House) -> None:
    ears = house.ears(5, "a")
    seen = Seen(*ears)
    house.publish("a", "1")
    house.loop.run_one()
    house.fanout.barrier(seen())
    house.publish("a", "2")
    house.loop.run_one()
    assert seen.order == []
    house.loop.run()
    assert seen.bytes == [[message("a", "1")] * 5]
    assert all(ear.writes == [message("a", "1"), message("a", "2")] for ear in ears)


@pytest.mark.usefixtures("slices_of_two")
def test_what_came_during_a_pass_is_before_it_too(house: House) -> None:
    ears = house.ears(5, "a")
    seen = Seen(*ears)
    house.publish("a", "1")
    house.loop.run_one()
    house.publish("a", "2")
    house.fanout.barrier(seen())
    house.publish("a", "3")
    house.loop.run()
    assert seen.bytes == [[message("a", "1", "2")] * 5]
    assert all(b"".join(ear.writes) == message("a", "1", "2", "3") for ear in ears)


def test_several_keep_their_order_among_messages_and_gaps(house: House) -> None:
    ear = house.join(Ear(), "a", "b")
    seen = Seen(ear)
    house.publish("a", "1")
    house.fanout.barrier(seen("after 1"))
    house.fanout.barrier(seen("after 1, too"))
    house.fanout.announce_gap(b"a")
    house.fanout.barrier(seen("after the gap"))
    house.publish("b", "2")
    house.publish("a", "3")
    house.fanout.barrier(seen("after 3"))
    house.loop.run()
    assert seen.order == ["after 1", "after 1, too", "after the gap", "after 3"]
    whole = [message("a", "1"), message("a", "1"), message("a", "1") + notice("a")]
    assert [each for (each,) in seen.bytes] == [*whole, whole[-1] + message("b", "2") + message("a", "3")]


def test_one_that_is_made_at_another_comes_behind_those_that_wait(house: House) -> None:
    ear = house.join(Ear(), "a")
    seen = Seen(ear)

    def again() -> None:
        seen("first")()
        house.fanout.barrier(seen("made at the first"))
        house.publish("a", "2")
        house.fanout.barrier(seen("after 2"))

    house.publish("a", "1")
    house.fanout.barrier(again)
    house.fanout.barrier(seen("second"))
    house.loop.run()
    assert seen.order == ["first", "second", "made at the first", "after 2"]
    assert [each for (each,) in seen.bytes] == [message("a", "1")] * 3 + [message("a", "1", "2")]


@pytest.mark.usefixtures("slices_of_two")
def test_who_leaves_before_it_gets_first_what_the_pass_owes(house: House) -> None:
    ears = house.ears(5, "a")
    seen = Seen(ears[4])
    house.publish("a", "1")
    house.loop.run_one()
    house.fanout.barrier(seen())
    house.leave(ears[4], "a")
    house.publish("a", "2")
    house.loop.run()
    assert seen.bytes == [[message("a", "1")]]
    assert ears[4].writes == [message("a", "1")]


def test_the_loop_is_asked_once_however_many_there_are(house: House) -> None:
    ear = house.join(Ear(), "a")
    for number in range(5):
        house.publish("a", str(number))
        house.fanout.barrier(lambda: None)
    for _ in range(5):
        assert len(house.loop.queue) == 1
        house.loop.run_one()
    assert not house.loop.queue
    assert ear.writes == [message("a", str(number)) for number in range(5)]


# What goes wrong.


@pytest.mark.parametrize("published", [0, 1])
def test_what_it_raises_harms_nobody(published: int, house: House, caplog: pytest.LogCaptureFixture) -> None:
    ear = house.join(Ear(), "a")
    seen = Seen(ear)

    def fail() -> None:
        raise KeyError("a bug")

    house.publish("a", *["1"] * published)
    house.fanout.barrier(fail)
    house.fanout.barrier(seen())
    house.publish("a", "2")
    house.loop.run()
    assert seen.bytes == [[message("a", *["1"] * published)]]
    assert b"".join(ear.writes) == message("a", *["1"] * published, "2")
    assert house.metrics.internal_errors == 1
    assert "Traceback" in caplog.text


def test_a_bug_in_the_pass_before_it_does_not_hold_it_up(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise KeyError("a bug")

    ear = house.join(Ear(), "a", "b")
    seen = Seen(ear)
    house.publish("a", "1")
    house.publish("b", "1")
    house.fanout.barrier(seen())
    house.publish("a", "2")
    with monkeypatch.context() as patched:
        patched.setattr(fanout_module, "sort", fail)
        house.loop.run_one()
    assert seen.bytes == [[b""]]
    house.loop.run()
    assert ear.writes == [message("a", "2")]


def test_the_source_is_held_by_what_lies_before_barriers_and_let_go_when_there_is_room(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fanout_module, "MAX_WAITING", 101_000)
    ear = house.join(Ear(), "a")
    payload = "1" * 10_000
    for _ in range(4):
        house.publish("a", *[payload] * 5)
        house.fanout.barrier(lambda: None)
    assert house.held == [True]
    house.publish("a", *[payload] * 5)
    for held in (True, True, False):  # 200,000 bytes wait after the first pass, and 100,000 after the third
        assert house.held == [True]
        house.loop.run_one()
        assert house.held == [True, False][: 2 - held]
    house.publish("a", *[payload] * 7)
    assert house.held == [True, False, True], "those that lie before barriers count"
    house.loop.run()
    assert house.held == [True, False, True, False]
    assert b"".join(ear.writes) == message("a", *[payload] * 32)


# Swaps.


def test_a_swap_at_a_barrier_divides_the_messages(house: House) -> None:
    old, new, other = house.join(Ear(), "a", "b"), Ear(), house.join(Ear(), "a")
    house.publish("a", "1")
    house.publish("b", "2")
    house.fanout.barrier(lambda: [house.topics.swap(topic, old, new) for topic in ("a", "b")])
    house.publish("b", "3")
    house.publish("a", "4")
    house.loop.run()
    assert b"".join(old.writes) == message("a", "1") + message("b", "2")
    assert b"".join(new.writes) == message("b", "3") + message("a", "4")
    assert b"".join(other.writes) == message("a", "1", "4")


@pytest.mark.usefixtures("slices_of_two")
def test_a_swap_in_a_pass_in_progress_leaves_the_pass_to_the_old(house: House) -> None:
    ears, new = house.ears(5, "a"), Ear()
    house.publish("a", "1")
    house.loop.run_one()
    assert house.topics.swap("a", ears[4], new)
    house.publish("a", "2")
    house.loop.run()
    assert (ears[4].writes, new.writes) == ([message("a", "1")], [message("a", "2")])


def test_a_notice_that_waits_goes_to_whoever_takes_the_place(house: House) -> None:
    old, new, other = house.join(Ear(), "a"), Ear(), house.join(Ear(), "a")
    house.fanout.announce_gap(b"a")
    house.topics.swap("a", old, new)
    house.loop.run()
    assert (old.writes, new.writes, other.writes) == ([], [notice("a")], [notice("a")])
    assert house.topics.channels[b"a"].noticed == ()


def test_a_notice_behind_a_barrier_follows_a_swap_at_it(house: House) -> None:
    old, new = house.join(Ear(), "a"), Ear()
    house.publish("a", "1")
    house.fanout.barrier(lambda: house.topics.swap("a", old, new))
    house.fanout.announce_gap(b"a")
    house.publish("a", "2")
    house.loop.run()
    assert (old.writes, b"".join(new.writes)) == ([message("a", "1")], notice("a") + message("a", "2"))


def test_nobody_is_told_when_notices_are_off() -> None:
    house = House(gap_notices=False)
    ear = house.join(Ear(), "a")
    house.fanout.announce_gap(b"a")
    assert not house.loop.queue
    assert ear.writes == []


# Marks.


class Marked:
    """A mark, and what it was told."""

    def __init__(self, channel: bytes = b"__wsd:mark:1", then: Callable[[], None] = lambda: None) -> None:
        self.told: list[tuple[object, ...]] = []
        self.then = then  # what else happens at its message
        self.mark = Mark(
            channel,
            on_confirmed=lambda: self.told.append(("confirmed",)),
            on_refused=lambda reason: self.told.append(("refused", reason)),
            on_mark=self.come,
            on_lost=lambda: self.told.append(("lost",)),
        )

    def come(self, payload: bytes) -> None:
        self.told.append(("mark", payload))
        self.then()


def test_a_mark_is_told_of_its_message_at_once_and_cuts_the_log(house: House) -> None:
    ear = house.join(Ear(), "a")
    seen = Seen(ear)
    marked = Marked(then=lambda: house.fanout.barrier(seen()))
    house.topics.place(marked.mark)
    house.publish("a", "1")
    house.fanout.publish(b"__wsd:mark:1", b"7")
    house.publish("a", "2")
    assert marked.told[-1] == ("mark", b"7")
    house.loop.run()
    assert seen.bytes == [[message("a", "1")]]
    assert b"".join(ear.writes) == message("a", "1", "2")
    assert house.metrics.messages == 2, "a mark is none"


def test_a_mark_that_is_removed_is_told_nothing(house: House) -> None:
    marked = Marked()
    house.topics.place(marked.mark)
    house.topics.remove(marked.mark)
    marked.told.clear()
    house.fanout.publish(b"__wsd:mark:1", b"7")
    house.fanout.confirm(b"__wsd:mark:1", True)
    assert marked.told == []


def test_a_mark_gets_no_gap_notice_and_is_confirmed(house: House) -> None:
    marked = Marked()
    house.topics.place(marked.mark)
    house.fanout.confirm(b"__wsd:mark:1", True)
    house.fanout.announce_gap(b"__wsd:mark:1")
    assert not house.loop.queue
    assert marked.told == [("confirmed",)] * 2  # the house confirms whatever is subscribed
