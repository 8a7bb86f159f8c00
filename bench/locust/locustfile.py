"""The bench's generators behind Locust's front: see README.md in this folder.

A Locust user is not one client here but a shard of many, because a greenlet per socket and a frame parser in Python end
at tens of thousands of deliveries a second, and wsd does millions. The sockets of a user are in a process of their own
(``bench.load.shard``). Once a second the user asks this process over a pipe what it has counted, and puts that into
Locust's statistics in bulk (``stats``).
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
from bench.load.group import Plan
from bench.load.histogram import Histogram
from bench.locust.conductor import Conductor
from bench.locust.node import Node
from bench.locust.options import add_options, subscriptions
from bench.locust.page import add_page
from bench.locust.shapes import SHAPES, Shape, Steps, Storm
from bench.locust.stats import MESSAGE, NOT_SUBSCRIBED, SESSION, Change, Watch, record
from bench.locust.tables import install

__all__ = ["Churner", "Listener", "SlowReader", "Steps", "Storm"]

SETTLE = 0.5
"""Seconds until no message is under way any more, where nobody knows how many messages to wait for."""

LOOK = 0.2
"""Seconds between two looks at a shard that opens its connections."""

SLOW_LIFE = 30.0
"""Seconds until a SlowReader reconnects. Once wsd has cut it off, the kernels still hold megabytes for it, and it would
see the end of the connection when it has read these, which takes an hour at its pace."""

install()

NODES: dict[Environment, Node] = {}
"""The node of each environment. A process has one of each."""


class ShardUser(User):
    """A user that has a shard."""

    abstract = True
    wait_time = constant_pacing(1.0)  # from one report to the next
    row = ""  # begins the names of its rows in Locust's statistics
    keeps_up = True  # whether its deliveries count in Locust's total

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.connections = 0  # that are subscribed
        self.opened_at = 0.0  # when they last were opened, time.monotonic()
        self.node = NODES[environment]  # the users of this process
        self.name = ""  # its name among all users; "" until it has joined
        self.shard: Shard | None = None  # None before the user has started and when it has ended
        self.plan: Plan  # what the shard does; once the user has joined
        self.watch: Watch  # what the shard has counted; once the user has joined
        self._lock = RLock()  # a shard takes one command at a time
        self._finished = False  # the user has drained, and what comes later doesn't count

    def make_plan(self, slot: int, from_start: bool) -> Plan:
        """Return what the shard is to do.

        Args:
            slot: the number of the user in its class.
            from_start: whether it is subscribed before the publisher begins.
        """
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
        """Open the shard's connections; return its process."""
        shard = self.shard = Shard()
        with self._lock:
            shard.begin("open", **asdict(self.plan))
        self._await_opened()
        return shard.pid

    def _await_opened(self) -> None:
        """Report until all connections are subscribed or have failed. The shard sees to it that this ends."""
        while True:
            with self._lock:
                if self.shard is None:
                    return
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
        self._end()
        self.connections = 0
        if self.name:
            self.node.leave(self.name)

    @task
    def report(self) -> None:
        """Put what is new into Locust's statistics."""
        try:
            with self._lock:
                if self.shard is not None:
                    self._look(self.shard.stats())
        except (GeneratorError, OSError) as exc:
            self._fail(exc)

    def reconnect(self) -> None:
        """Reset all connections and open them again, at once."""
        try:
            with self._lock:
                if self.shard is None:
                    return
                self._look(self.shard.stats())
                self.watch.reconnected()
                self.shard.begin("storm", group=self.plan.group)
            self._await_opened()
        except (GeneratorError, OSError) as exc:
            self._fail(exc)

    def drain(self, published: int, topics: int) -> None:
        """Wait for all that was published, and report for the last time."""
        try:
            with self._lock:
                if self.shard is None or self._finished:
                    return
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
        self._end()

    def _end(self) -> None:
        """End the shard."""
        with self._lock:
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
            return Counter()  # that is why messages are missing, and it is told already
        missing = expected - counted["messages"]
        # Counter's + keeps what is above 0.
        return +Counter(
            {
                "not delivered in time": missing - counted["lost"],
                "delivered more often than published": -missing - counted["duplicated"],
            }
        )

    def judge(self, change: Change) -> None:
        """Take out of the faults what is no fault of this class."""


class Listener(ShardUser):
    """Connects, authorizes, subscribes, receives."""

    weight = 1

    def make_plan(self, slot: int, from_start: bool) -> Plan:
        """See :meth:`ShardUser.make_plan`."""
        return self.node.options.listener(slot, from_start)


class Churner(ShardUser):
    """Connects, authorizes, subscribes, leaves: the oldest of its connections are replaced all the time."""

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
    """Reads a trickle. wsd should cut it off (4008), and it comes back again and again."""

    fixed_count = 1
    row = "slow "
    keeps_up = False

    def make_plan(self, slot: int, from_start: bool) -> Plan:
        """See :meth:`ShardUser.make_plan`."""
        return self.node.options.slow_reader()

    def judge(self, change: Change) -> None:
        """See :meth:`ShardUser.judge`."""
        # Its connections mostly end without a close frame, because a slow reader never gets to reading that.
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
        # After the conductor, which sets what the node reads when a test starts.
        NODES[environment] = Node(environment, parsed.wsd_key_file)


def users_needed(environment: Environment) -> int:
    """How many users a run takes: as many Listeners as all subscribers need, and one of each other class."""
    parsed = environment.parsed_options
    assert parsed is not None
    wanted = subscriptions(parsed.wsd_topics, parsed.wsd_subscribers, max(parsed.wsd_topics_each, 1))
    listeners = ceil(wanted / max(parsed.wsd_connections, 1)) or 1
    return sum(kind.fixed_count or listeners for kind in environment.user_classes)


def choose_shape(environment: Environment, name: str) -> None:
    """Choose the load shape. By itself, Locust takes the first shape that it finds in this file."""
    kind = SHAPES.get(name)
    environment.shape_class = kind() if kind is not None else None
    if environment.shape_class is not None:
        environment.shape_class.runner = environment.runner


def add_shape_to_form(environment: Environment, web_ui: WebUI) -> None:
    """Let the form that starts a run choose the shape. Locust's own handler takes the shape that is there already."""
    assert web_ui.app is not None

    @web_ui.app.before_request
    def choose() -> None:
        runner = environment.runner
        # The same form, with fewer fields, changes a run that is under way.
        if request.endpoint == "locust.swarm" and runner is not None and runner.state in (STATE_INIT, STATE_STOPPED):
            choose_shape(environment, request.form.get("wsd_shape", ""))
