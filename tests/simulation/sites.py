"""Where messages are published: one Redis, a master with Sentinels, or a Cluster, and what can go wrong with each.

A site knows its servers, the settings that wsd needs for it, and whether a message that is published now can reach wsd.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from random import Random
from typing import Protocol

from tests.simulation.cluster import Cluster, Node
from tests.simulation.loop import SimulatedLoop
from tests.simulation.network import Network
from tests.simulation.redis import Error, Server
from tests.simulation.sentinel import Sentinel, Sentinels
from wsd.redis.slots import SLOTS, key_slot

__all__ = ["KINDS", "Site", "is_reached", "make_site"]

WSD = "10.0.1.1"
"""The host of wsd."""

SWITCH = 5.0
"""Seconds until a publisher goes on at another node."""

BUS = 30.0
"""Seconds until the nodes of a Cluster are connected with one that has come back."""

MASTERS = 3
"""Masters of a Cluster; each has a replica."""


class Site(Protocol):
    """What all sites have."""

    kind: str
    url: str  # redis_url
    pubsub: str  # the setting

    @property
    def servers(self) -> Sequence[Server]:
        """Every server, those that only elect included."""
        ...

    def publish(self, channel: bytes, payload: bytes) -> bool | None:
        """Publish where a publisher would.

        Returns:
            Whether Redis has accepted it; None if Redis itself may have lost it on the way to the server that wsd
            listens to, or to wsd, of which nobody is told.
        """
        ...

    def claimants(self, channel: bytes) -> Sequence[Server]:
        """Those of several servers that take a channel for their own: it is published at one of them."""
        ...

    def home(self, channel: bytes) -> Server | None:
        """Where a channel is published by now, and wsd should listen; None if there is none, or any will do."""
        ...

    def delivers(self) -> bool:
        """Whether messages can come to wsd, as far as the servers and the ways to them are concerned."""
        ...

    def is_silent(self) -> bool:
        """Whether of some topic surely nothing can come to wsd."""
        ...

    def fail_over(self, random: Random) -> str:
        """Let a replica become the master of something; return what happened, "" if nothing could."""
        ...

    def move(self, random: Random, channel: bytes) -> str:
        """Move a channel, and others, to another server; return what happened, "" if nothing could."""
        ...

    def fix(self) -> None:
        """Do what an operator has to do when nothing goes wrong any more, and Redis does not get well by itself."""
        ...


def is_reached(network: Network, server: Server) -> bool:
    """Whether wsd and a server can talk, and the server executes commands."""
    return (
        server.works
        and not server.is_paused(everything=True)
        and not network.is_cut(WSD, server.host)
        and not network.is_cut(server.host, WSD)
    )


class _Single:
    """One Redis."""

    kind = "single"
    url, pubsub = "redis://10.0.0.1:6379", "auto"

    def __init__(self, loop: SimulatedLoop, network: Network) -> None:
        self._network = network
        self._server = Server(loop, network, "10.0.0.1")

    @property
    def servers(self) -> Sequence[Server]:
        return (self._server,)

    def publish(self, channel: bytes, payload: bytes) -> bool:
        return _publish(self._server, channel, payload)

    def claimants(self, channel: bytes) -> Sequence[Server]:
        return ()

    def home(self, channel: bytes) -> Server | None:
        return self._server

    def delivers(self) -> bool:
        return is_reached(self._network, self._server)

    def is_silent(self) -> bool:
        return not self.delivers()

    def fail_over(self, random: Random) -> str:
        return ""

    def move(self, random: Random, channel: bytes) -> str:
        return ""

    def fix(self) -> None:
        pass


class _Elected:
    """A master and two replicas, which three Sentinels watch."""

    kind = "sentinel"
    pubsub = "auto"

    def __init__(self, loop: SimulatedLoop, network: Network) -> None:
        self._network = network
        self._servers = [Server(loop, network, f"10.0.0.{number}") for number in (1, 2, 3)]
        self._team = Sentinels(self._servers)
        self._team.sentinels = [Sentinel(loop, network, f"10.0.2.{number}", self._team) for number in (1, 2, 3)]
        hosts = ",".join(f"{sentinel.host}:26379" for sentinel in self._team.sentinels)
        self.url = f"redis+sentinel://{hosts}/mymaster"

    @property
    def servers(self) -> Sequence[Server]:
        return (*self._servers, *self._team.sentinels)

    def publish(self, channel: bytes, payload: bytes) -> bool | None:
        if not _publish(self._team.master, channel, payload):
            return False
        return None if self.home(channel) is None else _known(self._servers, channel)

    def claimants(self, channel: bytes) -> Sequence[Server]:
        # The one before has not heard of it yet. If it is the master again soon, nobody who stayed there will either.
        return [server for server in self._servers if server.process.alive and server.master is None]

    def home(self, channel: bytes) -> Server | None:
        # A Sentinel that is parted from the others may name another one, but wsd believes most of them. And another one
        # may have made it a replica.
        master, sentinels = self._team.master, self._team.sentinels
        is_agreed = sum(each.address is master for each in sentinels) * 2 > len(sentinels)
        return master if is_agreed and master.master is None else None

    def delivers(self) -> bool:
        return is_reached(self._network, self._team.master)

    def is_silent(self) -> bool:
        return not any(is_reached(self._network, server) for server in self._servers)

    def fail_over(self, random: Random) -> str:
        leaders = [sentinel for sentinel in self._team.sentinels if sentinel.works]
        if not leaders:
            return ""
        leader = random.choice(leaders)
        return f"SENTINEL FAILOVER at {leader.host}" if self._team.fail_over(leader) else ""

    def move(self, random: Random, channel: bytes) -> str:
        return ""

    def fix(self) -> None:
        pass


class _Sharded:
    """A Cluster.

    Args:
        loop: the loop.
        network: the network.
        classic: whether wsd listens to PUBLISH, which every node carries on to all.
    """

    url = "redis+cluster://10.0.0.1:7000,10.0.0.2:7000"

    def __init__(self, loop: SimulatedLoop, network: Network, *, classic: bool) -> None:
        self._loop = loop
        self._network = network
        self._classic = classic
        self._publishes_at: Node | None = None
        self._from = 0.0  # when it begins to publish there
        self.kind = "classic cluster" if classic else "cluster"
        self.pubsub = "classic" if classic else "auto"
        self._cluster = Cluster(network.random)
        hosts = [f"10.0.0.{number}" for number in range(1, 2 * MASTERS + 1)]
        self._cluster.nodes = [Node(loop, network, host, 7000, self._cluster) for host in hosts]
        self._cluster.form(MASTERS)

    @property
    def servers(self) -> Sequence[Server]:
        return self._cluster.nodes

    def publish(self, channel: bytes, payload: bytes) -> bool | None:
        nodes = self._cluster.nodes
        if self._classic:
            node = next((node for node in nodes if node.works and node.master is None), None)
            if node is not self._publishes_at:
                self._publishes_at, self._from = node, self._loop.now + SWITCH
            # What is published at two nodes at the same time has no order.
            if node is None or self._loop.now < self._from or not _publish(node, channel, payload):
                return False
            return None if self._may_be_lost_on(node) else _known(nodes, channel)
        owner = self._cluster.owner(channel)
        if owner is None or not owner.works or owner.is_paused():
            return False
        try:
            owner.execute_spublish(channel, payload)
        except Error:
            return False
        # Who listens there now has missed nothing. Another may not hear that it has left the node that has forgotten.
        listening = {client.name for client in owner.shards.get(channel, ())}
        return _known(self._cluster.nodes, channel, listening)

    def _may_be_lost_on(self, node: Node) -> bool:
        """Whether what is published at a node may not get to another one over the bus, or has not for a moment."""
        mended = self._network.mended
        return any(
            not node.sees(other)
            or self._loop.now - max(*map(_whole_since, (node, other)), mended.get((node.host, other.host), -BUS)) < BUS
            for other in self._cluster.nodes
            if other is not node
        )

    def claimants(self, channel: bytes) -> Sequence[Server]:
        return () if self._classic else self._cluster.claimants(channel)

    def home(self, channel: bytes) -> Server | None:
        return None if self._classic else self._cluster.owner(channel)

    def delivers(self) -> bool:
        masters = [node for node in self._cluster.nodes if node.master is None]
        return all(node.ok and is_reached(self._network, node) for node in masters)

    def is_silent(self) -> bool:
        return not any(is_reached(self._network, node) for node in self._cluster.nodes)

    def fail_over(self, random: Random) -> str:
        replicas = [node for node in self._cluster.nodes if node.master is not None and node.works]
        if not replicas:
            return ""
        replica = random.choice(replicas)
        self._cluster.fail_over(replica)
        return f"CLUSTER FAILOVER TAKEOVER at {replica.host}"

    def move(self, random: Random, channel: bytes) -> str:
        masters = [node for node in self._cluster.nodes if node.master is None and node.works]
        if not masters:
            return ""
        to, first = random.choice(masters), min(max(key_slot(channel) - random.randrange(384), 0), SLOTS - 384)
        slots, seconds = range(first, first + 384), random.choice((0.0, 5.0)) * random.random()
        if seconds:
            self._cluster.migrate(slots, to)
        self._loop.call_later(seconds, self._cluster.move_slots, slots, to)
        return f"slots {first} to {first + 383} move to {to.host}, within {seconds:.1f} s"

    def fix(self) -> None:
        self._cluster.fix()


def _whole_since(server: Server) -> float:
    return max(server.started_at, server.process.thawed)


def _publish(server: Server, channel: bytes, payload: bytes) -> bool:
    if not server.works or server.is_paused():
        return False
    server.execute_publish(channel, payload)
    return True


def _known(servers: Sequence[Server], channel: bytes, but: Collection[bytes] = ()) -> bool | None:
    """True, or None if a server has forgotten a subscription of the channel: nobody knows what gets lost then.

    Args:
        servers: of the site.
        channel: that something is published on.
        but: the names of clients that do not count.
    """
    forgotten = {client.name for server in servers for client in server.clients if channel in client.forgotten}
    return True if forgotten.issubset(but) else None


KINDS = ("single", "sentinel", "cluster", "classic cluster")
"""The kinds of sites."""


def make_site(kind: str, loop: SimulatedLoop, network: Network) -> Site:
    """Make a site; its servers have not started."""
    match kind:
        case "single":
            return _Single(loop, network)
        case "sentinel":
            return _Elected(loop, network)
        case _:
            return _Sharded(loop, network, classic=kind == "classic cluster")
