"""What a message costs Redis, by the number of its subscribers.

A worker is one subscriber of Redis for each topic that its clients want, so Redis sends a message once to every worker
that has a client of the topic. The core of Redis is the one thing of a fleet that no replica adds to.

The CPU is that of redis-server alone, user and system mode. In it is what Redis does for the publisher (reading the
command, answering it), which is paid once per message, and what it does for each subscriber (a reply, its part of a
write, waking up who sleeps in it). The number of messages is Redis's own, and so is the number of subscribers: those
that it has for each topic when the window ends, on average over the topics.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import ClassVar

from redis import Redis

from bench.load.wire import topic_name
from bench.measure.cores import Cores
from bench.measure.rig import Rig
from bench.measure.window import disturbance
from bench.measure.work import Result, Work
from bench.servers.server import Server

__all__ = ["Feeding"]


@dataclass(frozen=True, slots=True)
class Feeding(Work):
    """Messages to the subscribers that a server is for Redis.

    ``load.connections`` clients see to it that each worker of a real server wants each topic: 16 for each topic, of
    which all are at one of two workers once in 32,768 times.
    """

    kind: ClassVar[str] = "feeding"

    def measure(self, server: type[Server], cores: Cores) -> Result:
        """See :meth:`Work.measure`."""
        load = self.load
        with Rig(server, cores, load.topics) as rig, Redis(port=rig.redis.port) as redis:
            if server.dialect:
                rig.shard.open(rig.plan(load))
            with rig.publisher(load, load.warm_up + load.seconds) as publisher:
                publisher.start()
                time.sleep(load.warm_up)
                sent, before = _published(redis), rig.read()
                published = publisher.result()
                after, sent = rig.read(), _published(redis) - sent
            topics = [topic_name(number) for number in range(load.topics)]
            subscribers = sum(count for _, count in redis.pubsub_numsub(*topics)) / load.topics
        cpu, seconds = after.redis - before.redis, (after.at - before.at) / 1e9
        generator = (after.shard["cpu"] - before.shard["cpu"]) / seconds
        shares = {"generator": generator, "publisher": published["cpu"] / published["seconds"], "redis": cpu / seconds}
        result: Result = {"server": server.name, "kind": self.kind, "load": asdict(load)}
        result |= {"seconds": seconds, "messages": sent, "subscribers": subscribers, "shares": shares}
        result["cpu_per_message_us"] = cpu / sent * 1e6
        result["cpu_per_copy_us"] = cpu / (sent * subscribers) * 1e6 if subscribers else None
        result["server_share"] = (after.server - before.server) / seconds
        return result | disturbance(before, after, (generator + shares["publisher"]) * seconds)

    def __str__(self) -> str:
        load = self.load
        over = "1 topic" if load.topics == 1 else f"{load.topics:,} topics"
        return f"{load.rate:,g}/s of {load.size:,} B over {over}"


def _published(redis: Redis) -> int:
    """Messages that were published so far."""
    told = redis.info("commandstats").get("cmdstat_publish", {"calls": 0})
    return int(told["calls"])
