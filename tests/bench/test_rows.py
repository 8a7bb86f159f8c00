"""What is measured, and the goals that results are held to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bench.measure.burst import Burst
from bench.measure.fan_out import FanOut
from bench.measure.storm import Standing
from bench.rows.found import Found
from bench.rows.goal import Goal
from bench.rows.registry import CASES, ROWS, SUITES, cells, evaluate, in_turn
from bench.servers.catalogue import SERVERS
from tests.bench.made_up import fed, made_up


def test_suites_cover_the_goals_and_only_known_servers() -> None:
    with_goals = {row.name for row in ROWS.values() if row.goals([])}
    for suite in SUITES.values():
        measured = cells(suite)
        missing = with_goals - {cell.row for cell in measured}
        assert missing == (set() if suite.everything else {"ramp"})
        assert {cell.server for cell in measured} <= SERVERS.keys()
    assert any(cell.work.load.seconds == 600 for cell in cells(SUITES["full"]))


def test_case_is_known_by_its_name() -> None:
    assert len(CASES) == sum(len(row.cases) for row in ROWS.values())


def test_goal_that_asks_for_what_is_not_measured_is_a_slip() -> None:
    single = ROWS["single"]
    found = Found([], single.cases)
    with pytest.raises(LookupError, match="no suite measures soak on wsd in this row"):
        found.of(CASES["soak"], "wsd")
    with pytest.raises(LookupError, match="no suite measures single on floor-joined in this row"):
        found.median(CASES["single"], "floor-joined", "rate")
    with pytest.raises(LookupError, match="cpu_per_delivry"):
        Found([made_up("single", "wsd", 1.0)], single.cases).median(CASES["single"], "wsd", "cpu_per_delivry")


@pytest.mark.parametrize("name", CASES)
def test_window_is_long_enough_for_its_percentiles(name: str) -> None:
    for cell in (cell for suite in ("quick", "full") for cell in cells(SUITES[suite]) if cell.case == name):
        if isinstance(cell.work, FanOut):
            load = cell.work.load
            assert load.seconds * load.rate >= 60
            assert round(load.seconds * load.rate_each * load.sampled) >= 1500


def test_what_is_shrunk_gives_each_client_as_much() -> None:
    work = CASES["topics-10000x1"].work
    small = work.shrunk(20).load
    assert (small.connections, small.topics, small.rate_each) == (500, 500, work.load.rate_each)
    beside = CASES["standing"].work.shrunk(20)
    assert isinstance(beside, Standing) and beside.others.connections == 250
    burst = CASES["stalled"].work.shrunk(20)
    assert isinstance(burst, Burst) and (burst.messages, burst.stalled) == (1500, 15)


def test_servers_take_turns() -> None:
    quick = cells(SUITES["quick"])
    order = [cell.server for cell in in_turn(quick) if cell.row == "single"]
    assert order[:2] == ["wsd", "floor"]
    assert order[-2:] == ["wsd", "floor"]
    assert len(in_turn(quick)) == sum(cell.repetitions for cell in quick)
    again = [cell.server for cell in in_turn(quick, 2) if cell.row == "round"]
    assert again[:4] == again[4:8] == ["wsd", "floor", "nats", "nchan"]


def goals(*results: dict[str, Any]) -> list[Goal]:
    """All goals, held to these."""
    return [goal for row in ROWS.values() for goal in row.goals(results)]


def test_goals_are_ratios_of_medians() -> None:
    results = [made_up("single", "wsd", cost) for cost in (5.0, 6.0, 100.0)] + [made_up("single", "floor", 4.0)]
    goal = goals(*results)[0]
    assert (goal.value, goal.met) == (1.5, False)
    results[0]["cpu_per_delivery_us"] = results[2]["cpu_per_delivery_us"] = 5.0
    assert goals(*results)[0].met
    assert goals()[0].met is None
    results[0]["verdicts"] = ["generator-bound"]
    assert "generator-bound" in goals(*results)[0].note


def test_goals_leave_out_what_was_disturbed_unless_there_is_nothing_else() -> None:
    results = [made_up("single", "wsd", cost) for cost in (2.0, 2.0, 6.0)] + [made_up("single", "floor", 4.0)]
    results[0]["verdicts"] = results[1]["verdicts"] = ["disturbed"]
    assert goals(*results)[0].value == 1.5
    results[2]["verdicts"] = ["disturbed"]
    assert goals(*results)[0].value == 0.5


def test_goal_that_falls_short_says_what_was_tried() -> None:
    goal = Goal("work", "measure", 1.0, 2.0, at_least=True, attempts="this and that")
    assert (goal.met, goal.tried) == (False, "this and that")
    assert goal.dump()["tried"] == "this and that"
    assert replace(goal, value=2.0).dump()["tried"] == ""
    assert replace(goal, value=None).dump()["tried"] == ""


def topics_goal(*results: dict[str, Any]) -> Goal:
    """The goal of 1,000 topics with ten subscribers each."""
    (goal,) = (goal for goal in goals(*results) if goal.work.startswith("1,000 topics") and goal.limit == 5)
    return goal


def test_rates_of_topics_are_what_was_delivered_over_the_most_that_the_other_can_do() -> None:
    naive = made_up("topics-1000x1", "naive", 10.0) | {"rate": 50_000.0}  # it could do 100,000 in a second of CPU
    wsd = made_up("topics-1000x1", "wsd", 1.0) | {"rate": 620_000.0, "offered": 600_000.0}
    assert topics_goal(wsd, naive).value == 6.0  # what is left of the warm-up doesn't count
    assert topics_goal(wsd | {"rate": 400_000.0}, naive).value == 4.0
    assert topics_goal(wsd, naive | {"rate": 150_000.0}).value == 4.0
    assert topics_goal(wsd | {"checks": wsd["checks"] | {"messages": 99}}, naive).value is None  # lost: no rate


def test_soak_that_grows_falls_short() -> None:
    soaked = made_up("soak", "wsd", 1.0) | {"churned": 10, "memory_growth": 0.0, "descriptors_growth": 0.0}
    soaked |= {"tasks_growth": 11.0, "threads_growth": 2.0}
    found = {goal.measure: goal.met for goal in goals(soaked)}
    assert (found["growth of memory"], found["growth of descriptors"]) == (True, True)
    assert (found["growth of tasks"], found["growth of threads"]) == (False, False)
    found = {goal.measure: goal.met for goal in goals(soaked | {"tasks_growth": None})}
    assert found["growth of tasks"] is None  # a server that doesn't tell


def storm_of(server: str, seconds: float, used: float, generator: float) -> dict[str, Any]:
    """A storm on two cores that nobody measured: seconds, the server's share of a core, and the generator's."""
    made = made_up("workers-storm", server, 1.0) | {"kind": "storm", "cores": 2, "server_share": used}
    setup = made["setup"] | {"seconds": seconds, "cpu_per_session_us": 1e6 * seconds * used / 10_000}
    return made | {"setup": setup, "shares": {"generator": generator, "redis": 0.0}}


def test_wall_time_of_workers_is_held_to_what_the_cores_allow() -> None:
    results = [storm_of("wsd", 3.0, 1.0, 0.5), storm_of("wsd-2", 2.0, 1.4, 0.4)]
    found = {goal.measure: goal for goal in ROWS["workers"].goals(results)}
    # 3.6 CPU seconds on two cores are 1.8 s, and 2.8 of a server with two workers 1.4 s.
    wall = found["wall time of 2 workers over what the cores allow"]
    assert wall.value == pytest.approx(2.0 / 1.8) and wall.met
    assert "1: 3.00 s, 3,333 sessions/s, generator 50% of a core; 2: 2.00 s, 5,000 sessions/s" in wall.note
    assert "2 workers take 1/1.50 of the time" in wall.note
    assert found["CPU per session of 2 workers over that of one"].value == pytest.approx(2.8 / 3.0)
    # What one worker has to do alone is allowed to take that long.
    results[1] = storm_of("wsd-2", 2.0, 1.9, 0.0) | {"cores": 8}
    (wall,) = (goal for goal in ROWS["workers"].goals(results) if goal.measure.startswith("wall time"))
    assert wall.value == pytest.approx(1 / 0.95)


def test_rates_of_workers_are_told_with_what_the_load_took() -> None:
    results = [
        made_up("workers-full", server, cost) | {"rate": rate}
        for server, cost, rate in (("wsd", 0.2, 4e6), ("wsd-2", 0.25, 5e6))
    ]
    (goal,) = (goal for goal in ROWS["workers"].goals(results) if goal.measure.startswith("deliveries per second"))
    assert goal.value == 1.25
    assert "2: 5.00 million/s at 0.25 µs, generator 50% of a core, alone 8.0 million/s (computed)" in goal.note
    assert len(ROWS["workers"].plots(results)) == 1


def test_redis_row_holds_workers_to_bare_subscribers_and_these_to_their_number() -> None:
    results = [fed("redis-1", f"links-{count}", count, 10.0 * count) for count in (1, 2, 8)]
    found = ROWS["redis"].goals([*results, fed("redis-1", "wsd-2", 2, 30.0)])
    assert [(goal.value, goal.met) for goal in found[:2]] == [(1.5, False), (0.0, True)]
    assert "30.0 against 20.0 µs per message" in found[0].note
    assert not any(goal.met for goal in ROWS["redis"].goals([fed("redis-1", "links-2", 1.5, 30.0)]))
    assert len(ROWS["redis"].plots(results)) == 2


def test_what_is_enough_to_see_whether_it_works_is_all_that_smoke_measures() -> None:
    servers = {suite: {cell.server for cell in cells(SUITES[suite]) if cell.case == "redis-1000"} for suite in SUITES}
    assert servers["smoke"] == {"links-8", "wsd-2"} < servers["quick"] == servers["full"]


def test_fewer_clients_are_held_only_to_what_must_hold_everywhere() -> None:
    results = [made_up("single", "wsd", 100.0), made_up("single", "floor", 1.0)]
    found = evaluate(results, SUITES["smoke"])
    (only,) = (goal for goal in found if goal["row"] == "single")
    assert only["measure"] == "messages lost, duplicated or out of order"
    assert all(goal["work"].startswith("1/20 of: ") for goal in found)
    assert len(evaluate(results, SUITES["quick"])) > len(found)
