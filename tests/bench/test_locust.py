"""Locust's front of the suite, as its users start it: in processes of its own, against a real Redis and a real wsd.

Never imported here: ``import locust`` replaces half of the standard library by gevent's.
"""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from bench.load.wire import pad, payload, topic_name
from tests import ROOT
from tests.lib.servers import PATIENCE, Daemon, RedisServer, free_port

pytestmark = pytest.mark.skipif(find_spec("locust") is None, reason="needs the extra bench")


FILE = ROOT / "bench" / "locust" / "locustfile.py"
KEY = "a secret that is long enough for HS256, and nobody's"
CONNECTIONS = 40
TOPICS = 4
SUBSCRIBERS = 30
RATE = 100


class Locust:
    """``locust`` with the suite's file."""

    def __init__(self, *arguments: object) -> None:
        command = [
            sys.executable,
            "-m",
            "locust",
            "-f",
            str(ROOT / "bench" / "locust" / "locustfile.py"),
            *map(str, arguments),
        ]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.lines: list[str] = []
        self._grown = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._grown:
                self.lines.append(line)
                self._grown.notify_all()

    @property
    def log(self) -> str:
        return "".join(self.lines)

    def wait_for(self, words: str) -> None:
        with self._grown:
            assert self._grown.wait_for(lambda: words in self.log, PATIENCE), self.log

    def end(self) -> int:
        status = self.process.wait(PATIENCE)
        self._reader.join()
        return status

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def start_locust() -> Iterator[Callable[..., Locust]]:
    """Starts Locust."""
    started: list[Locust] = []

    def start(*arguments: object) -> Locust:
        started.append(Locust(*arguments))
        return started[-1]

    yield start
    for each in started:
        each.kill()


@pytest.fixture
def load(own_redis: RedisServer, start_daemon: Callable[..., Daemon], tmp_path: Path) -> list[object]:
    """Options of a run against a daemon that asks for tokens."""
    key = tmp_path / "key"
    key.write_text(KEY + "\n")
    key.chmod(0o600)
    daemon = start_daemon("--port", "0", "--admin-port", "0", "--redis-url", own_redis.url, "--jwt-key-file", str(key))
    options = {
        "wsd-hosts": f"127.0.0.1:{daemon.port}",
        "wsd-admin": f"127.0.0.1:{daemon.admin_port}",
        "wsd-redis-url": own_redis.url,
        "wsd-key-file": key,
        "wsd-connections": CONNECTIONS,
        "wsd-topics": TOPICS,
        "wsd-subscribers": SUBSCRIBERS,
        "wsd-rate": RATE,
    }
    return [part for name, value in options.items() for part in (f"--{name}", value)]


def entries(path: Path) -> dict[str, Any]:
    """Locust's statistics by the name of the row."""
    return {entry["name"]: entry for entry in json.loads(path.with_suffix(".json").read_text())}


def published(locust: Locust) -> int:
    """Messages that the publisher says it has published."""
    found = re.search(r"Published (\d+) messages in", locust.log)
    assert found, locust.log
    return int(found[1])


def check_counts(locust: Locust, stats: dict[str, Any]) -> None:
    """Every subscriber got every message of its topic, and every session was made."""
    assert published(locust) >= RATE
    assert stats["message"]["num_requests"] == published(locust) * SUBSCRIBERS
    assert stats["message"]["num_failures"] == 0
    assert 0 < sum(stats["message"]["response_times"].values()) <= stats["message"]["num_requests"]
    assert stats["session"]["num_requests"] == sum(stats["session"]["response_times"].values()) == TOPICS * SUBSCRIBERS


def check_tables(locust: Locust, path: Path, stats: dict[str, Any]) -> None:
    """The files of --csv and the terminal say the same as the JSON, with fractions of milliseconds."""
    with path.with_name(f"{path.name}_stats.csv").open() as file:
        rows = {row["Name"]: row for row in csv.DictReader(file)}
    with path.with_name(f"{path.name}_stats_history.csv").open() as file:
        *_, last = csv.DictReader(file)
    assert int(rows["message"]["Request Count"]) == stats["message"]["num_requests"]
    assert int(rows["session"]["Request Count"]) == stats["session"]["num_requests"]
    assert int(last["Total Request Count"]) == int(rows["Aggregated"]["Request Count"])
    assert any(float(rows["message"][name]) % 1 for name in ("50%", "66%", "75%", "80%", "90%", "95%", "99%"))
    # From the first message to the last report: the seconds in which the clients came would make it a part of that.
    seconds = stats["message"]["num_requests"] / float(rows["message"]["Requests/s"])
    found = re.search(r"Published \d+ messages in ([\d.]+) s", locust.log)
    assert found and seconds > float(found[1]) * 0.9


def test_headless(start_locust: Callable[..., Locust], load: list[object], tmp_path: Path) -> None:
    files = ["--json-file", tmp_path / "stats", "--csv", tmp_path / "table", "--csv-full-history"]
    locust = start_locust("--headless", "-t", "5s", "-r", "10", *files, *load, "Listener")
    assert locust.end() == 0, locust.log
    check_counts(locust, entries(tmp_path / "stats"))
    check_tables(locust, tmp_path / "table", entries(tmp_path / "stats"))
    assert 'Listener": 3}' in locust.log  # as many users as 4 x 30 subscribers need, at 40 each
    assert KEY not in locust.log


def test_all_classes(start_locust: Callable[..., Locust], load: list[object], tmp_path: Path) -> None:
    few = ["--wsd-visitors", "5", "--wsd-churn", "20", "--wsd-slow", "2", "--csv", tmp_path / "table"]
    locust = start_locust("--headless", "-t", "5s", "-r", "10", "--json-file", tmp_path / "stats", *load, *few)
    assert locust.end() == 0, locust.log
    with (tmp_path / "table_stats.csv").open() as file:
        rows = {row["Name"]: row for row in csv.DictReader(file)}
    # Messages to visitors are counted and not timed: that is no 0.
    assert int(rows["visitor message"]["Request Count"]) > 0
    assert {rows["visitor message"][name] for name in ("50%", "99%", "Median Response Time")} == {"N/A"}
    stats = entries(tmp_path / "stats")
    check_counts(locust, stats)
    assert stats["visitor session"]["num_requests"] > 5
    assert stats["slow session"]["num_requests"] == 2


def test_storm(start_locust: Callable[..., Locust], load: list[object], tmp_path: Path) -> None:
    shape = ["--wsd-shape", "storm", "--wsd-storm-seconds", "2", "-t", "5s", "-r", "10"]
    locust = start_locust("--headless", "--json-file", tmp_path / "stats", *load, *shape, "Listener")
    assert locust.end() == 0, locust.log
    storms = locust.log.count("everyone reconnects")
    assert storms >= 1
    assert entries(tmp_path / "stats")["session"]["num_requests"] == (1 + storms) * TOPICS * SUBSCRIBERS


def test_what_comes_twice_is_a_failure(
    start_locust: Callable[..., Locust], load: list[object], own_redis: RedisServer
) -> None:
    locust = start_locust("--headless", "--only-summary", "-t", "5s", "-r", "10", *load, "Listener")
    locust.wait_for("Publishing")
    own_redis.publish(topic_name(0), payload(0, 0, time.monotonic_ns(), pad(100)))
    assert locust.end() == 1, locust.log
    printed = locust.log.rpartition("Response time percentiles, ms")[2]
    assert re.search(r"^WS message +\d+\.\d+ ", printed, re.MULTILINE), locust.log
    # So few connections are all sampled.
    assert re.search(rf"^{SUBSCRIBERS} +WS message: duplicated ", locust.log, re.MULTILINE), locust.log


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--wsd-hosts", "127.0.0.1:1"], "no wsd at 127.0.0.1:1: "),
        (["--wsd-redis-url", "redis://127.0.0.1:1"], "no Redis at redis://127.0.0.1:1: "),
        (["--wsd-redis-url", "redis://:hush@127.0.0.1"], "--wsd-redis-url: the publisher doesn't log in"),
        (["--wsd-size", "10"], "--wsd-size: a payload of the suite has at least"),
        (["--wsd-key-file", "/nowhere"], "--wsd-key-file: "),
        (["--wsd-hosts", ""], "say which wsd to measure"),
    ],
)
def test_what_cannot_be(start_locust: Callable[..., Locust], load: list[object], options: list[str], says: str) -> None:
    locust = start_locust("--headless", "--only-summary", "-t", "20s", *load, *options, "Listener")
    assert locust.end() == 1, locust.log
    assert f"The run failed: {says}" in locust.log
    assert "Traceback" not in locust.log


def test_refused_tokens(start_locust: Callable[..., Locust], load: list[object], tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("quite another secret, of which wsd knows nothing")
    locust = start_locust("--headless", "-t", "20s", *load, "--wsd-key-file", other, "Listener")
    assert locust.end() == 1, locust.log
    assert "session unauthorized" in locust.log


def test_distributed_and_the_page(start_locust: Callable[..., Locust], load: list[object], tmp_path: Path) -> None:
    port, web = free_port(), free_port()
    page = f"http://127.0.0.1:{web}"
    master = start_locust(
        *[
            "--master",
            "--master-bind-port",
            port,
            "--expect-workers",
            "2",
            "--web-host",
            "127.0.0.1",
            "--web-port",
            web,
        ],
        *[
            "--autostart",
            "--autoquit",
            "0",
            "-t",
            "8s",
            "-r",
            "10",
            "--json-file",
            tmp_path / "stats",
            *load,
            "Listener",
        ],
    )
    workers = [start_locust("--worker", "--master-port", port) for _ in range(2)]
    master.wait_for("Publishing")
    with urlopen(f"{page}/") as response:
        assert b'href="./wsd"' in response.read()
    with urlopen(f"{page}/wsd") as response:
        assert b"Deliveries per second" in response.read()
    deadline = time.monotonic() + PATIENCE
    while True:  # workers report every 3 seconds
        with urlopen(f"{page}/wsd/data") as response:
            data = json.load(response)
        if any(second["deliveries"] and "wsd" in second["cpu"] for second in data["seconds"]):
            break
        assert time.monotonic() < deadline, data
        time.sleep(0.2)
    assert data["daemon"]
    assert not data["failure"]
    shown = max(data["seconds"], key=lambda second: int(second["deliveries"]))
    assert shown["latency"]["p99"] > 0
    assert shown["memory"]["wsd"] > 1 << 20
    assert shown["memory"]["locust"] > 1 << 20
    assert master.end() == 0, master.log
    assert [worker.end() for worker in workers] == [0, 0]
    check_counts(master, entries(tmp_path / "stats"))
