"""The wsd that a run measures: started for the run if need be, and watched through /metrics."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from urllib.request import urlopen

import gevent  # type: ignore[import-untyped,unused-ignore]
from prometheus_client.parser import text_string_to_metric_families

from bench.locust.run import Run
from bench.servers.process import RedisServer
from bench.servers.wsd import WsdServer

__all__ = ["OwnServers", "watch"]

logger = logging.getLogger("bench.locust")


class OwnServers:
    """A Redis and some wsd on this machine, started afresh for each run: a run begins with servers without a past."""

    def __init__(self) -> None:
        self._running = ExitStack()

    def start(self, replicas: int) -> tuple[RedisServer, list[WsdServer]]:
        """Start them, and end those of the run before.

        Raises:
            ServerError: if one of them doesn't start.
        """
        self.close()
        redis = self._running.enter_context(RedisServer())
        started = [self._running.enter_context(WsdServer(redis)) for _ in range(replicas)]
        logger.info("Started %d wsd on ports %s", replicas, ", ".join(str(server.port) for server in started))
        return redis, started

    def close(self) -> None:
        """End them."""
        self._running.close()


def watch(admin: list[tuple[str, int]], run: Run) -> None:
    """Put the CPU and the memory of all replicas into the timeline of a run, once a second, for ever.

    Args:
        admin: addresses of their admin ports.
        run: the run.
    """
    before: tuple[float, float] | None = None  # CPU seconds of all, and when they were read
    given_up: float | None = None  # slow clients that were cut off before the run
    while True:
        gevent.sleep(1.0 - time.time() % 1.0)
        try:
            scraped = [scrape(address) for address in admin]
        except (OSError, ValueError) as exc:
            logger.debug("No metrics: %s", exc)
            before = None
            continue
        cpu, now = _sum(scraped, "process_cpu_seconds_total"), time.monotonic()
        second = run.timeline.at(int(time.time()))
        second.memory["wsd"] = int(_sum(scraped, "process_resident_memory_bytes"))
        if before is not None:
            second.cpu["wsd"] = max(cpu - before[0], 0.0) / (now - before[1])
        before = cpu, now
        total = _sum(scraped, "wsd_slow_consumers_total")
        given_up = total if given_up is None else given_up
        run.given_up = int(total - given_up)


def _sum(scraped: list[dict[str, float]], name: str) -> float:
    return sum(each.get(name, 0.0) for each in scraped)


def scrape(address: tuple[str, int]) -> dict[str, float]:
    """What a replica's /metrics says, by the names of the samples; those that differ in labels are added up.

    Raises:
        OSError: if it doesn't answer.
        ValueError: if it isn't what Prometheus would understand.
    """
    with urlopen(f"http://{address[0]}:{address[1]}/metrics", timeout=2) as response:
        text = response.read().decode()
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found
