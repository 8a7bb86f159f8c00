"""What a Locust run can be told: the options, and what they mean together.

Locust shows options in its web page, and the master sends its options to the workers. So no option is a secret: each
machine reads the key that tokens are signed with from a file or from its environment.
"""

from __future__ import annotations

import os
import socket
from argparse import Namespace
from dataclasses import dataclass, fields, replace
from math import ceil, gcd
from pathlib import Path
from urllib.parse import urlsplit

from locust.argument_parser import LocustArgumentParser

from bench.load.group import Plan
from bench.load.wire import MIN_SIZE
from bench.locust.shapes import SHAPES
from bench.servers.server import KEY

__all__ = ["KEY_VARIABLE", "OptionError", "Options", "add_options", "subscriptions"]

KEY_VARIABLE = "WSD_BENCH_KEY"
"""The environment variable that holds the key if no file does."""

SAMPLED_PER_SECOND = 20_000
"""Messages per second that a user looks at. To look at one takes 2 µs, so all take 4 % of a core."""

SLOW_RECEIVE_BUFFER = 4096
"""SO_RCVBUF of a slow reader, in bytes: the less its kernel takes, the sooner wsd sees that the reader lags."""

WSD_PORT = 3000
"""The port of a wsd that is named without one. Its admin port is the next one."""

REDIS_PORT = 6379
"""The port of a Redis that is named without one."""


DERIVED = ("addresses", "admin", "redis", "key")
"""What is made of several options, or of one in another form."""

POSITIVE = (
    "topics",
    "topics_each",
    "connections",
    "rate",
    "visitors",
    "slow_bytes",
    "replicas",
    "workers",
    "steps",
    "step_seconds",
    "storm_seconds",
)
"""Options that must be above 0."""

NOT_NEGATIVE = ("subscribers", "churn", "slow", "ramp", "think")
"""Options that can be 0, but not less."""


class OptionError(ValueError):
    """An option has a value that can't be, or two don't fit each other. The text names them."""


def add_options(parser: LocustArgumentParser) -> None:
    """Add the options to Locust's own."""
    # No groups: only the parser itself knows include_in_web_ui.
    add = parser.add_argument
    # Locust's host is the list of replicas: the web page has a field for it, and the workers get it.
    text = "the wsd to measure: HOST:PORT, several with commas between them; the same as --host"
    add("--wsd-hosts", default="", include_in_web_ui=False, help=text)
    text = "admin ports of the wsd, HOST:PORT with commas between them: for the plots of CPU and memory of wsd"
    add("--wsd-admin", default="", help=text)
    add("--wsd-redis-url", default="redis://127.0.0.1:6379", help="where to publish: the Redis of the wsd")
    text = f"file with the HS256 secret that signs tokens; without it {KEY_VARIABLE}; without both no token"
    add("--wsd-key-file", default="", include_in_web_ui=False, help=text)
    add("--wsd-own", action="store_true", default=False, help="start a Redis and wsd on this machine, for this run")
    add("--wsd-replicas", type=int, default=1, help="how many wsd --wsd-own starts")
    add("--wsd-workers", type=int, default=1, help="how many workers each of them has")
    add("--wsd-topics", type=int, default=1, help="topics that are published to, in turn")
    add("--wsd-topics-each", type=int, default=1, help="topics that a connection subscribes to")
    add("--wsd-subscribers", type=int, default=0, help="subscribers of each topic; 0: as many as the users have")
    add("--wsd-connections", type=int, default=1000, help="connections of a Listener, at most")
    add("--wsd-rate", type=float, default=100.0, help="messages published per second, over all topics")
    add("--wsd-size", type=int, default=100, help=f"bytes of a payload, at least {MIN_SIZE}")
    add("--wsd-visitors", type=int, default=50, help="connections of a Churner at a time")
    add("--wsd-churn", type=float, default=10.0, help="connections per second that a Churner replaces")
    add("--wsd-slow", type=int, default=10, help="connections of a SlowReader")
    add("--wsd-slow-bytes", type=int, default=2000, help="bytes per second that a connection of a SlowReader reads")
    add("--wsd-ramp", type=float, default=0.0, help="connections opened per second, over all Listeners; 0: at once")
    text = "seconds that a client thinks before each of its requests, give or take a half; 0: it sends them together"
    add("--wsd-think", type=float, default=0.0, help=text)
    text = "connections that end unasked come back after 1 s, 2 s, 4 s up to 30 s, give or take a half"
    add("--wsd-reconnect", action="store_true", default=False, help=text)
    text = "how the load changes over time; users, spawn rate and run time apply"
    add("--wsd-shape", choices=("none", *SHAPES), default="none", help=text)
    add("--wsd-steps", type=int, default=5, help="shape steps: how many there are")
    add("--wsd-step-seconds", type=float, default=30.0, help="shape steps: seconds that each takes")
    add("--wsd-storm-seconds", type=float, default=30.0, help="shape storm: seconds from one to the next")


@dataclass(frozen=True, slots=True)
class Options:
    """The options of one run, checked."""

    addresses: list[tuple[str, int]]  # of the wsd, as IPv4 addresses
    admin: list[tuple[str, int]]  # of their admin ports; empty: nobody looks at their metrics
    redis: tuple[str, int]
    key: str  # that signs tokens; "" for no token
    # As the options with these names say:
    topics: int
    topics_each: int
    subscribers: int
    connections: int
    rate: float
    size: int
    visitors: int
    churn: float
    slow: int
    slow_bytes: int
    ramp: float
    think: float
    reconnect: bool

    @classmethod
    def read(cls, parsed: Namespace, host: str | None, key_file: str = "") -> Options:
        """Check what Locust parsed.

        Args:
            parsed: from the command line, the web page or the master.
            host: Locust's host, which is the list of wsd.
            key_file: the file with the key that this machine was told of; "" if of none.

        Raises:
            OptionError: if a value can't be.
        """
        for name in POSITIVE:
            if getattr(parsed, f"wsd_{name}") <= 0:
                raise OptionError(f"{_flag(name)} must be above 0")
        for name in NOT_NEGATIVE:
            if getattr(parsed, f"wsd_{name}") < 0:
                raise OptionError(f"{_flag(name)} can't be below 0")
        if parsed.wsd_topics_each > parsed.wsd_topics:
            raise OptionError("--wsd-topics-each can't be more than --wsd-topics")
        if parsed.wsd_size < MIN_SIZE:
            raise OptionError(f"--wsd-size: a payload of the suite has at least {MIN_SIZE} bytes")
        return cls(
            addresses=_addresses("--host", host or parsed.wsd_hosts, WSD_PORT),
            admin=_addresses("--wsd-admin", parsed.wsd_admin, WSD_PORT + 1),
            redis=_redis(parsed.wsd_redis_url),
            key=KEY if parsed.wsd_own else _key(key_file or parsed.wsd_key_file),
            **{each.name: getattr(parsed, f"wsd_{each.name}") for each in fields(cls) if each.name not in DERIVED},
        )

    def listener(self, slot: int, from_start: bool) -> Plan:
        """The shard of a Listener.

        Args:
            slot: the number of the Listener, from 0, which decides about its topics.
            from_start: whether it is subscribed before the publisher begins.
        """
        first = slot * self.connections
        total = subscriptions(self.topics, self.subscribers, self.topics_each)
        count = min(self.connections, max(total - first, 0)) if total else self.connections
        per_connection = max(self.rate * self.topics_each / self.topics, 0.001)
        return replace(
            self._plan("listeners", count),
            # Connections a whole period apart have the same topics. The number is kept small, because the shard takes
            # source addresses by it, and a machine on a network has one.
            first=first % (self.topics // gcd(self.topics, self.topics_each)),
            sampled=int(min(max(SAMPLED_PER_SECOND / per_connection, 4), 50, count)),
            from_start=from_start,
            reconnect=self.reconnect,
        )

    def turn(self, slot: int) -> float:
        """Seconds from the first connection of the first Listener to the first connection of another one.

        Args:
            slot: the number of the other one.
        """
        return slot * self.connections / self.ramp if self.ramp else 0.0

    def churner(self) -> Plan:
        """The shard of a Churner."""
        return replace(self._plan("visitors", self.visitors), reconnect=self.reconnect)

    def slow_reader(self) -> Plan:
        """The shard of a SlowReader."""
        return replace(self._plan("slow", self.slow), slow=self.slow_bytes, receive_buffer=SLOW_RECEIVE_BUFFER)

    def _plan(self, group: str, count: int) -> Plan:
        return Plan(
            group=group,
            count=count,
            addresses=self.addresses,
            topics=self.topics,
            topics_each=self.topics_each,
            key=self.key,
            sampled=0,
            from_start=False,
            ramp=self.ramp,
            think=self.think,
        )


def _flag(name: str) -> str:
    return f"--wsd-{name.replace('_', '-')}"


def subscriptions(topics: int, subscribers: int, topics_each: int) -> int:
    """How many connections give every topic so many subscribers; 0 if no number of subscribers is asked for."""
    return ceil(topics * subscribers / topics_each)


def _addresses(option: str, text: str, port: int) -> list[tuple[str, int]]:
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            url = urlsplit(part if "//" in part else f"//{part}")
            if url.scheme not in ("", "ws", "http") or not url.hostname:
                raise ValueError(f"not HOST:PORT: {part!r}")
            # Resolved here, because the shard's event loop must not wait for a name server.
            found.append((socket.gethostbyname(url.hostname), url.port or port))
        except (ValueError, OSError) as exc:
            raise OptionError(f"{option}: {part!r}: {exc}") from None
    return found


def _redis(text: str) -> tuple[str, int]:
    url = urlsplit(text)
    if url.scheme != "redis" or not url.hostname:
        raise OptionError(f"--wsd-redis-url: not redis://HOST:PORT: {text!r}")
    if url.username or url.password:
        # A password would stand in the list of processes, too.
        raise OptionError("--wsd-redis-url: the publisher doesn't log in; let it publish to a Redis without a password")
    return url.hostname, url.port or REDIS_PORT


def _key(path: str) -> str:
    if not path:
        return os.environ.get(KEY_VARIABLE, "")
    try:
        # As wsd reads its jwt_key_file: a line end at the end is no part of the secret.
        return Path(path).read_text().removesuffix("\n").removesuffix("\r")
    except OSError as exc:
        raise OptionError(f"--wsd-key-file: {exc}") from None
