"""Locust's front of the suite as its users start it, against a real Redis and a real wsd."""

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
from urllib.error import URLError
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
LOAD = f"--wsd-connections 40 --wsd-topics {TOPICS} --wsd-subscribers {SUBSCRIBERS} --wsd-rate {RATE}"


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
            except URLError:
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


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], Locust]]:
    """Starts Locust, which ends with the test."""
    with ExitStack() as stack:

        def start(arguments: str) -> Locust:
            started = Locust(arguments)
            stack.callback(started.close)
            return started

        yield start


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def servers(redis: RedisServer) -> Iterator[str]:
    """The options that name a Redis and a wsd which asks for tokens."""
    with WsdServer(redis) as wsd:
        yield (
            f"--wsd-hosts 127.0.0.1:{wsd.port} --wsd-admin 127.0.0.1:{wsd.admin_port}"
            f" --wsd-redis-url redis://127.0.0.1:{redis.port}"
        )


def table(path: Path) -> list[dict[str, str]]:
    """A file of ``--csv``."""
    return [*csv.DictReader(StringIO(path.read_text()))]


def published(locust: Locust) -> tuple[int, float]:
    """Messages that the publisher says it has published, and in how many seconds."""
    found = re.search(r"Published (\d+) messages in ([\d.]+) s", locust.log)
    assert found, locust.log
    return int(found[1]), float(found[2])


def counted(stats: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The rows of Locust's page, by their names."""
    return {row["name"]: row for row in stats["stats"]}


def test_all_classes(start: Callable[[str], Locust], servers: str, redis: RedisServer, tmp_path: Path) -> None:
    """Every message is counted, what comes twice is a failure, and the files and the terminal say the same."""
    key = tmp_path / "key"
    key.write_text(KEY + "\n")
    clients = "--wsd-ramp 400 --wsd-think 0.05 --wsd-visitors 5 --wsd-churn 20 --wsd-slow 2"
    files = f"--csv {tmp_path}/all --csv-full-history"
    locust = start(f"--autostart -r 10 {servers} {LOAD} {clients} {files} --wsd-key-file {key}")
    locust.wait_for("Publishing")
    with Redis(port=redis.port) as client:
        client.publish(topic_name(0), payload(0, 0, time.monotonic_ns(), pad(100)))

    def seen(stats: dict[str, Any]) -> bool:
        rows = counted(stats)
        names = {"message", "session", "visitor message", "visitor session", "slow session"}
        return names <= rows.keys() and rows["message"]["num_failures"] and rows["visitor session"]["num_requests"] > 5

    locust.eventually("/stats/requests", seen)
    assert locust.end() == 1, locust.log
    assert 'Listener": 3' in locust.log  # as many users as 4 x 30 subscribers need, at 40 each
    assert KEY not in locust.log
    rows = {row["Name"]: row for row in table(tmp_path / "all_stats.csv")}
    counts = {name: int(row["Request Count"]) for name, row in rows.items()}
    messages, seconds = published(locust)
    assert counts["message"] == messages * SUBSCRIBERS + SUBSCRIBERS
    assert (counts["session"], counts["slow session"]) == (TOPICS * SUBSCRIBERS, 2)
    assert counts["Aggregated"] == counts["message"] + counts["visitor message"]
    # So few connections are all sampled.
    failures = [(row["Name"], row["Error"], int(row["Occurrences"])) for row in table(tmp_path / "all_failures.csv")]
    assert failures == [("message", "duplicated (on sampled connections)", SUBSCRIBERS)]
    assert int(table(tmp_path / "all_stats_history.csv")[-1]["Total Request Count"]) == counts["Aggregated"]
    assert any(float(rows["message"][name]) % 1 for name in ("50%", "66%", "75%", "80%", "90%", "95%", "99%"))
    # Messages to visitors are counted and not timed: that is no 0.
    assert {rows["visitor message"][name] for name in ("50%", "99%", "Median Response Time")} == {"N/A"}
    # The rate is that of what was delivered, from the first message to the last.
    assert counts["message"] / float(rows["message"]["Requests/s"]) == pytest.approx(seconds, rel=0.3, abs=1)
    printed = locust.log.rpartition("Response time percentiles, ms")[0]
    assert re.search(rf"^WS message +{counts['message']} +{SUBSCRIBERS} +\d+\.\d+ ", printed, re.MULTILINE), locust.log


def test_a_run_that_cannot_be_says_why(start: Callable[[str], Locust], servers: str, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("quite another secret, of which wsd knows nothing")
    locust = start(f"--headless {servers} {LOAD} --wsd-key-file {key} Listener")
    assert locust.ended() == 1, locust.log
    assert re.search("The run failed: .*session unauthorized", locust.log)
    assert "Traceback" not in locust.log


def test_the_form_chooses_the_shape(start: Callable[[str], Locust]) -> None:
    locust = start("--wsd-own --wsd-connections 20")
    page = locust.get("/")
    assert 'href="./wsd"' in page
    assert '"wsd_shape"' in page and '"storm"' in page
    form = {"user_count": 3, "spawn_rate": 3, "host": "", "wsd_rate": RATE, "wsd_storm_seconds": 1}
    answer = json.loads(locust.get("/swarm", **form, wsd_shape="storm"))
    assert "Storm" in answer["message"], answer
    locust.wait_for("Storm 1: everyone reconnects")
    locust.eventually("/stats/requests", lambda stats: counted(stats)["session"]["num_requests"] >= 2 * 20)
    locust.get("/stop", nothing="")
    locust.wait_for("Published")
    assert locust.end() == 0, locust.log


def test_workers_and_the_page(start: Callable[[str], Locust], tmp_path: Path) -> None:
    port = free_port()
    processes = f"--processes 2 --master-bind-port {port} --master-port {port} --autostart"
    locust = start(f"{processes} -r 10 --wsd-own {LOAD} --json-file {tmp_path}/workers Listener")
    locust.wait_for("Publishing")

    def shown(data: dict[str, Any]) -> list[dict[str, Any]]:
        return [second for second in data["seconds"] if second.get("deliveries") and "wsd" in second["cpu"]]

    data = locust.eventually("/wsd/data", lambda data: bool(shown(data)))
    assert "Deliveries per second" in locust.get("/wsd")
    assert data["daemon"]
    assert not data["failure"]
    most = max(shown(data), key=lambda second: int(second["deliveries"]))
    assert most["latency"]["p50"] > 0
    assert most["memory"]["wsd"] > 1 << 20
    assert most["memory"]["locust"] > 1 << 20
    locust.get("/stop", nothing="")
    locust.wait_for("Published")
    assert locust.end() == 0, locust.log
    stats = {entry["name"]: entry for entry in json.loads((tmp_path / "workers.json").read_text())}
    messages, _ = published(locust)
    assert stats["message"]["num_requests"] == messages * SUBSCRIBERS > 0
    assert stats["message"]["num_failures"] == 0
    session = stats["session"]
    assert session["num_requests"] == sum(session["response_times"].values()) == TOPICS * SUBSCRIBERS
