"""Reloads while something happens to Redis: what it loses is told of, and nobody is closed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from redis.crc import key_slot

from tests.handover.crowd import Size
from tests.handover.deployments import Cluster, Deployment, Sentinels
from tests.handover.reloads import sharded
from tests.handover.scene import TOPICS, Scenario, Scene
from tests.lib.waiting import until

__all__ = ["SCENARIOS"]

MOMENT = 2.0
"""Seconds at most from the beginning of a reload to what happens meanwhile. A worker takes about one to start, and its
clients move within a tenth."""

AWAY = 1.0
"""Seconds for which Redis is away in the middle of a reload."""

UNAVAILABLE = ("unavailable",)
"""What Redis can't answer in time is refused with this."""

NO_TAIL = Size(sleepers=0, tails=0)
"""`wsd tail` tells of gaps, on standard error: nobody knows then before which message."""


async def meanwhile(scene: Scene, *acts: Callable[[], Awaitable[object]]) -> None:
    """Reload, and do these things meanwhile, each at some moment."""
    reloading = asyncio.create_task(scene.reload())
    try:
        for act in acts:
            await asyncio.sleep(scene.random.uniform(0, MOMENT / len(acts)))
            await act()
    finally:
        await reloading
    await asyncio.to_thread(scene.service.wait_until_ready)


# Sentinel.


async def fail_over(scene: Scene) -> None:
    """Reload while the Sentinels choose another master."""
    assert isinstance(scene.deployment, Sentinels)
    trio = scene.deployment.trio
    await asyncio.to_thread(trio.settle)
    before = await asyncio.to_thread(trio.master_port)

    async def choose() -> None:
        await asyncio.to_thread(trio.fail_over)
        await asyncio.to_thread(until, lambda: trio.master_port() != before, "another master")

    await meanwhile(scene, choose)


# A Cluster.


async def move_and_fail_over(scene: Scene) -> None:
    """Reload while the slot of a topic goes to another node, and while a node gives place to its replica."""
    assert isinstance(scene.deployment, Cluster)
    cluster = scene.deployment.cluster
    await asyncio.to_thread(cluster.settle)
    moving, giving = scene.random.sample(TOPICS, 2)

    def move() -> None:
        masters = cluster.masters()
        at = masters.index(cluster.owner(moving))
        cluster.move_slots([key_slot(moving.encode())], masters[at - 1])

    def give_place() -> None:
        master = cluster.owner(giving)
        cluster.fail_over(master)
        until(lambda: cluster.owner(giving) is not master, "another owner")

    await meanwhile(scene, partial(asyncio.to_thread, move), partial(asyncio.to_thread, give_place))


# Redis is away.


async def stopped(scene: Scene) -> None:
    """Reload while there is no Redis; it comes back later."""
    redis = scene.deployment.redis
    await asyncio.to_thread(redis.stop)
    try:
        await scene.reload()
    finally:
        await asyncio.to_thread(redis.start)
    await asyncio.to_thread(scene.service.wait_until_ready)


async def frozen(scene: Scene) -> None:
    """Reload while Redis answers nothing; it goes on later."""
    redis = scene.deployment.redis
    redis.freeze()
    try:
        await scene.reload()
    finally:
        redis.thaw()
    await asyncio.to_thread(scene.service.wait_until_ready)


async def stopped_for_a_moment(scene: Scene) -> None:
    """Let Redis end, and start again, in the middle of a reload."""
    redis = scene.deployment.redis

    async def stop_and_start() -> None:
        await asyncio.to_thread(redis.stop)
        await asyncio.sleep(AWAY)
        await asyncio.to_thread(redis.start)

    await meanwhile(scene, stop_and_start)


def _outage(
    name: str, act: Callable[[Scene], Awaitable[object]], times: int, deployment: Callable[[], Deployment] = Deployment
) -> Scenario:
    """A reload with two workers, with an outage that must be told of: all topics have their gap."""
    return Scenario(
        name,
        act,
        times,
        workers=2,
        deployment=deployment,
        size=NO_TAIL,
        gaps=True if deployment is Cluster else None,
        tolerated=UNAVAILABLE,
        impossible=sharded if deployment is Cluster else lambda: "",
    )


SCENARIOS: Sequence[Scenario] = [
    _outage("reload amid a failover", fail_over, 3, Sentinels),
    _outage("reload amid a slot that moves and a failover", move_and_fail_over, 3, Cluster),
    _outage("reload while Redis is away", stopped, 2),
    _outage("reload while Redis is frozen", frozen, 2),
    _outage("Redis is away amid a reload", stopped_for_a_moment, 3),
]
