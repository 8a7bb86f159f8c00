"""The parts of Locust's front, without a Locust that runs: options, statistics, tables, shapes, the order of events."""

# Locust is typed, but not all of it.
# mypy: untyped-calls-exclude=locust

from __future__ import annotations

import csv
import io
import os
import re
import time
from argparse import Namespace
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

if find_spec("locust") is None:
    pytest.skip("needs the extra bench", allow_module_level=True)

# Importing Locust replaces half of the standard library by gevent's. Other tests in this process need the original.
os.environ["LOCUST_SKIP_MONKEY_PATCH"] = "1"
from locust import User
from locust.argument_parser import LocustArgumentParser, get_empty_argument_parser, setup_parser_arguments
from locust.env import Environment
from locust.event import Events
from locust.rpc import Message
from locust.stats import PERCENTILES_TO_REPORT, RequestStats
from locust.web import WebUI

from bench.load.histogram import Histogram
from bench.locust import replicas
from bench.locust.conductor import Conductor
from bench.locust.options import KEY_VARIABLE, OptionError, Options, add_options
from bench.locust.page import add_page, plots
from bench.locust.run import Run, WorkerNow
from bench.locust.shapes import SHAPES, Shape
from bench.locust.stats import Change, Second, Timeline, Watch, record
from bench.locust.tables import Tables, for_page, percentile_summary, summary
from tests import ROOT

del os.environ["LOCUST_SKIP_MONKEY_PATCH"]

HOSTS = ("--wsd-hosts", "127.0.0.1:1")


def parsed(*arguments: str) -> Namespace:
    parser = get_empty_argument_parser()
    setup_parser_arguments(parser)
    add_options(parser)
    options: Namespace = parser.parse_args(["--headless", "-u", "4", "-r", "2", *arguments])
    return options


def options(*arguments: str) -> Options:
    return Options.read(parsed(*HOSTS, *arguments), None)


def histogram(*values: int) -> Histogram:
    made = Histogram()
    for value in values:
        made.add(value)
    return made


# Options.


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--wsd-redis-url", "redis://:hush@127.0.0.1"], "--wsd-redis-url: the publisher doesn't log in"),
        (["--wsd-redis-url", "127.0.0.1:6379"], "--wsd-redis-url: not redis://HOST:PORT"),
        (["--wsd-size", "10"], "--wsd-size: a payload of the suite has at least"),
        (["--wsd-key-file", "/nowhere"], "--wsd-key-file: "),
        (["--wsd-rate", "0"], "--wsd-rate must be above 0"),
        (["--wsd-ramp", "-1"], "--wsd-ramp can't be below 0"),
        (["--wsd-topics-each", "2"], "--wsd-topics-each can't be more than --wsd-topics"),
        (["--wsd-admin", "http://127.0.0.1:x"], "--wsd-admin: "),
    ],
)
def test_options_that_cannot_be_are_named(arguments: list[str], says: str) -> None:
    with pytest.raises(OptionError, match=says) as caught:
        options(*arguments)
    assert "hush" not in str(caught.value)


def test_a_listener_takes_its_part_of_the_subscribers() -> None:
    read = options("--wsd-topics", "4", "--wsd-subscribers", "30", "--wsd-connections", "50", "--wsd-ramp", "100")
    plans = [read.listener(slot, from_start=True) for slot in range(4)]
    assert [plan.count for plan in plans] == [50, 50, 20, 0]
    topics = Counter((plan.first + place) % 4 for plan in plans for place in range(plan.count))
    assert set(topics.values()) == {30}
    assert [read.turn(slot) for slot in range(3)] == [0.0, 0.5, 1.0]


def test_clients_are_as_patient_as_they_are_told() -> None:
    read = options("--wsd-ramp", "10", "--wsd-think", "0.5", "--wsd-reconnect")
    for plan in (read.listener(0, from_start=False), read.churner()):
        assert (plan.ramp, plan.think, plan.reconnect) == (10.0, 0.5, True)
    assert not read.slow_reader().reconnect


def test_the_key_comes_from_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "of the environment")
    assert options().key == "of the environment"
    own = tmp_path / "own"
    own.write_text("of this machine\n")
    assert Options.read(parsed(*HOSTS, "--wsd-key-file", "/of/the/master"), None, str(own)).key == "of this machine"


# Statistics.


def answer(at: int, **counted: object) -> dict[str, Any]:
    """What a shard says: at so many seconds of its clock."""
    nothing: dict[str, Any] = dict.fromkeys(
        ("connections", "messages", "bytes", "left", "returned", "last_message", "lost", "duplicated", "out_of_order"),
        0,
    )
    nothing |= {name: {} for name in ("latencies", "setups", "failures", "closes", "broken", "notes")}
    return {"at": at * 10**9, "cpu": at * 0.5, "groups": {"listeners": nothing | counted}}


def test_a_watch_tells_what_is_new() -> None:
    watch = Watch("listeners")
    watch.look(answer(10, messages=5, setups=histogram(100).dump(), closes={"1012": 1}, broken={"EOF": 1}))
    change = watch.look(
        answer(12, messages=9, setups=histogram(100, 200).dump(), closes={"1012": 1}, broken={"EOF": 3}, returned=2)
    )
    assert (change.deliveries, change.returned, len(change.setups)) == (4, 2, 1)
    assert change.faults == {"connection ended: EOF": 2}
    assert change.share == 0.5


def test_a_watch_knows_when_the_last_message_came() -> None:
    watch = Watch("listeners")
    change = watch.look(answer(10, messages=5, last_message=7 * 10**9))
    assert change.looked - change.last_message == pytest.approx(3.0)
    silent = watch.look(answer(20, messages=5, last_message=7 * 10**9))
    assert silent.last_message == silent.looked
    assert silent.began == change.looked


def test_lost_and_duplicated_messages_are_faults() -> None:
    change = Watch("listeners").look(answer(1, lost=2, duplicated=1, failures={"EOF": 3}, notes={"what": 1}))
    assert change.faults == {
        "lost (on sampled connections)": 2,
        "duplicated (on sampled connections)": 1,
        "could not subscribe: EOF": 3,
        "unexpected message: what": 1,
    }


@pytest.fixture
def stats() -> RequestStats:
    """100 sessions made in 2 seconds, then 500 messages in 5, of which ten were timed; and 50 that nobody timed."""
    made, now = RequestStats(), time.time()
    record(made, "session", count=100, times=histogram(*range(100)), began=now - 9, ended=now - 7, total=False)
    made.total.start_time = now - 5
    record(made, "message", count=500, times=histogram(*[1000] * 10), size=5000, ended=now)
    record(made, "slow message", count=50, times=Histogram(), ended=now)
    return made


def test_the_total_is_what_was_delivered(stats: RequestStats) -> None:
    assert stats.total.num_requests == 550
    assert stats.total.num_none_requests == 540
    assert stats.total.total_rps == pytest.approx(110, rel=0.01)


def test_failures_of_sessions_count_in_the_total(stats: RequestStats) -> None:
    now = time.time()
    faults = Counter({"no": 3})
    record(stats, "session", count=0, times=Histogram(), began=now, ended=now, faults=faults, total=False)
    assert (stats.total.num_failures, stats.total.num_requests) == (3, 550)
    assert [error.occurrences for error in stats.errors.values()] == [3]


def test_seconds_of_several_generators_add_up() -> None:
    line = Timeline()
    for connections in (10, 20):
        second = Second(reported=True, connections=connections, machine=connections / 100, cpu={"shards": 0.5})
        second.add(Change(deliveries=5, returned=1, latencies=histogram(*[1000] * 20)))
        line.merge(7, Second.load(second.dump()))
    (chart,) = line.charts(6, 8)
    assert (chart["deliveries"], chart["connections"], chart["machine"], chart["cpu"]) == (10, 30, 0.2, {"shards": 1.0})
    assert chart["latency"]["p50"] == pytest.approx(1.0, rel=0.03)
    assert (line.deliveries, line.returned, len(line.latencies)) == (10, 2, 40)


def test_a_second_that_no_generator_has_told_of_has_no_numbers() -> None:
    line = Timeline()
    line.at(7).memory["wsd"] = 1
    assert line.charts(0, 9) == [{"at": 7, "cpu": {}, "memory": {"wsd": 1}, "workers": {}, "latency": {}, "setup": {}}]


def test_a_percentile_of_too_few_is_none() -> None:
    line = Timeline()
    line.merge(7, Second(reported=True, latencies=histogram(*range(30))))
    assert line.charts(0, 9)[0]["latency"].keys() == {"p50"}


def test_what_comes_late_is_drawn_too() -> None:
    line = Timeline()
    for deliveries in (3, 6):
        line.merge(7, Second(reported=True, deliveries=3))
        assert line.charts(0, 9)[0]["deliveries"] == deliveries


# Tables.


def requests_file(stats: RequestStats) -> dict[str, dict[str, str]]:
    environment = Environment(events=Events())
    environment.stats = stats
    text = io.StringIO()
    Tables(environment, PERCENTILES_TO_REPORT).requests_csv(csv.writer(text))
    return {row["Name"]: row for row in csv.DictReader(text.getvalue().splitlines())}


def test_a_file_has_fractions_and_nothing_where_nothing_was_measured(stats: RequestStats) -> None:
    rows = requests_file(stats)
    assert float(rows["message"]["Median Response Time"]) == float(rows["Aggregated"]["99%"]) == 1.0
    slow = rows["slow message"]
    assert slow["Request Count"] == "50"
    assert {slow[name] for name in slow if "%" in name or "Time" in name or "Size" in name} == {"N/A"}


def test_sessions_are_measured_while_they_are_made(stats: RequestStats) -> None:
    rows = requests_file(stats)
    assert float(rows["session"]["Requests/s"]) == pytest.approx(50, rel=0.01)
    assert float(rows["message"]["Requests/s"]) == pytest.approx(100, rel=0.01)


def test_before_the_first_message_nothing_is_measured() -> None:
    (row,) = requests_file(RequestStats()).values()
    assert {row[name] for name in ("Requests/s", "Median Response Time", "99%")} == {"N/A"}


def test_the_terminal_shows_the_same(stats: RequestStats) -> None:
    counts = {line.split()[1]: line.split() for line in summary(stats, current=False) if line.startswith("WS ")}
    assert counts["message"][2:8] == ["500", "0", "1.0", "1.0", "1.0", "1.0"]
    assert counts["slow"][5:9] == ["-"] * 4
    lines = percentile_summary(stats)
    assert lines[-1].split() == ["Aggregated", *["1.0"] * len(PERCENTILES_TO_REPORT), "550"]


def test_locusts_page_gets_no_zero_for_what_was_not_timed(stats: RequestStats) -> None:
    shown = for_page(stats.get("slow message", "WS"))
    assert {value for name, value in shown.items() if "response_time" in name} == {"N/A"}
    assert for_page(stats.get("message", "WS"))["max_response_time"] == 1.0


# The page.


def test_no_line_is_drawn_over_seconds_that_were_not_measured() -> None:
    line = Timeline()
    for at in (1, 2, 5, 6):
        line.merge(at, Second(reported=True, deliveries=at * 100))
    line.at(3).memory["wsd"] = 1
    deliveries, *others = plots(line.charts(0, 9))
    assert [series.points for series in deliveries.series] == [[(0, 100), (1, 200)], [(4, 500), (5, 600)]]
    assert deliveries.figure().count("deliveries 600</span>") == 1
    assert [chart.title for chart in others if chart.y.title in ("ms", "% of a core")] == []


def page_of(run: Rehearsal) -> str:
    """What Locust's page shows of a run."""
    web_ui = WebUI(run.environment, "", 0, delayed_start=True)
    add_page(run.environment, web_ui, run.conductor)
    assert web_ui.app is not None
    text: str = web_ui.app.test_client().get("/wsd").get_data(as_text=True)
    return text


def test_the_page_says_what_a_reader_must_know(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["locust"])  # Locust's page reads it
    run = Rehearsal("--wsd-redis-url", redis_url)
    run.environment.stats.total.num_failures = 7
    run.conductor.run.untimed.add("a node")
    run.conductor.run.timeline.merge(int(time.time()) - 9, Second(reported=True, deliveries=1234))
    page = page_of(run)
    assert '<div class="bad"><b>7</b>faults</div>' in page
    assert "<b>1,234</b>delivered" in page
    assert "<b>\N{EN DASH}</b>latency p99" in page
    assert page.count('<p class="notice">') == 2  # nor does anybody tell the daemon's CPU
    assert "<figcaption>Deliveries per second</figcaption>" in page


METRICS = """\
# TYPE process_cpu_seconds_total counter
process_cpu_seconds_total {cpu}
# TYPE process_resident_memory_bytes gauge
process_resident_memory_bytes 5e+07
# TYPE wsd_slow_consumers_total counter
wsd_slow_consumers_total{{bound="bytes"}} 1
wsd_slow_consumers_total{{bound="age"}} 2
# TYPE wsd_worker_restarts_total counter
wsd_worker_restarts_total{{reason="died"}} {restarts}
# TYPE wsd_moves_total counter
wsd_moves_total{{result="in"}} {moved}
wsd_moves_total{{result="out"}} {moved}
wsd_moves_total{{result="gap"}} 4
# TYPE wsd_worker_connections gauge
wsd_worker_connections{{worker="0"}} {first}
wsd_worker_connections{{worker="1"}} {second}
# TYPE wsd_worker_cpu_seconds_total counter
wsd_worker_cpu_seconds_total{{worker="0"}} 1.5
wsd_worker_cpu_seconds_total{{worker="1"}} 2.5
"""


def test_the_workers_of_every_replica_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = {
        1: METRICS.format(cpu=5.0, restarts=7, moved=10, first=40, second=41),
        2: METRICS.format(cpu=6.0, restarts=0, moved=0, first=42, second=43),
    }
    monkeypatch.setattr(replicas, "scrape", lambda address: replicas.parse(pages[address[1]]))
    run = Run()
    watcher = replicas.Watcher([("a", 1), ("b", 2)], run)
    watcher.look()
    assert [(each.replica, each.number, each.connections, each.cpu) for each in run.workers] == [
        ("a:1", "0", 40, None),
        ("a:1", "1", 41, None),
        ("b:2", "0", 42, None),
        ("b:2", "1", 43, None),
    ]
    assert (run.given_up, run.restarts, run.moved) == (0, 0, 0), "that was before the run"
    pages[2] = METRICS.format(cpu=8.0, restarts=1, moved=85, first=0, second=85)
    watcher.look()
    assert [each.connections for each in run.workers] == [40, 41, 0, 85]
    assert run.workers[0].cpu == 0.0, "it has used nothing since"
    assert (run.given_up, run.restarts, run.moved) == (0, 1, 85), "who went out came in: one move"
    seconds = list(run.timeline.seconds.values())
    assert seconds[-1].workers == {"a:1 0": 40, "a:1 1": 41, "b:2 0": 0, "b:2 1": 85}
    assert seconds[-1].memory == {"wsd": 10**8}
    assert seconds[-1].cpu["wsd"] > 0
    assert run.summary()[1:] == ["wsd restarted 1 workers", "85 connections moved from one process to another"]


def test_a_replica_that_does_not_answer_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(address: tuple[str, int]) -> replicas.Scraped:
        raise ConnectionRefusedError

    run = Run()
    watcher = replicas.Watcher([("a", 1)], run)
    page = replicas.parse(METRICS.format(cpu=5.0, restarts=7, moved=10, first=40, second=41))
    monkeypatch.setattr(replicas, "scrape", lambda address: page)
    watcher.look()
    monkeypatch.setattr(replicas, "scrape", refuse)
    watcher.look()
    monkeypatch.setattr(replicas, "scrape", lambda address: page)
    watcher.look()
    assert [each.cpu for each in run.workers] == [None, None], "nobody knows since when"
    watcher.look()
    assert [each.cpu for each in run.workers] == [0.0, 0.0]


def test_the_page_shows_the_workers(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["locust"])  # Locust's page reads it
    run = Rehearsal("--wsd-redis-url", redis_url)
    run.conductor.run.workers = [WorkerNow("a:1", "0", 1234, 0.25), WorkerNow("a:1", "1", 5, None)]
    run.conductor.run.restarts = 3
    run.conductor.run.timeline.at(int(time.time()) - 9).workers = {"0": 1234, "1": 5}
    page = page_of(run)
    assert '<td>a:1</td><td>0</td><td class="number">1,234</td><td class="number">25%</td>' in page
    assert '<td>1</td><td class="number">5</td><td class="number">\N{EN DASH}</td>' in page
    assert "<b>3</b>workers restarted" in page and "moved to another process" not in page
    assert "<figcaption>Connections by worker</figcaption>" in page and "worker 0: 1" in page


# Shapes.


def shape(kind: type[Shape], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Shape:
    environment = Environment(events=Events(), parsed_options=parsed(*arguments))
    made = kind()
    made.runner = environment.create_local_runner()
    return made


def at(made: Shape, seconds: float) -> tuple[int, float] | None:
    """What a shape wants so many seconds after its begin."""
    made.start_time = time.perf_counter() - seconds
    return made.tick()


def test_steps_go_up_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = shape(SHAPES["steps"], monkeypatch, "--wsd-steps", "3", "--wsd-step-seconds", "10")
    assert [at(steps, seconds) for seconds in (1, 11, 21, 31)] == [(2, 2.0), (3, 2.0), (4, 2.0), None]


def test_a_storm_comes_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    storms: list[int] = []
    monkeypatch.setattr(Shape, "storm", staticmethod(lambda: storms.append(1)))
    storm = shape(SHAPES["storm"], monkeypatch, "--wsd-storm-seconds", "10")
    assert [at(storm, seconds) for seconds in (1, 9, 11, 12, 21)] == [(4, 2.0)] * 5
    assert len(storms) == 2


def test_the_run_time_ends_every_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in SHAPES.values():
        made = shape(kind, monkeypatch)
        assert made.runner is not None
        assert made.runner.environment.parsed_options is not None
        made.runner.environment.parsed_options.run_time = 5
        assert at(made, 4) is not None
        assert at(made, 6) is None


# The conductor.


class Rehearsal:
    """A conductor, and what it says to the nodes."""

    def __init__(self, *arguments: str, host: str | None = "127.0.0.1:1") -> None:
        self.environment = Environment(
            user_classes=[type("Someone", (User,), {"tasks": [print]})],
            events=Events(),
            parsed_options=parsed(*arguments),
            host=host,
        )
        runner = self.environment.create_local_runner()
        self.conductor = Conductor(self.environment)
        self.places: list[dict[str, Any]] = []
        runner.register_message("wsd-place", lambda environment, msg: self.places.append(msg.data))
        self.runner = runner
        self.environment.events.test_start.fire(environment=self.environment)

    def say(self, message: str, **said: object) -> None:
        """What a node says."""
        listener, _ = self.runner.custom_messages[f"wsd-{message}"]
        listener(environment=self.environment, msg=Message(f"wsd-{message}", said, "a node"))

    def join(self, name: str, kind: str = "Listener") -> dict[str, Any]:
        """A user comes; where it is sent."""
        self.say("join", name=name, kind=kind)
        return self.places[-1]


@pytest.fixture
def redis_url(redis: Any) -> str:
    return str(redis.url)


def test_users_get_slots_that_are_free(redis_url: str) -> None:
    run = Rehearsal("--wsd-redis-url", redis_url)
    assert [run.join("a")["slot"], run.join("b")["slot"], run.join("c", "Churner")["slot"]] == [0, 1, 0]
    run.say("leave", name="a")
    assert run.join("d")["slot"] == 0


def test_a_ramp_lets_users_come_in_their_turn(redis_url: str) -> None:
    run = Rehearsal("--wsd-redis-url", redis_url, "--wsd-ramp", "100", "--wsd-connections", "1000")
    waits = [run.join(name)["wait"] for name in "abc"]
    assert waits == pytest.approx([0, 10, 20], abs=5)


def test_in_a_storm_nobody_is_there_from_the_start(redis_url: str) -> None:
    run = Rehearsal("--wsd-redis-url", redis_url)
    assert run.join("a")["from_start"]
    run.environment.shape_class = SHAPES["storm"]()
    assert not run.join("b")["from_start"]


@pytest.mark.parametrize(
    ("arguments", "host", "says"),
    [
        (["--wsd-redis-url", "redis://127.0.0.1:1"], "127.0.0.1:1", "no Redis at redis://127.0.0.1:1: "),
        ([], None, "say which wsd to measure"),
        (["--wsd-size", "10"], "127.0.0.1:1", "--wsd-size: a payload of the suite has at least"),
    ],
)
def test_a_run_that_cannot_be_is_given_up(arguments: list[str], host: str | None, says: str) -> None:
    run = Rehearsal(*arguments, host=host)
    assert run.conductor.run.failure.startswith(says)
    assert run.environment.process_exit_code == 1
    run.say("join", name="a", kind="Listener")
    assert run.places == []


def test_a_reader_is_told_what_limits_the_numbers() -> None:
    run = Run()
    assert run.verdicts() == []
    run.timeline.merge(1, Second(reported=True, generator=0.9, machine=0.99))
    run.untimed.add("a node")
    assert [verdict.partition(":")[0] for verdict in run.verdicts()] == [
        "generator-bound",
        "machine-bound",
        "untimed",
    ]


def test_the_summary_has_what_was_measured() -> None:
    run = Run(published=3)
    assert run.summary() == ["Published 3, delivered 0"]
    run.timeline.merge(1, Second(reported=True, deliveries=4, returned=2, latencies=histogram(1000)))
    run.given_up = 5
    assert run.summary() == [
        "Published 3, delivered 4; p50 1.00 ms, p99 1.00 ms",
        "wsd gave up 5 slow clients",
        "2 connections that had ended or failed came back",
    ]


# The paper.


def test_the_paper_names_options_that_exist() -> None:
    parser = LocustArgumentParser()
    add_options(parser)
    known = {option for action in parser._actions for option in action.option_strings}
    named = set(re.findall(r"--wsd-[a-z-]+[a-z]", (ROOT / "bench" / "locust" / "README.md").read_text()))
    assert named <= known
    assert known - named <= {"-h", "--help", "--wsd-topics-each"}
