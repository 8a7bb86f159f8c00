"""What only the master has, or the Locust that runs alone: the publisher, the order of events, all numbers together.

A run is only worth its numbers if it is clear who should have got what. So:

1. Every user joins before it opens its shard. It gets a slot, which decides its topics, and learns whether it will be
   subscribed before the first message.
2. The publisher starts when all users have joined and are subscribed. Who comes later checks its sequences from the
   first message that it gets; who was there, from number 0.
3. When the run ends, the publisher ends first. Then the shards wait for what is under way and compare what they got
   with what was published. Only then do the users go.

=================  ===============  ===================================================================
message            from, to         says
=================  ===============  ===================================================================
``wsd-join``       node, conductor  a user is coming: ``name``, ``kind``
``wsd-place``      conductor, node  where to: ``name``, ``slot``, ``from_start``; seconds until its turn: ``wait``
``wsd-open``       node, conductor  the user's connections are subscribed
``wsd-leave``      node, conductor  the user is gone
``wsd-fail``       node, conductor  the run makes no sense any more: ``text``
``wsd-storm``      conductor, node  all Listeners reconnect
``wsd-drain``      conductor, node  the publisher has ended: ``published``, ``topics``
``wsd-report``     node, conductor  what was seen, see ``Node``; from workers in Locust's own reports
=================  ===============  ===================================================================
"""

# Locust is typed, but not all of it.
# mypy: untyped-calls-exclude=locust

from __future__ import annotations

import logging
import socket
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from urllib.request import urlopen

import gevent  # type: ignore[import-untyped,unused-ignore]
from gevent.event import Event  # type: ignore[import-untyped,unused-ignore]
from locust.env import Environment
from locust.rpc import Message
from locust.runners import MasterRunner
from prometheus_client.parser import text_string_to_metric_families

from bench.load.control import GeneratorError, Publisher
from bench.load.histogram import Histogram
from bench.load.publisher import Order
from bench.locust.node import clock
from bench.locust.options import OptionError, Options
from bench.locust.shapes import Shape
from bench.locust.stats import Second, Timeline
from bench.measure.machine import cpu_seconds
from bench.measure.verdicts import GENERATOR_LIMIT
from bench.servers.process import RedisServer, ServerError
from bench.servers.wsd import WsdServer

__all__ = ["Conductor"]

logger = logging.getLogger("bench.locust")

ENDLESS = 30 * 86_400.0
"""Seconds that the publisher is told to publish. The end of the run comes first."""

MACHINE_LIMIT = 0.95
"""Share of all cores of a machine above which its processes wait for each other."""

BUSY_SECONDS = 0.1
"""Share of the seconds of a run in which that may happen."""

DRAIN_PATIENCE = 45.0
"""Seconds until workers that say nothing are given up. A drain takes 10 at most, and a report may be 3 late."""


@dataclass(slots=True)
class _User:
    kind: str
    slot: int
    opened: bool = False


class Conductor:
    """Conducts a run.

    Args:
        environment: Locust's.
    """

    def __init__(self, environment: Environment) -> None:
        self.timeline = Timeline()
        self.options: Options | None = None
        self.published = 0  # messages; while the publisher runs, as many as should have been
        self.failure = ""  # why the run was given up
        self.untimed: set[str] = set()  # nodes whose clock isn't the publisher's
        self.storms = 0
        self.given_up = 0  # slow clients that the daemon has cut off, as its metrics say
        self._environment = environment
        runner = environment.runner
        assert runner is not None
        self._runner = runner
        self._users: dict[tuple[str, str], _User] = {}  # by node and name
        self._first_joined = 0.0  # when the first user of the run came; 0 before
        self._spawned = self._publishing = self._stopping = False
        self._publisher: Publisher | None = None
        self._began = 0.0
        self._first_at = 0.0  # seconds since 1970 when the first message was published; 0 before
        self._undrained: set[str] = set()
        self._drained = Event()
        self._servers = ExitStack()
        self._watching: gevent.Greenlet | None = None
        for name in ("join", "open", "leave", "fail", "report"):
            runner.register_message(f"wsd-{name}", getattr(self, f"_on_{name}"))
        events = environment.events
        events.test_start.add_listener(self._on_start)
        events.spawning_complete.add_listener(self._on_spawned)
        events.worker_report.add_listener(self._on_worker_report)
        events.test_stopping.add_listener(self._on_stopping)
        events.test_stop.add_listener(self._on_stop)
        # Locust decides on its exit status after this event, and when it is interrupted, before it stops the run.
        events.quitting.add_listener(self._on_stopping)
        events.quit.add_listener(self._on_quit)

    # For the shapes and the page.

    @property
    def publishing(self) -> bool:
        """Whether messages are published now."""
        return self._publisher is not None

    def storm(self) -> None:
        """Let everyone reconnect at once."""
        if self.publishing and not self._stopping:
            self.storms += 1
            logger.info("Storm %d: everyone reconnects", self.storms)
            self._runner.send_message("wsd-storm", {})

    def verdicts(self) -> list[str]:
        """What a reader must know before believing the run; empty if nothing."""
        said = []
        seconds = list(self.timeline.seconds.values())
        busiest = max((second.generator for second in seconds), default=0.0)
        if busiest > GENERATOR_LIMIT:
            said.append(f"generator-bound: a shard used {busiest:.0%} of its core; rates and latencies are its own")
        full = sum(second.machine > MACHINE_LIMIT for second in seconds)
        if full > BUSY_SECONDS * len(seconds):
            said.append(
                f"machine-bound: for {full} s, all cores of a generator's machine were busy; its processes wait"
            )
        if self.untimed:
            said.append(
                f"untimed: {len(self.untimed)} generators on other machines than the publisher count and check only"
            )
        return said

    # From Locust.

    def _on_start(self, environment: Environment, **_: object) -> None:
        self.timeline, self.failure, self.storms, self.given_up = Timeline(), "", 0, 0
        self._users.clear()
        self._first_joined = 0.0
        self.untimed.clear()
        self._spawned = self._publishing = self._stopping = False
        self.published, self._first_at = 0, 0.0
        parsed = environment.parsed_options
        assert parsed is not None
        # What is set here goes to the workers with the others.
        parsed.wsd_clock = clock()
        self.options = None
        try:
            if parsed.wsd_own:
                self._start_servers(parsed.wsd_replicas)
                parsed.wsd_redis_url = f"redis://127.0.0.1:{self._redis.port}"
                parsed.wsd_admin = ",".join(f"127.0.0.1:{server.admin_port}" for server in self._own)
                environment.host = ",".join(f"ws://127.0.0.1:{server.port}" for server in self._own)
            self.options = Options.read(parsed, environment.host)
            if not self.options.addresses:
                raise OptionError("say which wsd to measure: --wsd-hosts HOST:PORT,..., or --wsd-own to start one")
            socket.create_connection(self.options.redis, timeout=5).close()
        except OptionError as exc:
            self.fail(str(exc))
        except ServerError as exc:
            self.fail(str(exc))
        except OSError as exc:
            self.fail(f"no Redis at {parsed.wsd_redis_url}: {exc}")
        self._watching = gevent.spawn(self._watch_daemon)

    def _on_spawned(self, user_count: int) -> None:
        self._spawned = True
        self._consider()

    def _on_stopping(self, environment: Environment, **_: object) -> None:
        self._stopping = True
        publisher, self._publisher = self._publisher, None
        if publisher is None or self.options is None:
            return
        try:
            publisher.halt()
            result = publisher.result()
        except (GeneratorError, OSError) as exc:
            self._give_up(f"the publisher failed: {exc}")
            return
        finally:
            publisher.stop()
        self.published = result["published"]
        self._undrained = {node for node, _ in self._users}
        self._drained.clear()
        if self._undrained:
            self._runner.send_message("wsd-drain", {"published": self.published, "topics": self.options.topics})
            if not self._drained.wait(DRAIN_PATIENCE):
                self._give_up(f"{len(self._undrained)} generators didn't report in time; their last numbers miss")
        self._say_publisher(result)

    def _on_stop(self, environment: Environment, **_: object) -> None:
        if self._watching is not None:
            self._watching.kill()
            self._watching = None
        gevent.spawn_later(0, self._summarize)

    def _on_quit(self, exit_code: int) -> None:
        self._servers.close()

    # From the nodes.

    def _on_join(self, environment: Environment, msg: Message) -> None:
        if self.failure:
            return  # the user waits for its end
        kind = msg.data["kind"]
        taken = {user.slot for user in self._users.values() if user.kind == kind}
        slot = next(number for number in range(len(taken) + 1) if number not in taken)
        self._users[msg.node_id, msg.data["name"]] = _User(kind, slot)
        shape, now = self._environment.shape_class, time.monotonic()
        anew = isinstance(shape, Shape) and shape.anew
        self._first_joined = self._first_joined or now
        turn = self.options.turn(slot) if self.options is not None else 0.0
        place = {
            "name": msg.data["name"],
            "slot": slot,
            "from_start": not self._publishing and not anew,
            "wait": max(self._first_joined + turn - now, 0.0),
        }
        self._runner.send_message("wsd-place", place, client_id=self._to(msg.node_id))

    def _on_open(self, environment: Environment, msg: Message) -> None:
        if user := self._users.get((msg.node_id, msg.data["name"])):
            user.opened = True
        self._consider()

    def _on_leave(self, environment: Environment, msg: Message) -> None:
        self._users.pop((msg.node_id, msg.data["name"]), None)

    def _on_fail(self, environment: Environment, msg: Message) -> None:
        self.fail(msg.data["text"])

    def _on_worker_report(self, client_id: str, data: dict[str, Any]) -> None:
        if self._first_at:  # a worker's report brings when that worker started
            self._environment.stats.total.start_time = self._first_at
        if "wsd" in data:
            self._take(client_id, data["wsd"])

    def _on_report(self, environment: Environment, msg: Message) -> None:
        self._take(msg.node_id, msg.data)

    def _take(self, node: str, report: dict[str, Any]) -> None:
        if not report["timed"]:
            self.untimed.add(node)
        for at, dumped in report["seconds"].items():
            self.timeline.merge(int(at), Second.load(dumped))
        if report["drained"]:
            self._undrained.discard(node)
            if not self._undrained:
                self._drained.set()

    def _to(self, node: str) -> str | None:
        return node if isinstance(self._runner, MasterRunner) else None

    # The publisher.

    def _consider(self) -> None:
        """Start to publish, if it is time."""
        if not self._spawned or self._publishing or self._stopping or self.failure:
            return
        users = self._users.values()
        # Locust says that users are spawned as soon as their greenlets exist, which is before they join.
        if len(users) >= max(self._runner.target_user_count, 1) and all(user.opened for user in users):
            # From here on nobody who joins is there from the start, though the first message takes a while.
            self._publishing = True
            gevent.spawn(self._publish)

    def _publish(self) -> None:
        assert self.options is not None
        (host, port), options = self.options.redis, self.options
        order = Order("redis", port, options.rate, options.topics, options.size, ENDLESS, socket.gethostbyname(host))
        try:
            publisher = Publisher(order)
        except GeneratorError as exc:
            self.fail(f"the publisher failed: {exc}")
            return
        if self._stopping:
            publisher.stop()
            return
        self._publisher = publisher
        self._began = time.monotonic()
        publisher.start()
        # Locust's req/s are over the time from here on: nothing can be delivered before the first message.
        self._environment.stats.total.start_time = self._first_at = time.time()
        logger.info("All are subscribed. Publishing %g messages/s of %d bytes", options.rate, options.size)
        before = cpu_seconds([publisher.pid])
        while self._publisher is publisher:
            gevent.sleep(1.0)
            self.published = int((time.monotonic() - self._began) * options.rate) if self.publishing else self.published
            used = cpu_seconds([publisher.pid]) if self.publishing else before
            self.timeline.at(int(time.time())).cpu["publisher"] = max(used - before, 0.0)
            before = used
            if self.publishing and publisher.status is not None:
                self.fail(f"the publisher ended with status {publisher.status}")
                return

    def _say_publisher(self, result: dict[str, Any]) -> None:
        late = Histogram(result["behind"]).percentile(99) or 0.0
        share = result["cpu"] / result["seconds"] if result["seconds"] else 0.0
        logger.info(
            "Published %d messages in %.1f s, p99 %.1f ms after they were due, with %.0f %% of a core",
            result["published"],
            result["seconds"],
            late / 1000,
            100 * share,
        )
        if share > GENERATOR_LIMIT:
            logger.warning("PUBLISHER-BOUND: the publisher used %.0f %% of its core", 100 * share)

    # The servers.

    def _start_servers(self, replicas: int) -> None:
        """Start Redis and wsd afresh: a run begins with servers that have no past."""
        self._servers.close()
        self._redis = self._servers.enter_context(RedisServer())
        self._own = [self._servers.enter_context(WsdServer(self._redis)) for _ in range(replicas)]
        logger.info("Started %d wsd on ports %s", replicas, ", ".join(str(server.port) for server in self._own))

    def _watch_daemon(self) -> None:
        """Once a second: the CPU and the memory of all replicas, from their metrics."""
        before, before_at, given_up = 0.0, 0.0, -1.0
        while True:
            gevent.sleep(1.0 - time.time() % 1.0)
            if self.options is None or not self.options.admin:
                continue
            try:
                scraped = [scrape(address) for address in self.options.admin]
            except (OSError, ValueError) as exc:
                logger.debug("No metrics: %s", exc)
                before_at = 0.0
                continue
            cpu, at = sum(each.get("process_cpu_seconds_total", 0.0) for each in scraped), time.monotonic()
            second = self.timeline.at(int(time.time()))
            second.memory["wsd"] = int(sum(each.get("process_resident_memory_bytes", 0.0) for each in scraped))
            if before_at:
                second.cpu["wsd"] = max(cpu - before, 0.0) / (at - before_at)
            before, before_at = cpu, at
            total = sum(each.get("wsd_slow_consumers_total", 0.0) for each in scraped)
            given_up = total if given_up < 0 else given_up
            self.given_up = int(total - given_up)

    # The end.

    def fail(self, text: str) -> None:
        """Give the run up, and say why."""
        if not self.failure:
            self._give_up(text)
            # Not from here: what asks may be a greenlet that stopping kills.
            gevent.spawn_later(0.1, self._end)

    def _give_up(self, text: str) -> None:
        self.failure = self.failure or text
        self._environment.process_exit_code = 1
        logger.error("The run failed: %s", text)

    def _end(self) -> None:
        parsed = self._environment.parsed_options
        if parsed is not None and parsed.headless:
            self._runner.quit()
        else:
            self._runner.stop()

    def _summarize(self) -> None:
        line = self.timeline
        percentiles = {name: line.latencies.percentile(percent) for name, percent in (("p50", 50), ("p99", 99))}
        latency = ", ".join(f"{name} {value / 1000:.2f} ms" for name, value in percentiles.items() if value is not None)
        logger.info("Published %d, delivered %d%s", self.published, line.deliveries, f"; {latency}" if latency else "")
        if self.given_up:
            logger.info("wsd gave up %d slow clients", self.given_up)
        if line.returned:
            logger.info("Connections that had ended or failed and came back: %d", line.returned)
        for verdict in self.verdicts():
            what, mark, why = verdict.partition(":")
            logger.warning("! %s%s%s", what.upper() if mark else what, mark, why)


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
