"""The suite's generator behind Locust's front: see README.md in the folder above.

A Locust user isn't one client here but a shard of many: a greenlet per socket and a frame parser in Python end at tens
of thousands of deliveries a second, and wsd does millions. Each user has a process (``shard``) with the sockets; it
talks to it over a pipe, once a second, and puts what the shard counted into Locust's statistics in bulk
(``stats``).
"""

from __future__ import annotations

import sys
import time
from math import ceil
from pathlib import Path

# Locust imports this file by its path, from wherever it was started.
if (ROOT := str(Path(__file__).resolve().parents[2])) not in sys.path:
    sys.path.insert(0, ROOT)

from collections import Counter
from dataclasses import asdict
from typing import Any

import gevent  # type: ignore[import-untyped,unused-ignore]
from flask import request
from gevent.lock import RLock  # type: ignore[import-untyped,unused-ignore]
from locust import User, constant_pacing, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import STATE_INIT, STATE_STOPPED, MasterRunner, WorkerRunner
from locust.web import WebUI

from bench.load.control import GeneratorError, Shard
from bench.load.histogram import Histogram
from bench.load.shard import Plan
from bench.locust.conductor import Conductor
from bench.locust.node import Node
from bench.locust.options import add_options, subscriptions
from bench.locust.page import add_page
from bench.locust.shapes import SHAPES, Shape, Soak, Steps, Storm
from bench.locust.stats import MESSAGE, NOT_SUBSCRIBED, SESSION, Change, Watch, record
from bench.locust.tables import install

__all__ = ["Churner", "Listener", "SlowReader", "Soak", "Steps", "Storm"]

SETTLE = 0.5
"""Seconds for what is under way, where there is no number of messages to wait for."""

LOOK = 0.2
"""Seconds between two looks at a shard that opens its connections."""

SLOW_LIFE = 30.0
"""Seconds until a SlowReader reconnects. That wsd gave it up it would see when it has read what the kernels still hold
for it: megabytes, which at its pace takes an hour."""

install()

NODES: dict[Environment, Node] = {}
"""The node of each environment; there is one of each in a process."""


class ShardUser(User):
    """A user that has a shard."""

    abstract = True
    wait_time = constant_pacing(1.0)
    row = ""  # begins the names of its rows in Locust's statistics
    keeps_up = True  # whether its deliveries count in Locust's total

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.connections = 0
        self.opened_at = 0.0
        self.node = NODES[environment]
        self.name = ""
        self.shard: Shard | None = None
        self.plan: Plan
        self.watch: Watch
        self._lock = RLock()  # a shard takes one command at a time
        self._finished = False  # it has drained: what comes after doesn't count

    def make_plan(self, slot: int, from_start: bool) -> Plan:
        """What the shard is to do."""
        raise NotImplementedError

    def on_start(self) -> None:
        """Open the shard."""
        self.name, place = self.node.join(self, type(self).__name__)
        gevent.sleep(place["wait"])
        self.plan = self.make_plan(place["slot"], place["from_start"])
        self.watch = Watch(self.plan.group)
        try:
            pid = self._open() if self.plan.count else 0
        except (GeneratorError, OSError) as exc:
            self._fail(exc)
        else:
            self.node.opened(self.name, pid)

    def _open(self) -> int:
        self.shard = Shard()
        with self._lock:
            self.shard.begin("open", **asdict(self.plan))
        self._await_opened()
        return self.shard.pid

    def _await_opened(self) -> None:
        """Report until all connections are subscribed or have failed, which the shard limits."""
        assert self.shard is not None
        while True:
            with self._lock:
                answer = self.shard.stats()
                self._look(answer)
            group = answer["groups"][self.plan.group]
            if not group["opening"]:
                break
            gevent.sleep(LOOK)
        self.opened_at = time.monotonic()
        if not group["connections"]:
            hosts = ", ".join(f"{host}:{port}" for host, port in self.plan.addresses)
            reasons = ", ".join(f"{reason} ({count})" for reason, count in group["failures"].items())
            raise GeneratorError(f"no connection to wsd at {hosts} could be subscribed: {reasons}")

    def on_stop(self) -> None:
        """End the shard."""
        if self.shard is not None:
            self.shard.stop()
        self.connections = 0
        if self.name:
            self.node.leave(self.name)

    @task
    def report(self) -> None:
        """Put what is new into Locust's statistics."""
        if self.shard is not None:
            try:
                with self._lock:
                    self._look(self.shard.stats())
            except (GeneratorError, OSError) as exc:
                self._fail(exc)

    def reconnect(self) -> None:
        """Reset all connections and open them again, at once."""
        if self.shard is None:
            return
        try:
            with self._lock:
                self._look(self.shard.stats())
                self.watch.reconnected()
                self.shard.begin("storm", group=self.plan.group)
            self._await_opened()
        except (GeneratorError, OSError) as exc:
            self._fail(exc)

    def drain(self, published: int, topics: int) -> None:
        """Wait for all that was published, and report for the last time."""
        if self.shard is None or self._finished:
            return
        try:
            with self._lock:
                if self.plan.from_start:
                    self._look(self.shard.drain(published, topics))
                else:
                    gevent.sleep(SETTLE)
                    self._look(self.shard.stats())
                self._finished = True
        except (GeneratorError, OSError) as exc:
            self._fail(exc)

    def _fail(self, exc: Exception) -> None:
        """Nothing more will come from this user. The conductor ends the run."""
        self.node.fail(f"{self.name}: {exc}")
        if self.shard is not None:
            self.shard.stop()
            self.shard = None

    def _look(self, answer: dict[str, Any]) -> None:
        """Report what is new in an answer of the shard."""
        if self._finished:
            return
        change = self.watch.look(answer)
        if not self.node.timed:
            change.latencies = Histogram()
        if "expected" in answer and self.plan.from_start:
            change.faults.update(self._amiss(answer["expected"], answer["groups"][self.plan.group]))
        self.judge(change)
        self.connections = change.connections
        self.node.saw(change, self.name)
        stats = self.environment.stats
        opening = Counter({text: count for text, count in change.faults.items() if text.startswith(NOT_SUBSCRIBED)})
        record(
            stats,
            f"{self.row}{SESSION}",
            count=len(change.setups),
            times=change.setups,
            began=change.began,
            ended=change.looked,
            faults=opening,
            total=False,
        )
        record(
            stats,
            f"{self.row}{MESSAGE}",
            count=change.deliveries,
            times=change.latencies,
            ended=change.last_message,
            size=change.bytes,
            faults=change.faults - opening,
            total=self.keeps_up,
        )

    def _amiss(self, expected: int, counted: dict[str, Any]) -> Counter[str]:
        """Compare the messages on all connections with what was published."""
        if counted["failures"] or counted["broken"]:
            return Counter()  # which is why some are missing, and is told
        missing = expected - counted["messages"]
        # Counter's + keeps what is above 0.
        return +Counter(
            {
                "not delivered in time": missing - counted["lost"],
                "delivered more often than published": -missing - counted["duplicated"],
            }
        )

    def judge(self, change: Change) -> None:
        """Take out of the faults what should happen to this class."""


class Listener(ShardUser):
    """Connects, authorizes, subscribes, receives."""

    weight = 1

    def make_plan(self, slot: int, from_start: bool) -> Plan:
        """See :meth:`ShardUser.make_plan`."""
        return self.node.options.listener(slot, from_start)


class Churner(ShardUser):
    """Comes, subscribes, leaves: so many connections at a time, of which the oldest is replaced again and again."""

    fixed_count = 1
    row = "visitor "

    def make_plan(self, slot: int, from_start: bool) -> Plan:
        """See :meth:`ShardUser.make_plan`."""
        return self.node.options.churner()

    def _open(self) -> int:
        pid = super()._open()
        assert self.shard is not None
        with self._lock:
            self.shard.ask("churn", group=self.plan.group, rate=self.node.options.churn)
        return pid


class SlowReader(ShardUser):
    """Reads a trickle. That wsd gives it up (4008) is what should happen; it comes back again and again."""

    fixed_count = 1
    row = "slow "
    keeps_up = False

    def make_plan(self, slot: int, from_start: bool) -> Plan:
        """See :meth:`ShardUser.make_plan`."""
        return self.node.options.slow_reader()

    def judge(self, change: Change) -> None:
        """See :meth:`ShardUser.judge`."""
        # More often without a close frame than with one, as a slow reader doesn't come to read it.
        given_up = [text for text in change.faults if text.startswith("connection ended") or text == "closed with 4008"]
        for text in given_up:
            del change.faults[text]

    @task
    def report(self) -> None:
        """See :meth:`ShardUser.report`."""
        super().report()
        if time.monotonic() - self.opened_at > SLOW_LIFE:
            self.reconnect()


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def add_arguments(parser: LocustArgumentParser) -> None:
    """Locust reads its command line."""
    add_options(parser)


@events.init.add_listener  # type: ignore[untyped-decorator]
def prepare(environment: Environment, **_: object) -> None:
    """Locust has started."""
    parsed, runner = environment.parsed_options, environment.runner
    assert parsed is not None and runner is not None
    conductor = None
    if not isinstance(runner, WorkerRunner):
        environment.host = environment.host or parsed.wsd_hosts or ("started by Locust" if parsed.wsd_own else None)
        conductor = Conductor(environment)
        parsed.num_users = parsed.num_users or users_needed(environment)
        Shape.storm = staticmethod(conductor.storm)
        choose_shape(environment, parsed.wsd_shape)
        if environment.web_ui is not None:
            add_page(environment, environment.web_ui, conductor)
            add_shape_to_form(environment, environment.web_ui)
    if not isinstance(runner, MasterRunner):
        # After the conductor: when a test starts, it sets what the node then reads.
        NODES[environment] = Node(environment, parsed.wsd_key_file)


def users_needed(environment: Environment) -> int:
    """How many users it takes: one of each other class, and the Listeners for all subscribers, or one."""
    parsed = environment.parsed_options
    assert parsed is not None
    wanted = subscriptions(parsed.wsd_topics, parsed.wsd_subscribers, max(parsed.wsd_topics_each, 1))
    listeners = ceil(wanted / max(parsed.wsd_connections, 1)) or 1
    return sum(kind.fixed_count or listeners for kind in environment.user_classes)


def choose_shape(environment: Environment, name: str) -> None:
    """Locust takes the first shape that it finds in this file; ours is chosen by option."""
    kind = SHAPES.get(name)
    environment.shape_class = kind() if kind is not None else None
    if environment.shape_class is not None:
        environment.shape_class.runner = environment.runner


def add_shape_to_form(environment: Environment, web_ui: WebUI) -> None:
    """Let the form that starts a run choose the shape. Locust asks for the shape before it reads the form."""
    assert web_ui.app is not None

    @web_ui.app.before_request
    def choose() -> None:
        runner = environment.runner
        # The same form, with fewer fields, changes a run that is under way.
        if request.endpoint == "locust.swarm" and runner is not None and runner.state in (STATE_INIT, STATE_STOPPED):
            choose_shape(environment, request.form.get("wsd_shape", ""))
