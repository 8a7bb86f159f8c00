"""Locust's front of the suite as its users start it, against a real Redis and a real wsd. All runs go at once."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from signal import SIGTERM
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
from redis import Redis

from bench.load.wire import pad, payload, topic_name
from bench.processes import Program, free_port
from bench.servers.process import RedisServer
from bench.servers.server import KEY
from bench.servers.wsd import WsdServer
from tests import ROOT
from tests.lib.waiting import PATIENCE

pytestmark = pytest.mark.skipif(find_spec("locust") is None, reason="needs the extra bench")

FILE = ROOT / "bench" / "locust" / "locustfile.py"
TOPICS = 4
SUBSCRIBERS = 30
RATE = 100


class Locust:
    """``locust`` with the suite's file.

    Args:
        arguments: what follows the file on the command line.
    """

    def __init__(self, arguments: str) -> None:
        self.web = free_port()
        command = f"{sys.executable} -m locust -f {FILE} --web-host 127.0.0.1 --web-port {self.web} {arguments}"
        self.program = Program(command.split(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.lines: list[str] = []
        self._grown = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        for line in self.program.stdout:
            with self._grown:
                self.lines.append(line.decode())
                self._grown.notify_all()

    @property
    def log(self) -> str:
        return "".join(self.lines)

    def wait_for(self, words: str) -> None:
        with self._grown:
            assert self._grown.wait_for(lambda: words in self.log, PATIENCE), self.log

    def get(self, path: str, **form: object) -> str:
        """What its page answers, once it does; a form is posted."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                data = urlencode(form).encode() if form else None
                with urlopen(f"http://127.0.0.1:{self.web}{path}", data, timeout=PATIENCE) as response:
                    return str(response.read().decode())
            except ConnectionError:
                assert time.monotonic() < deadline and self.program.status is None, self.log
                time.sleep(0.1)

    def eventually(self, path: str, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """What its page answers, once something is true of that."""
        deadline = time.monotonic() + PATIENCE
        while not condition(answer := json.loads(self.get(path))):
            assert time.monotonic() < deadline, answer
            time.sleep(0.1)
        return dict(answer)

    def end(self) -> int:
        """End it as an operator does, unless it has ended; return its exit status."""
        if self.program.status is None:
            self.program.signal(SIGTERM)
        return self.ended()

    def ended(self) -> int:
        """Wait for its end; return its exit status."""
        status = self.program.wait(PATIENCE)
        self._reader.join()
        return status

    def close(self) -> None:
        self.program.kill()
        self._reader.join()
        self.program.stdout.close()


class Runs:
    """Four runs that go at once."""

    def __init__(self, folder: Path, redis: RedisServer, wsd: WsdServer) -> None:
        self.redis, self.folder = redis, folder
        key, other = folder / "key", folder / "other"
        key.write_text(KEY + "\n")
        other.write_text("quite another secret, of which wsd knows nothing")
        servers = f"""
            --wsd-hosts 127.0.0.1:{wsd.port} --wsd-admin 127.0.0.1:{wsd.admin_port}
            --wsd-redis-url redis://127.0.0.1:{redis.port}"""
        load = f"--wsd-connections 40 --wsd-topics {TOPICS} --wsd-subscribers {SUBSCRIBERS} --wsd-rate {RATE}"
        ramp = "--wsd-ramp 400 --wsd-think 0.05 --wsd-visitors 5 --wsd-churn 20 --wsd-slow 2"
        files = f"--json-file {folder}/all --csv {folder}/all --csv-full-history"
        self.all_classes = Locust(f"--headless -r 10 {servers} {load} {ramp} {files} --wsd-key-file {key}")
        self.refused = Locust(f"--headless {servers} {load} --wsd-key-file {other} Listener")
        # These publish elsewhere, because what one run publishes must not reach the clients of another.
        self.shaped = Locust("--wsd-own --wsd-connections 20")
        port = free_port()
        processes = f"--processes 2 --master-bind-port {port} --master-port {port} --autostart"
        self.workers = Locust(f"{processes} -r 10 --wsd-own {load} --json-file {folder}/workers Listener")

    def entries(self, name: str) -> dict[str, Any]:
        """The statistics of a run in its JSON file, by the name of the row."""
        return {entry["name"]: entry for entry in json.loads((self.folder / f"{name}.json").read_text())}

    def table(self, name: str) -> list[dict[str, str]]:
        """A file of the run with all classes."""
        return [*csv.DictReader(StringIO((self.folder / f"all_{name}.csv").read_text()))]

    def close(self) -> None:
        for run in (self.all_classes, self.shaped, self.refused, self.workers):
            run.close()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        started = Runs(tmp_path_factory.mktemp("locust"), redis, stack.enter_context(WsdServer(redis)))
        stack.callback(started.close)
        yield started


def published(locust: Locust) -> int:
    """Messages that the publisher says it has published."""
    found = re.search(r"Published (\d+) messages in", locust.log)
    assert found, locust.log
    return int(found[1])


def test_every_message_is_counted_and_what_comes_twice_is_a_failure(runs: Runs) -> None:
    locust = runs.all_classes
    locust.wait_for("Publishing")
    with Redis(port=runs.redis.port) as client:
        client.publish(topic_name(0), payload(0, 0, time.monotonic_ns(), pad(100)))
    locust.wait_for("WS visitor message")
    assert locust.end() == 1, locust.log
    assert 'Listener": 3' in locust.log  # as many users as 4 x 30 subscribers need, at 40 each
    assert KEY not in locust.log
    stats = runs.entries("all")
    message, session = stats["message"], stats["session"]
    assert published(locust) > 0
    assert message["num_requests"] == published(locust) * SUBSCRIBERS + SUBSCRIBERS
    assert 0 < sum(message["response_times"].values()) <= message["num_requests"]
    assert session["num_requests"] == sum(session["response_times"].values()) == TOPICS * SUBSCRIBERS
    # So few connections are all sampled.
    failures = [(row["Name"], row["Error"], int(row["Occurrences"])) for row in runs.table("failures")]
    assert failures == [("message", "duplicated (on sampled connections)", SUBSCRIBERS)]
    assert stats["visitor session"]["num_requests"] > 5
    assert stats["slow session"]["num_requests"] == 2


def test_files_and_terminal_say_the_same(runs: Runs) -> None:
    locust = runs.all_classes
    stats = runs.entries("all")
    rows = {row["Name"]: row for row in runs.table("stats")}
    *_, last = runs.table("stats_history")
    for name in ("message", "session", "visitor message"):
        assert int(rows[name]["Request Count"]) == stats[name]["num_requests"]
    assert int(last["Total Request Count"]) == int(rows["Aggregated"]["Request Count"])
    assert any(float(rows["message"][name]) % 1 for name in ("50%", "66%", "75%", "80%", "90%", "95%", "99%"))
    # Messages to visitors are counted and not timed: that is no 0.
    assert {rows["visitor message"][name] for name in ("50%", "99%", "Median Response Time")} == {"N/A"}
    assert re.search(r"^WS message +\d+ +\d+ +\d+\.\d+ ", locust.log, re.MULTILINE), locust.log
    # The rate is that of what was delivered, from the first message to the last.
    seconds = stats["message"]["num_requests"] / float(rows["message"]["Requests/s"])
    found = re.search(r"Published \d+ messages in ([\d.]+) s", locust.log)
    assert found and seconds == pytest.approx(float(found[1]), rel=0.25)


def test_a_run_that_cannot_be_says_why(runs: Runs) -> None:
    assert runs.refused.ended() == 1, runs.refused.log
    assert re.search("The run failed: .*session unauthorized", runs.refused.log)
    assert "Traceback" not in runs.refused.log


def test_the_form_chooses_the_shape(runs: Runs) -> None:
    locust = runs.shaped
    page = locust.get("/")
    assert 'href="./wsd"' in page
    assert '"wsd_shape"' in page and '"storm"' in page
    form = {"user_count": 1, "spawn_rate": 1, "host": "", "wsd_rate": RATE, "wsd_storm_seconds": 1}
    answer = json.loads(locust.get("/swarm", **form, wsd_shape="storm", user_classes="Listener"))
    assert "Storm" in answer["message"], answer
    locust.wait_for("Storm 1: everyone reconnects")

    def sessions(stats: dict[str, Any]) -> int:
        return sum(row["num_requests"] for row in stats["stats"] if row["name"].endswith("session"))

    locust.eventually("/stats/requests", lambda stats: sessions(stats) >= 20)
    locust.get("/stop", nothing="")
    locust.wait_for("Published")
    assert locust.end() == 0, locust.log


def test_workers_and_the_page(runs: Runs) -> None:
    locust = runs.workers
    locust.wait_for("Publishing")
    assert "Deliveries per second" in locust.get("/wsd")

    def shown(data: dict[str, Any]) -> list[dict[str, Any]]:
        return [second for second in data["seconds"] if second.get("deliveries") and "wsd" in second["cpu"]]

    data = locust.eventually("/wsd/data", lambda data: bool(shown(data)))
    assert data["daemon"]
    assert not data["failure"]
    most = max(shown(data), key=lambda second: int(second["deliveries"]))
    assert most["latency"]["p50"] > 0
    assert most["memory"]["wsd"] > 1 << 20
    assert most["memory"]["locust"] > 1 << 20
    locust.get("/stop", nothing="")
    locust.wait_for("Published")
    assert locust.end() == 0, locust.log
    stats = runs.entries("workers")
    assert published(locust) > 0
    assert stats["message"]["num_requests"] == published(locust) * SUBSCRIBERS
    assert stats["message"]["num_failures"] == 0
    assert stats["session"]["num_requests"] == TOPICS * SUBSCRIBERS
