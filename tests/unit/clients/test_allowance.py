"""The token bucket, on a clock that is set by hand."""

from __future__ import annotations

import pytest

from wsd.clients.allowance import Allowance


def charge(allowance: Allowance, times: int, now: float) -> float:
    """Charge some times at once; return the seconds to wait that the last one brought."""
    return [allowance.charge(now) for _ in range(times)][-1]


def test_the_burst_is_free_and_what_is_beyond_is_earned_back_at_the_rate() -> None:
    allowance, now = Allowance(2.0, 10.0, 100.0), 100.0
    assert (charge(allowance, 10, now), allowance.left) == (0, 0)
    assert charge(allowance, 1, now) == pytest.approx(0.5)
    assert allowance.left == -1
    assert charge(allowance, 1, now) == pytest.approx(1.0)
    now += 1.0
    assert charge(allowance, 1, now) == pytest.approx(0.5)
    for _ in range(20):
        now += 0.5
        assert charge(allowance, 1, now) == pytest.approx(0.5)


def test_no_more_is_saved_up_than_the_burst() -> None:
    allowance = Allowance(2.0, 10.0, 0.0)
    assert charge(allowance, 10, 1_000_000.0) == 0
    assert charge(allowance, 1, 1_000_000.0) > 0


def test_a_rate_of_0_is_no_limit() -> None:
    allowance = Allowance(0.0, 0.0, 0.0)
    assert charge(allowance, 100_000, 0.0) == 0
    assert allowance.left >= 0


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 1, 1.5, 1e6])
def test_at_any_rate_one_is_free_after_long_enough(rate: float) -> None:
    allowance = Allowance(rate, 5 * rate, 0.0)
    assert charge(allowance, 1, 10 / rate) == 0
