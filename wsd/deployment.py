"""Where Redis is, and how to get in: the values that a ``redis_url`` is parsed into.

A `Deployment` is one server, the Sentinels that know where the master is, or some nodes of a Cluster. Its ``str()``
shows no user and no password, its ``repr()`` no password.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Address
from typing import TypeAlias

from wsd.tls import TLS

__all__ = [
    "REDIS_PORT",
    "Address",
    "Cluster",
    "Deployment",
    "Sentinel",
    "Standalone",
    "addresses",
    "check_host",
    "is_sharded",
    "named",
    "place_text",
]

REDIS_PORT = 6379

HOST_MOST = 253
"""Letters of a name in DNS (RFC 1035, section 2.3.4, without the bytes of its lengths)."""

_NAME = r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?"  # a host; containers are called redis_1, too


@dataclass(frozen=True, slots=True)
class Address:
    """One Redis server."""

    host: str = ""
    port: int = REDIS_PORT
    path: str = ""  # of a unix socket; then host and port don't count
    username: str = ""  # "" is Redis's user "default"
    password: str = field(default="", repr=False)
    tls: TLS | None = field(default=None, repr=False)
    client_name: str = "wsd"  # what CLIENT LIST calls a connection

    def __str__(self) -> str:
        return f"unix://{self.path}" if self.path else f"{'rediss' if self.tls else 'redis'}://{self.place}"

    @property
    def place(self) -> str:
        """Host and port, as a URL has them."""
        return place_text(self.host, self.port)

    @property
    def login(self) -> tuple[str, bytes, bytes] | tuple[()]:
        """The words of HELLO that log in.

        A user without a password logs in with an empty one, which Redis takes from a user who has ``nopass``. Without
        AUTH it would be the user "default", who may do more.
        """
        if not self.username and not self.password:
            return ()
        return "AUTH", _bytes(self.username or "default"), _bytes(self.password)

    def at(self, host: str, port: int) -> Address:
        """Return another server that takes the same login and speaks TLS if this one does."""
        return replace(self, host=host, port=port, path="")


@dataclass(frozen=True, slots=True)
class Standalone:
    """One server."""

    server: Address

    def __str__(self) -> str:
        return str(self.server)


@dataclass(frozen=True, slots=True)
class Sentinel:
    """A master and its replicas; Sentinels know which is the master."""

    sentinels: tuple[Address, ...]
    name: str  # of the master, among those that the Sentinels watch
    master: Address  # login and TLS of master and replicas; its host is empty

    def __str__(self) -> str:
        return f"the master {self.name} of Sentinel at {_places(self.sentinels)}"


@dataclass(frozen=True, slots=True)
class Cluster:
    """A Redis Cluster; any node knows the others."""

    seeds: tuple[Address, ...]  # the nodes that the URL names

    def __str__(self) -> str:
        return f"the cluster at {_places(self.seeds)}"


Deployment: TypeAlias = Standalone | Sentinel | Cluster


def addresses(deployment: Deployment) -> tuple[Address, ...]:
    """Return all that is known about servers. With Sentinels the last is the master, whose host is empty."""
    match deployment:
        case Standalone(server):
            return (server,)
        case Sentinel(sentinels, _, master):
            return (*sentinels, master)
        case Cluster(seeds):
            return seeds


def named(deployment: Deployment, client_name: str) -> Deployment:
    """Return the same deployment, with a name for our connections.

    Args:
        deployment: where Redis is.
        client_name: what CLIENT LIST calls them: printable ASCII without blanks, or Redis refuses it.
    """

    def rename(server: Address) -> Address:
        return replace(server, client_name=client_name)

    match deployment:
        case Standalone(server):
            return Standalone(rename(server))
        case Sentinel(sentinels, name, master):
            return Sentinel(tuple(map(rename, sentinels)), name, rename(master))
        case Cluster(seeds):
            return Cluster(tuple(map(rename, seeds)))


def is_sharded(deployment: Deployment, pubsub: str) -> bool:
    """Say whether Pub/Sub is sharded.

    Args:
        deployment: of which Redis.
        pubsub: the setting: ``auto``, ``classic`` or ``sharded``.
    """
    return pubsub == "sharded" or (pubsub == "auto" and isinstance(deployment, Cluster))


def place_text(host: str, port: int) -> str:
    """Write host and port as a URL has them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check_host(host: str) -> None:
    """Refuse what can be no host: the resolver would raise an error of its own, or worse, ask.

    Raises:
        ValueError: the text says what is allowed.
    """
    if ":" in host:
        try:
            IPv6Address(host)
        except ValueError:
            host = ""
        if not re.fullmatch("[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]{1,32})?", host):
            raise ValueError("an IPv6 address, or a name without colons, as the host")
        return
    try:
        # The length first, because the codec takes a time that grows with its square. What the codec does with a name
        # that is not ASCII, the resolver does too.
        ascii_name = host.encode("idna").decode() if 0 < len(host) <= HOST_MOST else ""
    except UnicodeError:
        ascii_name = ""
    if len(ascii_name) > HOST_MOST or not re.fullmatch(_NAME, ascii_name):
        raise ValueError(
            "an IP address, or a name in letters, digits, '-' and '_' as the host: parts of 1 to 63 letters with single"
            f" dots between them, {HOST_MOST} letters in all"
        )


def _places(servers: tuple[Address, ...]) -> str:
    return ", ".join(server.place for server in servers)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")  # see `wsd.config.redis_url`, which makes the surrogates
