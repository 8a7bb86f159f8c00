"""Reloads under load: some of the scenarios, played small; and what the suite makes of what it finds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.handover.judge import Verdict
from tests.handover.scene import GROWTH, OFTEN, Row, Scenario, Scene, play
from tests.handover.service import Holdings
from tests.handover.suite import SCENARIOS, names, run, scenario
from tests.handover.table import render

pytestmark = pytest.mark.timeout(1800)  # a busy machine takes any time to start workers and servers

PLAYED = {
    "reload, two workers": 3,
    "reload on a cluster": 1,
    "reload with another channel_prefix": 1,
    "reload into a version that refuses": 1,
    "reload, a browser and wsd tail": 2,
}
"""How often each happens here. ``python -m tests.handover`` plays the others, too, and more often."""


@pytest.mark.parametrize("name", PLAYED)
async def test_nobody_notices(name: str) -> None:
    row = await play(replace(scenario(name), times=PLAYED[name]), seed=time.time_ns() % 10_000)
    if row.skipped:
        pytest.skip(row.skipped)
    assert not row.problems, "\n".join([f"seed {row.seed}", *row.problems, "", *row.log])
    assert row.times == PLAYED[name] and row.verdict.messages > 100


# The suite.


def test_every_scenario_has_a_name_of_its_own() -> None:
    assert len(set(names())) == len(names())


async def nothing(scene: Scene) -> None:
    """Do nothing."""


def test_the_suite_plays_what_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    played: list[tuple[str, int]] = []

    async def note(each: Scenario, seed: int) -> Row:
        played.append((each.name, each.times))
        return Row(each.name, "single", 1, seed)

    monkeypatch.setattr("tests.handover.suite.play", note)
    told: list[Row] = []
    assert [row.seed for row in run(lambda name: "prefix" in name, 7, on_row=told.append)] == [7]
    assert played == [("reload with another channel_prefix", 1)] and len(told) == 1
    played.clear()
    run(lambda name: True, 7, times=200)
    assert played == [(each.name, 200) for each in SCENARIOS if each.often]


def test_the_table_tells_what_was_found() -> None:
    verdict = Verdict(messages=1000, clients=12)
    verdict.gaps.update({"a": 2, "b": 5})
    verdict.ends.update({"1012": 3, "1006": 1})
    rows = [
        Row("one", "single", 2, 7, times=20, slowest=1.25, verdict=verdict),
        Row("two", "", 1, 7, skipped="there is no Chromium"),
        Row("three", "cluster", 1, 7, problems=["lost"]),
    ]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in render(rows).splitlines()[2:5]]
    assert lines[0] == ["one", "single", "2", "7", "20", "1.2", "12", "1000", "5", "0", "1 1006, 3 1012", "ok"]
    assert lines[1][-1] == "skipped: there is no Chromium"
    assert lines[2][-1] == "FAILED: lost"


def holding(**more: int) -> Holdings:
    """What a daemon holds, and more."""
    usual = {"processes": 3, "descriptors": 90, "threads": 6, "memory": 10**8, "supervisor": 2 * 10**7}
    return Holdings(**{name: number + more.get(name, 0) for name, number in usual.items()})


@pytest.mark.parametrize("what", GROWTH)
@pytest.mark.parametrize("more", [0, 1])
def test_what_a_daemon_keeps_is_found(what: str, more: int) -> None:
    found = compared([holding()] * OFTEN + [holding(**{what: GROWTH[what] + more})] * OFTEN)
    assert len(found) == more
    assert all(what in problem for problem in found)


def test_a_daemon_may_hold_more_for_a_moment() -> None:
    assert not compared([holding(), holding(memory=10**8), *[holding()] * OFTEN, holding(descriptors=50)])


def compared(held: Sequence[Holdings]) -> list[str]:
    """The problems that a scene finds in what was held."""
    row = Row("often", "single", 1, 7)
    scene = Scene(Scenario("often", nothing, len(held), often=True), row, None)  # type: ignore[arg-type]
    scene.holdings = list(held)
    scene.compare_holdings()
    assert "descriptors 90, then" in row.remarks[0]
    return row.problems
