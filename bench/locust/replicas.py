"""The wsd that a run measures: started for the run if need be, and watched through /metrics."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from urllib.request import urlopen

import gevent  # type: ignore[import-untyped,unused-ignore]
from prometheus_client.parser import text_string_to_metric_families

from bench.locust.run import Run, WorkerNow
from bench.servers.process import RedisServer
from bench.servers.wsd import WsdServer

__all__ = ["OwnServers", "watch"]

logger = logging.getLogger("bench.locust")

MOVED = "moved"
"""The connections that went from one process to another: wsd_moves_total, with the result ``in``."""

COUNTED = ("wsd_slow_consumers_total", "wsd_worker_restarts_total", MOVED)
"""What is counted since a run began."""


class OwnServers:
    """A Redis and some wsd on this machine, started afresh for each run: a run begins with servers without a past."""

    def __init__(self) -> None:
        self._running = ExitStack()

    def start(self, replicas: int, workers: int) -> tuple[RedisServer, list[WsdServer]]:
        """Start them, and end those of the run before.

        Args:
            replicas: how many.
            workers: how many each has.

        Raises:
            ServerError: if one of them doesn't start.
        """
        self.close()
        redis = self._running.enter_context(RedisServer())
        started = [WsdServer(redis) for _ in range(replicas)]
        for server in started:
            server.workers = workers
            self._running.enter_context(server)
        logger.info("Started %d wsd on ports %s", replicas, ", ".join(str(server.port) for server in started))
        return redis, started

    def close(self) -> None:
        """End them."""
        self._running.close()


@dataclass(frozen=True, slots=True)
class Scraped:
    """What a replica's /metrics says."""

    totals: dict[str, float]  # by the name of the sample; those that differ in labels are added up
    workers: dict[str, dict[str, float]]  # by the worker: the samples that tell of one


def watch(admin: list[tuple[str, int]], run: Run) -> None:
    """Put what the metrics of all replicas say into a run, once a second, for ever.

    Args:
        admin: addresses of their admin ports.
        run: the run.
    """
    watcher = Watcher(admin, run)
    while True:
        gevent.sleep(1.0 - time.time() % 1.0)
        watcher.look()


class Watcher:
    """Looks at the metrics of all replicas, again and again.

    Args:
        admin: addresses of their admin ports.
        run: where to put what they say.
    """

    def __init__(self, admin: list[tuple[str, int]], run: Run) -> None:
        self._admin = admin
        self._run = run
        self._at = 0.0  # when they were read, time.monotonic(); 0: not yet, or not at the last try
        self._cpu: dict[tuple[str, str], float] = {}  # seconds by then, by replica and worker; "" is all of it
        self._first: Counter[str] = Counter()  # counters when they were first read: what was before the run

    def look(self) -> None:
        """Read them once."""
        try:
            scraped = {f"{host}:{port}": scrape((host, port)) for host, port in self._admin}
        except (OSError, ValueError) as exc:
            logger.debug("No metrics: %s", exc)
            self._at = 0.0
            return
        now = time.monotonic()
        elapsed = now - self._at if self._at else None
        cpu = dict(_cpu_seconds(scraped))

        def cores(replica: str, worker: str) -> float | None:
            before = self._cpu.get((replica, worker))
            # A worker that was replaced begins again.
            return None if elapsed is None or before is None else max(cpu[replica, worker] - before, 0.0) / elapsed

        second = self._run.timeline.at(int(time.time()))
        second.memory["wsd"] = int(
            sum(each.totals.get("process_resident_memory_bytes", 0.0) for each in scraped.values())
        )
        if None not in (used := [cores(replica, "") for replica in scraped]):
            second.cpu["wsd"] = sum(each or 0.0 for each in used)
        self._run.workers = [
            WorkerNow(replica, worker, int(told["wsd_worker_connections"]), cores(replica, worker))
            for replica, each in scraped.items()
            for worker, told in sorted(each.workers.items())
            if "wsd_worker_connections" in told
        ]
        several = len(scraped) > 1
        second.workers = {
            f"{each.replica} {each.number}" if several else each.number: each.connections for each in self._run.workers
        }
        self._at, self._cpu = now, cpu
        self._count(scraped)

    def _count(self, scraped: dict[str, Scraped]) -> None:
        """What has happened since the run began."""
        totals: Counter[str] = Counter()
        for each in scraped.values():
            for name in COUNTED:
                totals[name] += int(each.totals.get(name, 0.0))
        self._first = self._first or Counter(totals)
        run, new = self._run, {name: totals[name] - self._first[name] for name in COUNTED}
        run.given_up, run.restarts, run.moved = (new[name] for name in COUNTED)


def _cpu_seconds(scraped: dict[str, Scraped]) -> Iterator[tuple[tuple[str, str], float]]:
    for replica, each in scraped.items():
        yield (replica, ""), each.totals.get("process_cpu_seconds_total", 0.0)
        for worker, told in each.workers.items():
            yield (replica, worker), told.get("wsd_worker_cpu_seconds_total", 0.0)


def scrape(address: tuple[str, int]) -> Scraped:
    """What a replica's /metrics says.

    Raises:
        OSError: if it doesn't answer.
        ValueError: if it isn't what Prometheus would understand.
    """
    with urlopen(f"http://{address[0]}:{address[1]}/metrics", timeout=2) as response:
        return parse(response.read().decode())


def parse(text: str) -> Scraped:
    """Read a page of metrics.

    Raises:
        ValueError: if it isn't what Prometheus would understand.
    """
    totals: dict[str, float] = {}
    workers: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = sample.name
            if name == "wsd_moves_total" and sample.labels.get("result") == "in":
                name = MOVED  # of its other results, some count the same move
            totals[name] = totals.get(name, 0.0) + sample.value
            if worker := sample.labels.get("worker"):
                workers.setdefault(worker, {})[name] = sample.value
    return Scraped(totals, workers)
