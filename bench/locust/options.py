"""What a Locust run of the suite can be told: the options, and what they mean together.

Locust shows options in its web page and sends the master's to the workers. So nothing secret is one: the key that
tokens are signed with comes from a file or from the environment, on every machine for itself.
"""

from __future__ import annotations

import os
import socket
from argparse import Namespace
from dataclasses import dataclass
from math import ceil, gcd
from pathlib import Path
from urllib.parse import urlsplit

from locust.argument_parser import LocustArgumentParser

from bench.load.shard import Plan
from bench.load.wire import MIN_SIZE
from bench.locust.shapes import SHAPES
from bench.servers.server import KEY

__all__ = ["KEY_VARIABLE", "OptionError", "Options", "add_options", "subscriptions"]

KEY_VARIABLE = "WSD_BENCH_KEY"
"""The environment variable that holds the key, where no file does."""

SAMPLED_PER_SECOND = 20_000
"""Messages per second and user that are looked at. One costs 2 µs, so that is a few per cent of a core."""

SLOW_RECEIVE_BUFFER = 4096
"""SO_RCVBUF of a slow reader, in bytes: the less the kernel takes for it, the sooner wsd sees that it lags."""

WSD_PORT = 3000
REDIS_PORT = 6379


class OptionError(ValueError):
    """Options that can't be, or don't fit each other. The text names them."""


def add_options(parser: LocustArgumentParser) -> None:
    """Add the options to Locust's own."""
    # No groups: only the parser itself knows include_in_web_ui.
    add = parser.add_argument
    # Locust's host is the list of replicas: it has a field on the web page, and it is sent to the workers.
    add(
        "--wsd-hosts",
        default="",
        include_in_web_ui=False,
        help="replicas: a comma list of HOST:PORT; the same as --host",
    )
    add(
        "--wsd-admin",
        default="",
        help="their admin ports, comma list of HOST:PORT: charts of the daemon's CPU and memory",
    )
    add("--wsd-redis-url", default="redis://127.0.0.1:6379", help="where to publish: the Redis of the replicas")
    add(
        "--wsd-key-file",
        default="",
        include_in_web_ui=False,
        help=f"file with the HS256 secret that tokens are signed with; or set {KEY_VARIABLE}; neither: no token",
    )
    add("--wsd-own", action="store_true", default=False, help="start a Redis and wsd of its own, on this machine")
    add("--wsd-replicas", type=int, default=1, help="how many wsd to start with --wsd-own")
    add("--wsd-topics", type=int, default=1, help="topics")
    add("--wsd-topics-each", type=int, default=1, help="topics that a connection subscribes to")
    add("--wsd-subscribers", type=int, default=0, help="subscribers per topic; 0: as many as the users bring")
    add("--wsd-connections", type=int, default=1000, help="connections of one Listener, at most: its shard")
    add("--wsd-rate", type=float, default=100.0, help="messages published per second, over all topics")
    add("--wsd-size", type=int, default=100, help=f"bytes of a payload, at least {MIN_SIZE}")
    add("--wsd-visitors", type=int, default=50, help="connections of a Churner at a time")
    add("--wsd-churn", type=float, default=10.0, help="connections per second that a Churner replaces")
    add("--wsd-slow", type=int, default=10, help="connections of a SlowReader")
    add("--wsd-slow-bytes", type=int, default=2000, help="bytes per second that each of those reads")
    add("--wsd-ramp", type=float, default=0.0, help="connections opened per second, over all Listeners; 0: at once")
    text = "seconds that a client thinks before each of its requests, give or take a half; 0: it sends them together"
    add("--wsd-think", type=float, default=0.0, help=text)
    text = "connections that end unasked come back after 1 s, 2 s, 4 s up to 30 s, give or take a half"
    add("--wsd-reconnect", action="store_true", default=False, help=text)
    text = "how the load changes over time; users, spawn rate and run time apply"
    add("--wsd-shape", choices=("none", *SHAPES), default="none", help=text)
    add("--wsd-steps", type=int, default=5, help="steps: from a part of the users to all, in so many steps")
    add("--wsd-step-seconds", type=float, default=30.0, help="steps: seconds on each")
    add("--wsd-storm-seconds", type=float, default=30.0, help="storm: seconds from one to the next")


@dataclass(frozen=True, slots=True)
class Options:
    """The options of one run, checked."""

    addresses: list[tuple[str, int]]  # of the replicas, as IPv4 addresses
    admin: list[tuple[str, int]]
    redis: tuple[str, int]
    key: str
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
            host: Locust's host: the replicas.
            key_file: this machine's own, if it was told one.

        Raises:
            OptionError: if something can't be.
        """
        for name in ("topics", "topics_each", "connections", "rate", "visitors", "slow_bytes", "replicas"):
            if getattr(parsed, f"wsd_{name}") <= 0:
                raise OptionError(f"--wsd-{name.replace('_', '-')} must be above 0")
        for name in ("ramp", "think"):
            if getattr(parsed, f"wsd_{name}") < 0:
                raise OptionError(f"--wsd-{name} can't be below 0")
        if parsed.wsd_topics_each > parsed.wsd_topics:
            raise OptionError("--wsd-topics-each can't be more than --wsd-topics")
        if parsed.wsd_size < MIN_SIZE:
            raise OptionError(f"--wsd-size: a payload of the suite has at least {MIN_SIZE} bytes")
        return cls(
            addresses=_addresses("--host", host or parsed.wsd_hosts, WSD_PORT),
            admin=_addresses("--wsd-admin", parsed.wsd_admin, WSD_PORT + 1),
            redis=_redis(parsed.wsd_redis_url),
            key=KEY if parsed.wsd_own else _key(key_file or parsed.wsd_key_file),
            topics=parsed.wsd_topics,
            topics_each=parsed.wsd_topics_each,
            subscribers=parsed.wsd_subscribers,
            connections=parsed.wsd_connections,
            rate=parsed.wsd_rate,
            size=parsed.wsd_size,
            visitors=parsed.wsd_visitors,
            churn=parsed.wsd_churn,
            slow=parsed.wsd_slow,
            slow_bytes=parsed.wsd_slow_bytes,
            ramp=parsed.wsd_ramp,
            think=parsed.wsd_think,
            reconnect=parsed.wsd_reconnect,
        )

    def listener(self, slot: int, from_start: bool) -> Plan:
        """The shard of a Listener.

        Args:
            slot: its number among the Listeners, from 0: it decides which topics it takes.
            from_start: whether it is subscribed before the publisher begins.
        """
        first = slot * self.connections
        total = subscriptions(self.topics, self.subscribers, self.topics_each)
        count = min(self.connections, max(total - first, 0)) if total else self.connections
        per_connection = max(self.rate * self.topics_each / self.topics, 0.001)
        return self._plan(
            "listeners",
            count=count,
            # Connections a whole period apart have the same topics. The number is kept small, as the shard takes source
            # addresses by it, of which a machine on a network has one.
            first=first % (self.topics // gcd(self.topics, self.topics_each)),
            sampled=int(min(max(SAMPLED_PER_SECOND / per_connection, 4), 50, count)),
            from_start=from_start,
            reconnect=self.reconnect,
        )

    def turn(self, slot: int) -> float:
        """Seconds from the first connection of the first Listener to the first one of another.

        Args:
            slot: the other's number among the Listeners.
        """
        return slot * self.connections / self.ramp if self.ramp else 0.0

    def churner(self) -> Plan:
        """The shard of a Churner."""
        return self._plan("visitors", count=self.visitors, reconnect=self.reconnect)

    def slow_reader(self) -> Plan:
        """The shard of a SlowReader."""
        return self._plan("slow", count=self.slow, slow=self.slow_bytes, receive_buffer=SLOW_RECEIVE_BUFFER)

    def _plan(
        self,
        group: str,
        *,
        count: int,
        sampled: int = 0,
        from_start: bool = False,
        first: int = 0,
        reconnect: bool = False,
        slow: int = 0,
        receive_buffer: int = 0,
    ) -> Plan:
        return Plan(
            group=group,
            count=count,
            addresses=self.addresses,
            topics=self.topics,
            topics_each=self.topics_each,
            key=self.key,
            sampled=sampled,
            from_start=from_start,
            first=first,
            ramp=self.ramp,
            think=self.think,
            reconnect=reconnect,
            slow=slow,
            receive_buffer=receive_buffer,
        )


def subscriptions(topics: int, subscribers: int, topics_each: int) -> int:
    """How many connections it takes to give every topic so many subscribers; 0 if that isn't asked for."""
    return ceil(topics * subscribers / topics_each)


def _addresses(option: str, text: str, port: int) -> list[tuple[str, int]]:
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            url = urlsplit(part if "//" in part else f"//{part}")
            if url.scheme not in ("", "ws", "http") or not url.hostname:
                raise ValueError(f"not HOST:PORT: {part!r}")
            # Resolved once, here, as the shard's event loop must not wait for a name server.
            found.append((socket.gethostbyname(url.hostname), url.port or port))
        except (ValueError, OSError) as exc:
            raise OptionError(f"{option}: {part!r}: {exc}") from None
    return found


def _redis(text: str) -> tuple[str, int]:
    url = urlsplit(text)
    if url.scheme != "redis" or not url.hostname:
        raise OptionError(f"--wsd-redis-url: not redis://HOST:PORT: {text!r}")
    if url.username or url.password:
        # And it would stand in the list of processes.
        raise OptionError("--wsd-redis-url: the publisher doesn't log in; let it publish to a Redis without a password")
    return url.hostname, url.port or REDIS_PORT


def _key(path: str) -> str:
    if not path:
        return os.environ.get(KEY_VARIABLE, "")
    try:
        # As wsd reads its jwt_key_file: one line end at the end isn't part of the secret.
        return Path(path).read_text().removesuffix("\n").removesuffix("\r")
    except OSError as exc:
        raise OptionError(f"--wsd-key-file: {exc}") from None
