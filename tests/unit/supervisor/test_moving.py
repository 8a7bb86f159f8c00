"""What becomes of clients that move, in words and in numbers."""

from __future__ import annotations

from wsd.supervisor.moving import Outcome


def test_what_a_giver_says() -> None:
    said = {"say": "gave", "id": 1, "moved": 5, "gaps": {"away": 2, "late": 1}, "left": 1, "reason": "no room"}
    outcome = Outcome.of_message(said)
    assert outcome == Outcome(5, {"away": 2, "late": 1}, 1, ("no room",))
    assert str(outcome) == "5 clients went over, 3 of them with a gap (away, late); 1 could not be moved: no room"
    assert outcome.fields() == {"moved": 5, "gaps": 3, "left": 1, "reason": "no room, away, late"}
    assert not outcome.clean


def test_a_giver_of_another_version_may_say_less() -> None:
    assert Outcome.of_message({"moved": 5, "gaps": 7}) == Outcome(5)
    assert Outcome.of_message({}).clean


def test_those_who_were_left_may_go_at_another_attempt() -> None:
    first, second = Outcome(5, {"away": 2}, 4, ("dead",)), Outcome(3, {"away": 1, "late": 1}, 1, ("slow",))
    assert first.then(second) == Outcome(8, {"away": 3, "late": 1}, 1, ("slow",))


def test_several_workers_are_added_up() -> None:
    one, other = Outcome(5, {"away": 2}, 4, ("slow",)), Outcome(3, {}, 1, ("slow", "no room"))
    assert one.beside(other) == Outcome(8, {"away": 2}, 5, ("slow", "no room"))
    assert Outcome(5).beside(Outcome(3)).clean
