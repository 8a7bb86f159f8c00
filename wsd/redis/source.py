"""Which `wsd.source.Source` it takes for a deployment: one link, or those of a Cluster."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable
from typing import Literal

from wsd.deployment import Cluster, Deployment, Sentinel, is_sharded
from wsd.metrics import Metrics
from wsd.redis.cluster import ShardedCluster
from wsd.redis.guides import AnyNode, Fixed, Guide
from wsd.redis.link import Link
from wsd.redis.sentinel import SentinelGuide
from wsd.redis.topology import Nodes
from wsd.redis.wire import CLASSIC, SHARDED
from wsd.source import Events, Source

__all__ = ["make_source"]


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
        heartbeat: seconds; see `wsd.redis.vitals`.
        metrics: counts.
        events: whom to call.
    """
    sharded = is_sharded(deployment, pubsub)
    own = secrets.token_hex(8)  # begins the names of what no other process subscribes to

    def name_private(name: str) -> bytes:
        return f"{prefix}__wsd:{name}".encode()  # clients can't name it: no topic begins with two underscores

    def make_link(
        guide: Guide,
        name_private: Callable[[str], bytes] = name_private,
        on_trouble: Callable[[], None] | None = None,
    ) -> Link:
        return Link(
            guide,
            dialect=SHARDED if sharded else CLASSIC,
            heartbeat=heartbeat,
            metrics=metrics,
            events=events,
            own=own,
            name_private=name_private,
            on_trouble=on_trouble,
        )

    match deployment:
        case Cluster(seeds) if sharded:
            nodes = Nodes(seeds, heartbeat)
            return ShardedCluster(
                nodes,
                heartbeat=heartbeat,
                metrics=metrics,
                events=events,
                make_link=make_link,
                name_private=name_private,
            )
        case Cluster(seeds):
            return make_link(AnyNode(Nodes(seeds, heartbeat), socket.gethostname()))
        case Sentinel():
            return make_link(SentinelGuide(deployment, heartbeat))
        case _:
            return make_link(Fixed(deployment.server))
