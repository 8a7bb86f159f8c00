"""Measurements of real servers, and what is said of them."""

from __future__ import annotations

import pytest

from bench.load.histogram import Histogram
from bench.measure.burst import Burst
from bench.measure.cores import Busy, Cores
from bench.measure.fan_out import FanOut
from bench.measure.feeding import Feeding
from bench.measure.restart import Restart
from bench.measure.rig import Reading
from bench.measure.soak import Soak
from bench.measure.storm import Standing, Storm
from bench.measure.verdicts import verdicts
from bench.measure.window import disturbance, percentiles
from bench.measure.work import Load
from bench.servers.catalogue import SERVERS
from bench.servers.wsd import WsdServer
from tests.bench.made_up import NO_CORES, SMALL
from tests.lib.waiting import PATIENCE

# Against servers.


SERVING = {name: kind for name, kind in SERVERS.items() if kind.dialect and not kind.absent()}
"""The servers that clients can connect to here."""


@pytest.mark.parametrize("server", SERVING)
def test_fan_out_is_counted_right(server: str) -> None:
    result = FanOut(SMALL).measure(SERVERS[server], NO_CORES)
    checks = result["checks"]
    assert checks["messages"] == checks["expected"] == 50 * 120
    assert (checks["lost"], checks["duplicated"], checks["out_of_order"]) == (0, 0, 0)
    assert checks["checked"] == 120 * checks["sampled"] > 0
    assert (checks["broken"], checks["failures"], checks["notes"]) == ({}, {}, {})
    assert result["setup"]["subscribed"] == 50
    assert result["cpu_per_delivery_us"] > 0
    assert 0 < result["latency_us"]["p50"] <= result["latency_us"]["p99"] < 10_000_000


@pytest.mark.parametrize("server", [name for name, kind in SERVING.items() if kind.multiplexes])
def test_topics_are_counted_right(server: str) -> None:
    load = Load(connections=30, topics=10, topics_each=4, rate=300, seconds=0.4, warm_up=0.1)
    checks = FanOut(load).measure(SERVERS[server], NO_CORES)["checks"]
    assert checks["messages"] == checks["expected"] == 150 * 30 * 4 / 10
    assert (checks["lost"], checks["duplicated"], checks["out_of_order"]) == (0, 0, 0)


def test_storm_and_what_it_does_to_others() -> None:
    alone = Storm(Load(connections=200)).measure(WsdServer, NO_CORES)
    assert (alone["setup"]["subscribed"], alone["setup"]["failures"]) == (200, {})
    assert alone["setup"]["cpu_per_session_us"] > 0
    standing = Load(connections=20, rate=50, seconds=0.5)
    both = Standing(Load(connections=200), standing).measure(WsdServer, NO_CORES)
    assert both["setup"]["subscribed"] == 200
    assert both["checks"]["complete"] and both["checks"]["lost"] == 0
    assert both["calm_us"]["p90"] > 0
    assert both["calm_us"]["p99.9"] is None, "of 500 values"


def test_storm_at_a_rate_of_clients_that_think() -> None:
    result = Storm(Load(connections=60), ramp=100.0, think=0.1).measure(WsdServer, NO_CORES)
    assert (result["setup"]["subscribed"], result["setup"]["failures"]) == (60, {})
    assert result["setup"]["seconds"] >= 0.6


def test_clients_come_back_after_a_restart() -> None:
    result = Restart(Load(connections=20)).measure(WsdServer, NO_CORES)
    assert (result["returned"], result["away"]) == (20, 0)
    assert result["seconds"] >= result["down"] > 0
    assert result["cpu_per_return_us"] > 0


def test_a_burst_over_several_topics_beside_clients_that_do_not_read() -> None:
    load = Load(connections=10, topics=3, topics_each=2, size=150)
    result = Burst(load, messages=600, stalled=3).measure(WsdServer, NO_CORES)
    assert result["checks"]["complete"]
    assert not result["checks"]["out_of_order"]
    assert result["stops"]["asked"] > 0
    assert 0 < result["stops"]["longest"] < 60
    assert 0 <= result["memory_growth"] < 64 * 2**20


@pytest.mark.parametrize(("server", "subscribers"), [("links-1", 1), ("links-4", 4), ("wsd", 1)])
def test_what_redis_pays_is_told_by_its_subscribers(server: str, subscribers: int) -> None:
    load = Load(connections=20, topics=30, topics_each=15, rate=600, seconds=0.5, warm_up=0.2)
    result = Feeding(load).measure(SERVERS[server], NO_CORES)
    assert result["subscribers"] == subscribers
    assert 0 < result["messages"] <= 600 * 0.7
    assert result["cpu_per_message_us"] > 0
    assert result["cpu_per_copy_us"] == pytest.approx(result["cpu_per_message_us"] / subscribers)
    assert result["shares"]["redis"] > 0


def test_soak_with_visitors_and_slow_readers() -> None:
    load = Load(connections=20, rate=200, size=5000, seconds=2.5, drain=PATIENCE)
    result = Soak(load, churn=20, slow=3).measure(WsdServer, NO_CORES)
    assert result["churned"] > 10
    assert result["churn_failures"] == {}
    # 1 MB a second to those who read 2 kB of it. That the daemon has given them up they see only when they have read
    # what the kernel holds for them; but the others lose nothing, and nothing grows.
    assert result["memory_growth"] < 16 * 2**20
    assert result["checks"]["complete"] and result["checks"]["lost"] == 0
    assert len(result["samples"]) > 10
    assert result["samples"][-1]["threads"] >= 1
    assert abs(result["threads_growth"]) <= 1
    # A few tasks, however many clients there are.
    assert 0 < result["samples"][-1]["tasks"] < 20
    assert abs(result["tasks_growth"]) <= 10


def test_generator_that_is_the_limit_is_marked() -> None:
    shares = {"generator": 0.9, "publisher": 0.0, "redis": 0.0}
    assert verdicts({"kind": "fan-out", "shares": shares}, Cores((0,), (1,))) == ["generator-bound"]
    shares = {"generator": 0.5, "publisher": 0.3, "redis": 0.2}
    assert verdicts({"kind": "fan-out", "shares": shares}, Cores((0,), (1,))) == ["generator-bound"]
    assert verdicts({"kind": "fan-out", "shares": shares}, Cores((0,), (1, 2))) == []
    setup = {"generator_share": 0.99, "failures": {}}
    assert verdicts({"kind": "storm", "setup": setup}, Cores((0,), (1,))) == ["generator-bound"]


def test_percentile_of_few_values_is_not_told() -> None:
    histogram = Histogram()
    for value in range(1, 1001):
        histogram.add(value)
    told = percentiles(histogram)
    assert told["p99"] == pytest.approx(990, rel=0.032)
    assert told["p99.9"] is None and told["max"] == pytest.approx(1000, rel=0.032)
    assert percentiles(Histogram()) == dict.fromkeys(told)


def test_what_others_take_is_told() -> None:
    shard = {"at": 0}
    before = Reading(0, 1.0, 1.0, Busy(10.0, 1.0), Busy(20.0, 2.0), shard)
    after = Reading(2_000_000_000, 2.0, 1.5, Busy(11.5, 1.2), Busy(21.5, 2.1), shard)
    # Of the server's core 1.5 s were used, 1 s of them by the server; of the load's 1.5 s, 0.5 s by Redis, 1 s by us.
    assert disturbance(before, after, 1.0) == {"disturbance": pytest.approx(0.25), "stolen": pytest.approx(0.1)}
    # Where both have the same cores, what one side used is no disturbance of the other.
    before = Reading(0, 1.0, 1.0, Busy(10.0, 1.0), Busy(10.0, 1.0), shard, shared=True)
    after = Reading(2_000_000_000, 2.0, 1.5, Busy(13.0, 1.2), Busy(13.0, 1.2), shard, shared=True)
    assert disturbance(before, after, 1.0)["disturbance"] == pytest.approx(0.25)


def test_workers_get_cores_of_their_own_where_there_are_some_left_for_the_load() -> None:
    two, eight = Cores((0,), (1,)), Cores((0,), tuple(range(1, 8)))
    assert two.for_workers(1) is two and not two.shared
    assert two.for_workers(2) == Cores((0, 1), (0, 1)) and two.for_workers(2).shared
    assert eight.for_workers(4) == Cores((0, 1, 2, 3), (4, 5, 6, 7)) and not eight.for_workers(4).shared
    assert NO_CORES.for_workers(4) == NO_CORES


def test_machine_that_is_the_limit_is_marked() -> None:
    result = {"kind": "fan-out", "shares": {"generator": 0.6, "publisher": 0.2}, "server_share": 1.15}
    assert verdicts(result, Cores((0, 1), (0, 1))) == ["machine-bound"]
    assert verdicts(result, Cores((0, 1), (2, 3))) == []
    assert verdicts(result | {"server_share": 1.0}, Cores((0, 1), (0, 1))) == []
