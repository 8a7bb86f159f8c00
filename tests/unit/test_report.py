"""Reports are read with patience, and what was counted is never taken away."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.lib.metrics import GAUGES, busy, report
from wsd.admin.exposition import render
from wsd.admin.standing import Standing, WorkerView
from wsd.metrics import Metrics
from wsd.report import Report, Retired, added


def test_a_report_travels_as_json() -> None:
    told = report(busy(), links=("one", "two"), unready="full", pid=7)
    assert Report.load(json.loads(json.dumps(told.dump(), allow_nan=False))) == told
    assert told.dump().keys() == {each.name for each in fields(Report)}


@pytest.mark.parametrize(
    "value", [None, 1, "x", [], {}, {"version": 3, "pid": "x", "links": 4, "metrics": [], "new": 1}]
)
def test_rubbish_is_a_report_that_tells_nothing(value: object) -> None:
    assert Report.load(value) == Report()
    assert Report.load(value).unready


def test_of_rubbish_what_is_good_is_kept() -> None:
    told = Report.load(
        {"links": ["one", 2], "gauges": {"topics": 3, "x": "y", "nan": float("nan"), "n": None}, "pid": 5}
    )
    assert told == Report(links=("one",), gauges={"topics": 3, "nan": None, "n": None}, pid=5)


NAMES = [*Metrics().dump(), *GAUGES.dump(), *report().process, "0", "counts", "sum"]
"""Names that mean something."""

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=5) | st.sampled_from(["counts", "sum", "0.5"]), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(st.fixed_dictionaries({}, optional={each.name: anything for each in fields(Report)}))
def test_any_report_is_survived_and_can_be_passed_on(value: dict[str, Any]) -> None:
    told = Report.load(value)
    assert Report.load(json.loads(json.dumps(told.dump(), allow_nan=False))) == told
    retired = Retired().adding(0, told).adding(0, told)
    assert Retired.load(json.loads(json.dumps(retired.dump(), allow_nan=False))).dump() == retired.dump()


@given(st.dictionaries(st.sampled_from(NAMES), anything), st.dictionaries(st.sampled_from(NAMES), anything))
def test_any_report_can_be_shown(metrics: dict[str, Any], others: dict[str, Any]) -> None:
    told = Report.load({"version": "9", "metrics": metrics, "gauges": others, "process": others})
    retired = Retired.load({"metrics": others, "cpu_seconds": others})
    workers = (WorkerView(number=0, report=told), WorkerView(number=1, report=report(busy())))
    for configured in (1, 2):
        standing = Standing(workers=workers, configured=configured, own=told, retired=retired)
        assert render(standing)
        assert render(standing, openmetrics=True)


@given(anything)
def test_any_value_is_survived(value: object) -> None:
    Report.load(value)
    Retired.load(value)


# The reports of one worker, one after the other.


def test_a_beat_keeps_what_it_leaves_out() -> None:
    whole = report(gauges_of_before := busy())
    beat = replace(report(gauges_of_before), gauges={"open_connections": 77}, process={"cpu_seconds": 9.0})
    told = beat.after(whole)
    assert told.gauges == {**whole.gauges, "open_connections": 77}
    assert told.process == {**whole.process, "cpu_seconds": 9.0}
    assert beat.after(None) == beat
    assert beat.after(replace(whole, pid=whole.pid + 1)) == beat


# What is left of those that are gone.


def test_what_the_dead_had_counted_is_kept() -> None:
    told = report(busy())
    retired = Retired().adding(0, told).adding(1, told).adding(1, told).adding(2, None)
    assert retired.metrics["messages"] == 3 * told.metrics["messages"]
    assert retired.cpu_seconds == {"0": 1.5, "1": 3.0}
    assert Retired.load(json.loads(json.dumps(retired.dump()))) == retired


numbers = st.recursive(
    st.integers(0, 1_000_000),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
counted = st.dictionaries(st.sampled_from("abcd"), numbers, max_size=4)


def total(value: Any, *path: str) -> Any:
    """The number at a path; None if there is none."""
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, int) else None


def paths(value: Any) -> list[tuple[str, ...]]:
    """Where the numbers are."""
    if not isinstance(value, dict):
        return [()]
    return [(name, *rest) for name, inner in value.items() for rest in paths(inner)]


@given(counted, counted)
def test_nothing_falls_unless_a_version_has_given_it_labels(one: dict[str, Any], other: dict[str, Any]) -> None:
    both = added(one, other)
    for value in (one, other):
        for path in paths(value):
            number = total(both, *path)
            assert number is None or number >= total(value, *path)
            # Else the other side has several numbers there.
            assert number is not None or all(
                len(path) < len(longer) for longer in paths(both) if longer[: len(path)] == path
            )


@given(counted, counted, counted)
def test_the_order_does_not_matter(one: dict[str, Any], two: dict[str, Any], three: dict[str, Any]) -> None:
    assert added(added(one, two), three) == added(one, added(two, three))
    assert added(one, two) == added(two, one)
