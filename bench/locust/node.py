"""What every process that runs users has: their shards, their numbers, and the wire to the conductor.

A Locust that runs alone has one :class:`Node`, and so has each worker of a distributed one. The other end of the wire
is ``conductor``, whose docstring lists the messages. In a Locust that runs alone the messages are calls.
"""

# Locust is typed, but not all of it.
# mypy: untyped-calls-exclude=locust

from __future__ import annotations

import logging
import os
import socket
import time
from pathlib import Path
from typing import Any, Protocol

import gevent  # type: ignore[import-untyped,unused-ignore]
import psutil
from gevent.event import AsyncResult  # type: ignore[import-untyped,unused-ignore]
from locust.env import Environment
from locust.rpc import Message
from locust.runners import WorkerRunner

from bench.locust.options import OptionError, Options
from bench.locust.stats import Change, Second
from bench.measure.machine import cpu_seconds, memory_bytes
from bench.measure.verdicts import GENERATOR_LIMIT

__all__ = ["Member", "Node", "Place", "clock"]

logger = logging.getLogger("bench.locust")

Place = dict[str, Any]
"""What the conductor says to a user that joins: ``slot``, ``from_start``, ``wait``."""


def clock() -> str:
    """Name the clock that stamps are made with: CLOCK_MONOTONIC counts from the start of a machine, which has an id."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


class Member(Protocol):
    """A user, as its node sees it."""

    connections: int

    def reconnect(self) -> None:
        """Reset all connections and open them again."""

    def drain(self, published: int, topics: int) -> None:
        """Wait for all that was published, and report for the last time."""


class Node:
    """The users of this process.

    Args:
        environment: Locust's.
        key_file: the file with the key, as this very process was told. The master's may be another.
    """

    def __init__(self, environment: Environment, key_file: str) -> None:
        self.options: Options  # of the run; once it has started
        self.timed = True  # whether the publisher has the same clock, so that its stamps tell latencies
        self.drained = False  # whether all users have reported for the last time
        self.seconds: dict[int, Second] = {}  # what the conductor doesn't know yet, by the second
        self._environment = environment
        self._key_file = key_file
        self._members: dict[str, Member] = {}  # the users, by name
        self._places: dict[str, AsyncResult] = {}  # what the conductor answers them, by name
        self._joined = 0  # users so far: names aren't used twice
        self._shards: dict[str, int] = {}  # the processes of the users, by name
        self._sampling: gevent.Greenlet | None = None  # runs from the start of a test to its end
        self._warned = False  # a shard that is the limit was told of
        runner = environment.runner
        assert runner is not None
        self._runner = runner
        runner.register_message("wsd-place", self._on_place)
        runner.register_message("wsd-storm", self._on_storm)
        runner.register_message("wsd-drain", self._on_drain)
        environment.events.test_start.add_listener(self._on_start)
        environment.events.test_stop.add_listener(self._on_stop)
        if isinstance(runner, WorkerRunner):
            environment.events.report_to_master.add_listener(self._on_report)

    # For the users.

    def join(self, member: Member, kind: str) -> tuple[str, Place]:
        """A user comes: wait until the conductor says where to. Return the user's name, and what the conductor said."""
        self._joined += 1
        name = f"{kind}-{self._joined}"
        self._members[name] = member
        place = self._places[name] = AsyncResult()
        self._runner.send_message("wsd-join", {"name": name, "kind": kind})
        answer: Place = place.get()
        return name, answer

    def opened(self, name: str, pid: int) -> None:
        """A user's connections are subscribed."""
        self._shards[name] = pid
        self._runner.send_message("wsd-open", {"name": name})

    def leave(self, name: str) -> None:
        """A user goes."""
        self._members.pop(name, None)
        self._places.pop(name, None)
        self._shards.pop(name, None)
        self._runner.send_message("wsd-leave", {"name": name})

    def fail(self, text: str) -> None:
        """Something happened after which the run makes no sense."""
        self._runner.send_message("wsd-fail", {"text": text})

    def saw(self, change: Change, name: str) -> None:
        """Add what a shard saw to the charts."""
        self._second().add(change)
        if change.share > GENERATOR_LIMIT and not self._warned:
            self._warned = True
            logger.warning(
                "GENERATOR-BOUND: the shard of %s used %.0f %% of its core. Its latencies and rates are limits of the"
                " shard and not of wsd: take more users with fewer connections, or more machines.",
                name,
                100 * change.share,
            )

    # From the conductor.

    def _on_place(self, environment: Environment, msg: Message) -> None:
        if place := self._places.get(msg.data["name"]):
            place.set(msg.data)

    def _on_storm(self, environment: Environment, msg: Message) -> None:
        for member in list(self._members.values()):
            gevent.spawn(member.reconnect)

    def _on_drain(self, environment: Environment, msg: Message) -> None:
        gevent.spawn(self._drain, msg.data["published"], msg.data["topics"])

    def _drain(self, published: int, topics: int) -> None:
        gevent.joinall([gevent.spawn(member.drain, published, topics) for member in list(self._members.values())])
        self.drained = True
        if not isinstance(self._runner, WorkerRunner):
            self._runner.send_message("wsd-report", self._report())

    # From Locust.

    def _on_start(self, environment: Environment, **_: object) -> None:
        self.drained = self._warned = False
        self.seconds.clear()
        parsed = environment.parsed_options
        assert parsed is not None
        try:
            self.options = Options.read(parsed, environment.host, self._key_file)
        except OptionError as exc:
            self.fail(str(exc))
            return
        for host, port in self.options.addresses:
            try:
                socket.create_connection((host, port), timeout=5).close()
            except OSError as exc:
                self.fail(f"no wsd at {host}:{port}: {exc}")
                return
        self.timed = parsed.wsd_clock == clock()
        if not self.timed:
            logger.warning(
                "The publisher runs on another machine, which has another CLOCK_MONOTONIC: deliveries are counted and"
                " checked here, but not timed."
            )
        if self._sampling is None:
            self._sampling = gevent.spawn(self._sample)

    def _on_stop(self, environment: Environment, **_: object) -> None:
        if self._sampling is not None:
            self._sampling.kill()
            self._sampling = None
            if not isinstance(self._runner, WorkerRunner):
                self._runner.send_message("wsd-report", self._report())

    def _on_report(self, client_id: str, data: dict[str, Any]) -> None:
        # Locust's own listener comes before this one, so what a drained user recorded is in the same report.
        data["wsd"] = self._report()

    def _report(self) -> dict[str, Any]:
        seconds = {str(at): second.dump() for at, second in self.seconds.items()}
        self.seconds.clear()
        return {"drained": self.drained, "timed": self.timed, "seconds": seconds}

    # The charts.

    def _second(self) -> Second:
        return self.seconds.setdefault(int(time.time()), Second(reported=True))

    def _sample(self) -> None:
        """Once a second: what the users have, and what this process and its shards use."""
        before: dict[int, float] = {os.getpid(): cpu_seconds([os.getpid()])}
        at_before = time.monotonic()
        psutil.cpu_percent()  # each call tells the share since the one before
        while True:
            gevent.sleep(1.0 - time.time() % 1.0)
            used = {pid: cpu_seconds([pid]) for pid in (os.getpid(), *filter(None, self._shards.values()))}
            second, at = self._second(), time.monotonic()
            elapsed = at - at_before
            second.connections += sum(member.connections for member in self._members.values())
            cores = {pid: (cpu - before.get(pid, 0.0)) / elapsed for pid, cpu in used.items()}
            second.cpu["locust"] = cores.pop(os.getpid())
            second.cpu["shards"] = sum(cores.values())
            second.memory["locust"] = memory_bytes([os.getpid()])
            second.memory["shards"] = memory_bytes(cores)
            second.machine = psutil.cpu_percent() / 100
            before, at_before = used, at
            if not isinstance(self._runner, WorkerRunner):
                self._runner.send_message("wsd-report", self._report())
