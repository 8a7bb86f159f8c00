"""What only the master has, or the Locust that runs alone: the publisher, the order of events, all numbers together.

A run is only worth its numbers if it is clear who should have got what. So:

1. Every user joins before it opens its shard. It gets a slot, which decides its topics, and learns whether it will be
   subscribed before the first message.
2. The publisher starts when all users have joined and are subscribed. Who was there checks its sequences from number
   0. Who comes later checks them from the first message that it gets.
3. When the run ends, the publisher ends first. Then the shards wait for what is under way and compare what they got
   with what was published. Only then do the users go.

=================  ===============  =====================================================================
message            from, to         says
=================  ===============  =====================================================================
``wsd-join``       node, conductor  a user comes: ``name``, ``kind``
``wsd-place``      conductor, node  ``name`` of the user, its ``slot``, whether it is there ``from_start``,
                                    seconds to ``wait`` until it opens its connections
``wsd-open``       node, conductor  the user's connections are subscribed: ``name``
``wsd-leave``      node, conductor  the user is gone: ``name``
``wsd-fail``       node, conductor  the run makes no sense any more: ``text``
``wsd-storm``      conductor, node  all connections of all users are made anew
``wsd-drain``      conductor, node  the publisher has ended: ``published`` messages over ``topics``
``wsd-report``     node, conductor  what was seen, see ``Node``; workers put it into Locust's own reports
=================  ===============  =====================================================================
"""

# Locust is typed, but not all of it.
# mypy: untyped-calls-exclude=locust

from __future__ import annotations

import logging
import socket
import time
from dataclasses import dataclass
from typing import Any

import gevent  # type: ignore[import-untyped,unused-ignore]
from gevent.event import Event  # type: ignore[import-untyped,unused-ignore]
from locust.env import Environment
from locust.rpc import Message
from locust.runners import MasterRunner

from bench.load.control import GeneratorError, Publisher
from bench.load.histogram import Histogram
from bench.load.publisher import Order
from bench.locust.node import clock
from bench.locust.options import OptionError, Options
from bench.locust.replicas import OwnServers, watch
from bench.locust.run import Phase, Run
from bench.locust.shapes import Shape
from bench.locust.stats import Second
from bench.measure.machine import cpu_seconds
from bench.measure.verdicts import GENERATOR_LIMIT
from bench.servers.process import ServerError

__all__ = ["Conductor"]

logger = logging.getLogger("bench.locust")

ENDLESS = 30 * 86_400.0
"""Seconds that the publisher is told to publish. The end of the run comes earlier."""

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
        self.run = Run()
        self.options: Options | None = None  # of the run; None before the first and if they can't be
        self._environment = environment
        runner = environment.runner
        assert runner is not None
        self._runner = runner
        self._users: dict[tuple[str, str], _User] = {}  # by node and name
        self._publisher: Publisher | None = None
        self._undrained: set[str] = set()  # nodes whose last numbers are waited for
        self._drained = Event()  # nobody is waited for any more
        self._servers = OwnServers()
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
        if self.publishing:
            self.run.storms += 1
            logger.info("Storm %d: everyone reconnects", self.run.storms)
            self._runner.send_message("wsd-storm", {})

    # From Locust.

    def _on_start(self, environment: Environment, **_: object) -> None:
        self.run, self.options = Run(), None
        self._users.clear()
        parsed = environment.parsed_options
        assert parsed is not None
        # What is set here goes to the workers with the others.
        parsed.wsd_clock = clock()
        try:
            if parsed.wsd_own:
                redis, replicas = self._servers.start(parsed.wsd_replicas, parsed.wsd_workers)
                parsed.wsd_redis_url = f"redis://127.0.0.1:{redis.port}"
                parsed.wsd_admin = ",".join(f"127.0.0.1:{server.admin_port}" for server in replicas)
                environment.host = ",".join(f"ws://127.0.0.1:{server.port}" for server in replicas)
            self.options = Options.read(parsed, environment.host)
            if not self.options.addresses:
                raise OptionError("say which wsd to measure: --wsd-hosts HOST:PORT,..., or --wsd-own to start one")
            socket.create_connection(self.options.redis, timeout=5).close()
        except (OptionError, ServerError) as exc:
            self.fail(str(exc))
        except OSError as exc:
            self.fail(f"no Redis at {parsed.wsd_redis_url}: {exc}")
        if self.options is not None and self.options.admin:
            self._watching = gevent.spawn(watch, self.options.admin, self.run)

    def _on_spawned(self, user_count: int) -> None:
        self.run.spawned = True
        self._consider()

    def _on_stopping(self, environment: Environment, **_: object) -> None:
        self.run.phase = Phase.ENDING
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
        self.run.published = result["published"]
        self._undrained = {node for node, _ in self._users}
        self._drained.clear()
        if self._undrained:
            self._runner.send_message("wsd-drain", {"published": self.run.published, "topics": self.options.topics})
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
        if self.run.failure:
            return  # the user waits until the run ends
        kind = msg.data["kind"]
        taken = {user.slot for user in self._users.values() if user.kind == kind}
        slot = next(number for number in range(len(taken) + 1) if number not in taken)
        self._users[msg.node_id, msg.data["name"]] = _User(kind, slot)
        shape, now = self._environment.shape_class, time.monotonic()
        anew = isinstance(shape, Shape) and shape.anew
        if self.run.first_joined is None:
            self.run.first_joined = now
        turn = self.options.turn(slot) if self.options is not None else 0.0
        place = {
            "name": msg.data["name"],
            "slot": slot,
            "from_start": self.run.phase is Phase.GATHERING and not anew,
            "wait": max(self.run.first_joined + turn - now, 0.0),
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
        if self.run.first_message is not None:  # a worker's report brings when that worker started
            self._environment.stats.total.start_time = self.run.first_message
        if "wsd" in data:
            self._take(client_id, data["wsd"])

    def _on_report(self, environment: Environment, msg: Message) -> None:
        self._take(msg.node_id, msg.data)

    def _take(self, node: str, report: dict[str, Any]) -> None:
        if not report["timed"]:
            self.run.untimed.add(node)
        for at, dumped in report["seconds"].items():
            self.run.timeline.merge(int(at), Second.load(dumped))
        if report["drained"]:
            self._undrained.discard(node)
            if not self._undrained:
                self._drained.set()

    def _to(self, node: str) -> str | None:
        return node if isinstance(self._runner, MasterRunner) else None

    # The publisher.

    def _consider(self) -> None:
        """Start to publish, if it is time."""
        if not self.run.spawned or self.run.phase is not Phase.GATHERING or self.run.failure:
            return
        users = self._users.values()
        # Locust says that users are spawned as soon as their greenlets exist, which is before they join.
        if len(users) >= max(self._runner.target_user_count, 1) and all(user.opened for user in users):
            # From here on nobody who joins is there from the start, though the first message takes a while.
            self.run.phase = Phase.PUBLISHING
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
        if self.run.phase is Phase.ENDING:  # which it became while the publisher started
            publisher.stop()
            return
        self._publisher = publisher
        began = time.monotonic()
        publisher.start()
        # Locust's rates count from here, because nothing can be delivered before the first message.
        self._environment.stats.total.start_time = self.run.first_message = time.time()
        logger.info("All are subscribed. Publishing %g messages/s of %d bytes", options.rate, options.size)
        before = cpu_seconds([publisher.pid])
        while True:
            gevent.sleep(1.0)
            if self._publisher is not publisher:
                return
            self.run.published = int((time.monotonic() - began) * options.rate)
            used = cpu_seconds([publisher.pid])
            self.run.timeline.at(int(time.time())).cpu["publisher"] = max(used - before, 0.0)
            before = used
            if publisher.status is not None:
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

    # The end.

    def fail(self, text: str) -> None:
        """Give the run up, and say why."""
        if not self.run.failure:
            self._give_up(text)
            # Not from here, because this may be a greenlet that ends with the run.
            gevent.spawn_later(0.1, self._end)

    def _give_up(self, text: str) -> None:
        self.run.failure = self.run.failure or text
        self._environment.process_exit_code = 1
        logger.error("The run failed: %s", text)

    def _end(self) -> None:
        parsed = self._environment.parsed_options
        if parsed is not None and parsed.headless:
            self._runner.quit()
        else:
            self._runner.stop()

    def _summarize(self) -> None:
        for text in self.run.summary():
            logger.info("%s", text)
        for verdict in self.run.verdicts():
            what, _, why = verdict.partition(":")
            logger.warning("! %s:%s", what.upper(), why)
