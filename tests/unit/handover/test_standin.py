"""What listens in the place of a connection keeps as much as may wait for a connection, and no more."""

from __future__ import annotations

from wsd.delivery.fanout import LARGE_MESSAGES, Bounds
from wsd.handover.standin import StandIn

BOUNDS = Bounds(max_backlog=100, max_backlog_age=10.0)


def test_it_keeps_what_may_wait_and_nothing_when_more_is_due() -> None:
    standin = StandIn(BOUNDS)
    standin.write(b"a" * 60)
    standin.write(b"b" * 40)
    assert (standin.frames, standin.overrun) == ([b"a" * 60, b"b" * 40], False)
    for _ in range(2):
        standin.write(b"c")
        assert (standin.frames, standin.overrun) == ([], True)
    standin.forget()
    standin.write(b"d" * 100)
    assert (standin.frames, standin.overrun) == ([b"d" * 100], False)


def test_some_messages_that_are_longer_than_the_bound_may_wait() -> None:
    standin = StandIn(BOUNDS)
    large = b"x" * 101
    for _ in range(LARGE_MESSAGES):
        standin.write(large)
    assert (standin.frames, standin.overrun) == ([large] * LARGE_MESSAGES, False)
    standin.write(b"y")
    assert standin.overrun
