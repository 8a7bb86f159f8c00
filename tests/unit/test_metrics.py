"""What is counted adds up, and a metric that is misspelt or forgotten is a mistake."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import asdict, fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.lib.metrics import COUNTED, GAUGES, busy
from wsd.codes import Close, ErrorCode
from wsd.metrics import Gauges, Histogram, Metrics


def test_a_misspelt_counter_is_a_mistake() -> None:
    with pytest.raises(AttributeError):
        Metrics().mesages += 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", [gauge.name for gauge in fields(Gauges)])
def test_a_gauge_that_is_forgotten_is_a_mistake_and_not_a_zero(name: str) -> None:
    some = {other: value for other, value in asdict(GAUGES).items() if other != name}
    with pytest.raises(TypeError, match=name):
        Gauges(**some)


def test_every_code_has_a_label_from_the_start() -> None:
    metrics = Metrics()
    assert metrics.refused_requests.keys() == {*ErrorCode, "unauthorized"}
    assert metrics.close_codes.keys() == {*(str(int(close)) for close in Close), "1006"}


# What several workers have counted.


def test_what_workers_have_counted_adds_up() -> None:
    total, idle = Metrics(), Metrics().dump()
    for dump in (busy().dump(), idle, busy().dump()):
        total.add(json.loads(json.dumps(dump)))
    for name in COUNTED:
        one, two = getattr(busy(), name), getattr(total, name)
        if isinstance(one, Histogram):
            assert two.buckets() == [(bound, 2 * count) for bound, count in one.buckets()]
            assert two.sum == 2 * one.sum > 0
        elif isinstance(one, Counter):
            assert two == Counter({label: 2 * count for label, count in one.items()})
            assert two.total() > 0
        else:
            assert two == 2 * one > 0


def test_a_dump_does_not_change_with_its_metrics() -> None:
    metrics = Metrics()
    before = metrics.dump()
    metrics.slow_consumers["age"] += 1
    metrics.pass_seconds.observe(1.0)
    assert before == Metrics().dump() != metrics.dump()


def test_what_another_version_has_counted_is_added_as_far_as_it_is_known() -> None:
    metrics = Metrics()
    metrics.add({"messages": 2, "marvels": 3, "writes": {"by": 1}, "close_codes": 4, "pass_seconds": 5})
    assert metrics.dump() == Metrics().dump() | {"messages": 2}


def test_gauges_are_dumped_as_json_which_has_no_nan() -> None:
    dump = replace(GAUGES, redis_probe_age_seconds=math.nan).dump()
    assert dump == asdict(GAUGES) | {"redis_probe_age_seconds": None}
    assert json.loads(json.dumps(dump, allow_nan=False)) == dump


# Histograms.


@given(st.lists(st.floats(0, 20)), st.lists(st.floats(0, 20)))
def test_a_histogram_with_other_bounds_counts_for_what_its_observations_were_at_the_most(
    mine: list[float], others: list[float]
) -> None:
    histogram, other = Histogram((0.1, 1.0, 5.0)), Histogram((0.5, 1.0, 10.0))
    for value in mine:
        histogram.observe(value)
    before = dict(histogram.buckets())
    for value in others:
        other.observe(value)
    histogram.add(json.loads(json.dumps(other.dump())))
    after = dict(histogram.buckets())
    assert all(after[bound] >= count for bound, count in before.items())
    assert after["0.1"] == before["0.1"]
    assert after["1.0"] == before["1.0"] + sum(value <= 1.0 for value in others)
    assert after["5.0"] == before["5.0"] + sum(value <= 1.0 for value in others)
    assert after["+Inf"] == len(mine) + len(others)
    assert histogram.sum == pytest.approx(sum(mine) + sum(others))


@settings(deadline=None)
@given(st.lists(st.sampled_from([-1.0, 0.0, 0.1, 0.25, 1.0, 1.0001, 50.0]) | st.floats(0, 2)))
def test_buckets_are_cumulative_and_their_bounds_belong_to_them(values: list[float]) -> None:
    histogram = Histogram((0.1, 0.5, 1.0))
    for value in values:
        histogram.observe(value)
    expected = [(str(bound), sum(value <= bound for value in values)) for bound in (0.1, 0.5, 1.0)]
    assert histogram.buckets() == [*expected, ("+Inf", len(values))]
    assert histogram.sum == pytest.approx(sum(values))
