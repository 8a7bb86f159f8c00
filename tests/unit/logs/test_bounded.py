"""Lines that clients can cause are bounded in number, and what was left out is said."""

from __future__ import annotations

import logging

import pytest

from wsd.logs import BoundedLogger


class Bounded:
    """A bounded logger, its clock and what it logged."""

    def __init__(self, caplog: pytest.LogCaptureFixture, rate: float) -> None:
        self.now = 0.0
        self.logger = BoundedLogger(logging.getLogger("wsd.refusals"), lambda: self.now, rate)
        self.caplog = caplog

    def warn(self, kind: str, times: int = 1) -> list[str]:
        """Warn some times; return the lines that it made."""
        self.caplog.clear()
        for _ in range(times):
            self.logger.warning(kind, "%s of %a", kind, "ann")
        return self.caplog.messages


@pytest.fixture
def bounded(caplog: pytest.LogCaptureFixture) -> Bounded:
    return Bounded(caplog, rate=1.0)


def test_an_event_of_a_kind_is_logged_once_in_a_second(bounded: Bounded) -> None:
    assert bounded.warn("forged") == ["forged of 'ann'"]
    assert bounded.caplog.records[0].levelno == logging.WARNING
    assert bounded.caplog.records[0].name == "wsd.refusals"
    bounded.now = 0.99
    assert bounded.warn("forged", times=10_000) == []
    bounded.now = 1.0
    assert bounded.warn("forged") == ["forged of 'ann' (and 10000 more of this kind since the last line)"]
    bounded.now = 2.0
    assert bounded.warn("forged") == ["forged of 'ann'"]


def test_kinds_do_not_silence_each_other(bounded: Bounded) -> None:
    assert bounded.warn("forged", times=2) == ["forged of 'ann'"]
    assert bounded.warn("full", times=2) == ["full of 'ann'"]
    bounded.now = 1.5
    assert bounded.warn("full") == ["full of 'ann' (and 1 more of this kind since the last line)"]


@pytest.mark.parametrize(("rate", "interval"), [(0.25, 4.0), (8.0, 0.125)])
def test_the_rate_is_lines_per_second(rate: float, interval: float, caplog: pytest.LogCaptureFixture) -> None:
    bounded = Bounded(caplog, rate)
    lines = 0
    for step in range(100):
        bounded.now = step * interval / 4
        lines += len(bounded.warn("forged"))
    assert lines == 25


def test_a_bug_that_recurs_is_logged_with_one_traceback(bounded: Bounded) -> None:
    for number in range(1000):
        try:
            raise ZeroDivisionError(number)
        except ZeroDivisionError:
            bounded.logger.exception("bug", "a message of %d bytes", 5)  # noqa: PLE1205 - its first argument is the kind
    assert bounded.caplog.text.count("Traceback") == 1
    assert "ERROR" in bounded.caplog.text
    assert "a message of 5 bytes" in bounded.caplog.text


def test_a_kind_of_one_client_does_not_silence_it_of_another(bounded: Bounded) -> None:
    for client in ("192.0.2.1", "192.0.2.2"):
        bounded.logger.warning("forged", "of %s", client, client=client)  # noqa: PLE1205
        bounded.logger.warning("forged", "of %s", client, client=client)  # noqa: PLE1205
    assert bounded.caplog.messages == ["of 192.0.2.1", "of 192.0.2.2"]


def test_what_was_left_out_is_said_although_no_more_comes(bounded: Bounded) -> None:
    for _ in range(5):
        bounded.logger.warning("forged", "x", client="192.0.2.1")  # noqa: PLE1205
    bounded.now = 1.9
    bounded.logger.tick()
    assert bounded.caplog.messages == ["x"]
    bounded.now = 2.0
    bounded.logger.tick()
    assert bounded.caplog.messages == ["x", "4 more of this kind since the last line of 192.0.2.1: forged"]
    bounded.now = 100.0
    bounded.logger.tick()
    bounded.logger.flush()
    assert len(bounded.caplog.messages) == 2


def test_what_was_left_out_is_said_at_the_end(bounded: Bounded) -> None:
    assert bounded.warn("forged", times=3) == ["forged of 'ann'"]
    bounded.logger.flush()
    assert bounded.caplog.messages[1:] == ["2 more of this kind since the last line of its kind: forged"]


def test_many_addresses_make_bounded_lines_and_hide_no_other_kind(bounded: Bounded) -> None:
    for second in range(10):
        bounded.now = float(second)
        for number in range(1000):
            bounded.logger.warning("forged", "forged", client=f"2001:db8::{second}:{number}")  # noqa: PLE1205
    lines = bounded.caplog.messages
    assert 100 <= lines.count("forged") <= 130
    assert bounded.warn("full") == ["full of 'ann'"]
    bounded.logger.flush()
    left_out = bounded.caplog.messages[-1]
    said = [int(line.split(" ")[0]) for line in [*lines, left_out] if " more were not logged" in line]
    assert sum(said) + lines.count("forged") == 10_000
    assert left_out.endswith("of the kind forged")


def test_a_client_that_chooses_kinds_makes_bounded_lines_and_memory(bounded: Bounded) -> None:
    for second in range(10):
        bounded.now = float(second)
        for number in range(1000):
            bounded.logger.warning(f"kind {second} {number}", "x", client="192.0.2.1")
    assert bounded.caplog.messages.count("x") <= 350
    bounded.now = 20.0
    bounded.caplog.clear()
    bounded.logger.tick()
    (line,) = bounded.caplog.messages
    assert len(line) < 2000
    assert "of the kind other" in line
