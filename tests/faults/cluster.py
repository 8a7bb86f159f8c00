"""Faults of a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager

from redis.crc import key_slot

from tests.faults.scene import TOPICS, Fault, with_many_topics
from tests.faults.watch import ObservedDaemon
from tests.lib.routes import Message, Route, Server, ToOwners
from tests.lib.servers import redis_version
from tests.lib.topologies import ClusterOfSix, Node
from tests.lib.waiting import until

__all__ = ["FAULTS", "HEAVY", "ClusterStage", "open_stage"]


class ToAny:
    """Publishes at one node, and at the next when that is away.

    Args:
        cluster: the nodes.
        first: where to begin.
    """

    def __init__(self, cluster: ClusterOfSix, first: Node) -> None:
        self._ports = [first.port, *(node.port for node in cluster.nodes if node is not first)]
        self._server = Server(first.port)

    def publish(self, batch: Sequence[Message]) -> list[bool | None]:
        """Publish; say of each message whether Redis has accepted it, None if nobody knows."""
        fates = self._server.publish(batch)
        if True not in fates:
            self._ports.append(self._ports.pop(0))
            self._server = Server(self._ports[0])
        return fates

    def close(self) -> None:
        """Close the connection."""
        self._server.close()


class ClusterStage:
    """The nodes, which all faults share, and a daemon in front of them."""

    kind = "cluster"
    daemon: ObservedDaemon

    def __init__(self, cluster: ClusterOfSix) -> None:
        self.cluster = cluster
        self.program: Sequence[str] = ObservedDaemon.program
        self.topics: tuple[str, ...] = TOPICS
        self.environment = {"WSD_REDIS_URL": cluster.url}

    async def begin(self) -> None:
        """Make it whole, and choose a victim."""
        self.more_topics: tuple[str, ...] = ()
        self.idlers = 0
        self.moving: tuple[str, ...] = ()  # topics whose slots change masters
        self.classic = False  # whether messages are published with PUBLISH
        await self.again()

    async def again(self) -> None:
        """Make it whole, and choose a victim: whoever serves the first topic by now."""
        await asyncio.to_thread(self.cluster.settle)
        owners = await asyncio.to_thread(self.cluster.owners)
        self.victim = self.cluster.at(owners[key_slot(TOPICS[0].encode())])
        self.replica = await asyncio.to_thread(self.cluster.replica_of, self.victim)
        self.hit = [topic for topic in TOPICS if owners[key_slot(topic.encode())] == self.victim.port]

    async def end(self) -> None:
        """The next fault makes it whole."""

    def route(self) -> Route:
        """Sharded messages are published at the masters, others at any node."""
        return (
            ToAny(self.cluster, self.replica) if self.classic else ToOwners([node.port for node in self.cluster.nodes])
        )


@asynccontextmanager
async def open_stage() -> AsyncIterator[ClusterStage]:
    """Start the nodes."""
    cluster = ClusterOfSix()
    await asyncio.to_thread(cluster.__enter__)
    try:
        yield ClusterStage(cluster)
    finally:
        await asyncio.to_thread(cluster.__exit__, None, None, None)


def hit(stage: ClusterStage) -> Collection[str]:
    """The topics of the victim."""
    return stage.hit


async def kill(stage: ClusterStage) -> None:
    """End the victim without a warning."""
    stage.victim.stop()


async def freeze(stage: ClusterStage) -> None:
    """Stop the victim; its connections stay open."""
    stage.victim.freeze()


async def until_replaced(stage: ClusterStage) -> None:
    """Wait until the victim's replica has its slots."""
    await asyncio.to_thread(until, lambda: stage.cluster.owner(stage.hit[0]) is not stage.victim, "another owner")


async def fail_over(stage: ClusterStage) -> None:
    """Let the replica take over with the victim's consent: nothing is lost on Redis's side."""
    await asyncio.to_thread(stage.cluster.fail_over, stage.victim)


async def cut_link(stage: ClusterStage) -> None:
    """Cut off whoever listens to the victim."""
    await asyncio.to_thread(stage.victim, "CLIENT", "KILL", "TYPE", "pubsub")


async def reshard(stage: ClusterStage) -> None:
    """Move half of the victim's topics to another master: those in its first slots, which redis-cli moves first."""
    stage.moving = tuple(sorted(stage.hit, key=_slot)[: (len(stage.hit) + 1) // 2])
    owners = await asyncio.to_thread(stage.cluster.owners)
    slots = owners[: max(map(_slot, stage.moving)) + 1].count(stage.victim.port)
    target = next(node for node in await asyncio.to_thread(stage.cluster.masters) if node is not stage.victim)
    await asyncio.to_thread(stage.cluster.reshard, stage.victim, target, slots)


async def until_moved(stage: ClusterStage) -> None:
    """Wait until another master has the last of them."""
    last = max(stage.moving, key=_slot)
    await asyncio.to_thread(until, lambda: stage.cluster.owner(last) is not stage.victim, "the move of the slots")


async def choose_first(stage: ClusterStage) -> None:
    """Choose one topic."""
    stage.moving = TOPICS[:1]


async def move_on(stage: ClusterStage) -> None:
    """Move its slot to another master."""
    slot = _slot(stage.moving[0])

    def move() -> None:
        masters = stage.cluster.masters()
        at = masters.index(stage.cluster.owner(stage.moving[0]))
        stage.cluster.move_slots([slot], masters[at - 1])

    await asyncio.to_thread(move)


def moving(stage: ClusterStage) -> Collection[str]:
    """The topics that are moved."""
    return stage.moving


def _slot(topic: str) -> int:
    return int(key_slot(topic.encode()))


async def kill_shard(stage: ClusterStage) -> None:
    """End the victim and its replica: nobody serves its slots, and the cluster says that it is down."""
    stage.victim.stop()
    stage.replica.stop()


async def kill_all(stage: ClusterStage) -> None:
    """End all nodes."""
    for node in stage.cluster.nodes:
        node.stop()


async def start_again(stage: ClusterStage) -> None:
    """Start what was ended, and wait until all is well."""
    await asyncio.to_thread(stage.cluster.settle)


async def publish_classic(stage: ClusterStage) -> None:
    """Publish with PUBLISH; at first at a replica, which the daemon does not listen to."""
    stage.classic = True


async def kill_listened(stage: ClusterStage) -> None:
    """End the node that the daemon listens to."""
    (listened,) = await asyncio.to_thread(lambda: [node for node in stage.cluster.masters() if _is_listened(node)])
    listened.stop()


def _is_listened(node: Node) -> bool:
    clients = str(node.tell("CLIENT", "LIST", "TYPE", "pubsub")).splitlines()
    return any(" name=wsd:" in client for client in clients)


def too_old() -> str:
    """Why sharded Pub/Sub can't be had, or ``""``."""
    return "" if redis_version() >= (7, 0) else "sharded Pub/Sub needs Redis 7.0"


def cluster_fault(name: str, *acts: object, **more: object) -> Fault[ClusterStage]:
    """A fault that hits one node."""
    return Fault(name, *acts, **({"affected": hit, "impossible": too_old} | more))  # type: ignore[arg-type]


FAULTS: list[Fault[ClusterStage]] = [
    cluster_fault("node killed", kill, recovery=until_replaced),
    cluster_fault("node frozen", freeze, recovery=until_replaced),
    cluster_fault("CLUSTER FAILOVER", fail_over, recovery=until_replaced),
    cluster_fault("CLIENT KILL at one node", cut_link),
    cluster_fault("slots migrate", reshard, recovery=until_moved, affected=moving),
    cluster_fault("a shard is down", kill_shard, restore=start_again),
    cluster_fault("all nodes are down", kill_all, restore=start_again, affected=None),
    cluster_fault("a slot migrates, 100 times", move_on, prepare=choose_first, affected=moving, times=100),
    Fault("classic: node killed", kill_listened, prepare=publish_classic, settings={"WSD_PUBSUB": "classic"}),
]

HEAVY: list[Fault[ClusterStage]] = [
    cluster_fault(
        "node killed, 50,000 topics",
        kill,
        prepare=with_many_topics,
        recovery=until_replaced,
        settings={"WSD_MAX_TOPICS": "100000"},
        heal_bound=30.0,
        cpu_bound=0.6,
    ),
]
