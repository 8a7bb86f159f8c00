"""Where messages come from: one link, or those of a cluster. What the worker sees of Redis."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from wsd.metrics import Metrics
from wsd.redis.address import Cluster, Deployment, Sentinel, is_sharded
from wsd.redis.channels import Events
from wsd.redis.cluster import AnyNode, ShardedCluster
from wsd.redis.link import Fixed, Guide, Link
from wsd.redis.sentinel import SentinelGuide
from wsd.redis.topology import Nodes
from wsd.redis.wire import CLASSIC, SHARDED

__all__ = ["Source", "make_source"]


class Source(Protocol):
    """What delivers channels."""

    def subscribe(self, channel: bytes) -> bool:
        """Want a channel; return whether Redis has confirmed it already, since then ``on_confirmed`` isn't called."""

    def unsubscribe(self, channel: bytes) -> None:
        """Want a channel no more."""

    def hold(self, full: bool) -> None:
        """Bring no more messages until called with False; keep the connections."""

    async def run(self) -> None:
        """Connect and stay connected until cancelled."""

    @property
    def links(self) -> Sequence[Link]:
        """The connections."""

    @property
    def up(self) -> bool:
        """Whether channels can be subscribed."""

    @property
    def healed(self) -> bool:
        """Whether it is up, and every channel that was delivered once is delivered again."""

    @property
    def problem(self) -> str:
        """Why it isn't up, for people."""

    @property
    def wanted(self) -> int:
        """How many channels are wanted."""

    @property
    def confirmed(self) -> int:
        """How many channels Redis has confirmed."""


def make_source(
    deployment: Deployment,
    *,
    pubsub: Literal["auto", "classic", "sharded"],
    prefix: str,
    heartbeat: float,
    metrics: Metrics,
    events: Events,
) -> Source:
    """Make what delivers channels from a deployment of Redis.

    Args:
        deployment: where Redis is.
        pubsub: the kind of Pub/Sub; ``auto`` is sharded on a cluster and classic elsewhere.
        prefix: what every channel begins with, private ones too: a Redis user may be confined to it.
        heartbeat: seconds; see `wsd.redis.link.Link`.
        metrics: counts.
        events: whom to call.
    """
    sharded = is_sharded(deployment, pubsub)
    # Clients can't name it: no topic begins with two underscores.
    private = f"{prefix}__wsd:{secrets.token_hex(8)}".encode()

    def make_link(
        guide: Guide,
        name_private: Callable[[], bytes] = lambda: private,
        on_trouble: Callable[[], None] | None = None,
    ) -> Link:
        return Link(
            guide,
            dialect=SHARDED if sharded else CLASSIC,
            heartbeat=heartbeat,
            metrics=metrics,
            events=events,
            private=name_private,
            on_trouble=on_trouble,
        )

    match deployment:
        case Cluster(seeds) if sharded:
            nodes = Nodes(seeds, heartbeat)
            return ShardedCluster(nodes, metrics=metrics, events=events, make_link=make_link, private=private)
        case Cluster(seeds):
            return make_link(AnyNode(Nodes(seeds, heartbeat)))
        case Sentinel():
            return make_link(SentinelGuide(deployment, heartbeat))
        case _:
            return make_link(Fixed(deployment.server))
