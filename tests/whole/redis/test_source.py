"""Where messages come from, on real Sentinels and a real cluster. What clients see of faults: test_faults.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Literal, cast

import pytest

from tests.lib.links import linked
from tests.lib.marks import needs_sharding
from tests.lib.permissions import ACL, CLUSTER_ACL, SENTINEL_ACL
from tests.lib.recorder import Recorder
from tests.lib.servers import RedisServer, redis_version
from tests.lib.topologies import DOWN_AFTER, FAILOVER_TIMEOUT, SENTINEL_USER, ClusterOfSix, SentinelTrio, Watcher
from tests.lib.waiting import eventually
from wsd.config.redis_url import parse_deployment
from wsd.metrics import Metrics
from wsd.redis.cluster import ShardedCluster
from wsd.redis.slots import key_slot
from wsd.redis.source import make_source
from wsd.redis.wire import SHARDED
from wsd.source import Events, Source

pytestmark = pytest.mark.timeout(900)  # several failovers, each of which may take AGES

HEARTBEAT = 1.0
CHANNELS = [b"app:%d" % number for number in range(300)]
AGES = 240.0  # seconds: a limit, for a failover on a busy machine


@asynccontextmanager
async def sourced(
    url: str, pubsub: Literal["auto", "classic"] = "auto"
) -> AsyncIterator[tuple[Source, Recorder, Metrics]]:
    recorder, metrics = Recorder(), Metrics()
    source = make_source(
        parse_deployment(url),
        pubsub=pubsub,
        prefix="app:",
        heartbeat=HEARTBEAT,
        metrics=metrics,
        events=recorder.calls,
    )
    task = asyncio.create_task(source.run())
    try:
        await eventually(lambda: source.up, "the source")
        for channel in CHANNELS:
            source.subscribe(channel)
        await eventually(lambda: source.confirmed == len(CHANNELS), "the confirmations")
        yield source, recorder, metrics
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert len(asyncio.all_tasks()) == 1, "nothing goes on"


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterOfSix]:
    with ClusterOfSix() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def trio() -> Iterator[SentinelTrio]:
    with SentinelTrio() as trio:
        yield trio


def gaps(recorder: Recorder) -> list[bytes]:
    return [event[1] for event in recorder.events if event[0] == "gap"]


# A cluster.


@needs_sharding
async def test_one_link_per_node_carries_the_channels_of_its_slots(cluster: ClusterOfSix) -> None:
    async with sourced(cluster.url) as (source, recorder, _):
        assert len(source.links) == 3
        owners = cluster.owners()
        for node in cluster.masters():
            mine = [channel for channel in CHANNELS if owners[key_slot(channel)] == node.port]
            counts = node("PUBSUB", "SHARDNUMSUB", *CHANNELS)
            assert {channel for channel, count in zip(counts[::2], counts[1::2], strict=True) if count} == set(mine)
            assert node("SPUBLISH", mine[0], "x") == 1
            await recorder.until("message", mine[0], b"x")
        await eventually(
            lambda: all(link.probe_age is not None for link in source.links), "a probe in a slot of each node"
        )
        assert gaps(recorder) == []


@needs_sharding
async def test_a_failover_moves_the_channels_of_that_node_alone(cluster: ClusterOfSix) -> None:
    cluster.settle()
    async with sourced(cluster.url) as (source, recorder, metrics):
        old = cluster.masters()[0]
        moving = {channel for channel in CHANNELS if cluster.owners()[key_slot(channel)] == old.port}
        old.stop()
        await eventually(lambda: set(gaps(recorder)) == moving, "the gaps", AGES)
        await eventually(lambda: source.healed, "health", AGES)
        assert sorted(gaps(recorder)) == sorted(moving), "each once"
        assert metrics.gaps == len(moving)
        new = cluster.owner(next(iter(moving)).decode())
        assert new.port != old.port
        for channel in moving:
            assert new("SPUBLISH", channel, "after") == 1
        await eventually(lambda: recorder.count("message") == len(moving))
    cluster.settle()


@needs_sharding
async def test_a_node_that_is_no_master_any_more_confirms_nothing(cluster: ClusterOfSix) -> None:
    """It would: replicas take subscriptions to their master's slots. But it does not hear its master yet."""
    cluster.settle()
    old = cluster.masters()[0]
    channel = next(channel for channel in CHANNELS if cluster.owners()[key_slot(channel)] == old.port)
    async with linked(f"redis://127.0.0.1:{old.port}", dialect=SHARDED, master_only=True) as (link, recorder):
        link.subscribe(channel)
        await recorder.until("confirmed", channel)
        cluster.fail_over(old)
        await recorder.until("lost")
        link.retry()  # whoever has asked another node for the topology may not know better
        await eventually(lambda: "replica" in link.problem, "the reason")
        assert recorder.count("confirmed") == 1 and not gaps(recorder)
    cluster.settle()


@needs_sharding
async def test_slots_that_move_take_their_channels_along(cluster: ClusterOfSix) -> None:
    cluster.settle()
    async with sourced(cluster.url) as (source, recorder, _):
        source_node, target = cluster.masters()[:2]
        owners = cluster.owners()
        moving = [channel for channel in CHANNELS if owners[key_slot(channel)] == source_node.port][:20]
        cluster.move_slots([key_slot(channel) for channel in moving], target)
        await eventually(lambda: set(gaps(recorder)) >= set(moving), "the gaps", AGES)
        await eventually(lambda: source.healed, "health", AGES)
        along = {key_slot(channel) for channel in moving}
        assert set(gaps(recorder)) == {channel for channel in CHANNELS if key_slot(channel) in along}
        for channel in moving:
            assert target("SPUBLISH", channel, "after") == 1
        await eventually(lambda: recorder.count("message") == len(moving))


@needs_sharding
async def test_a_channel_that_is_unsubscribed_while_its_slot_moves_harms_nobody(
    cluster: ClusterOfSix, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsd.redis.channels.LINGER", 0.0)
    cluster.settle()
    async with sourced(cluster.url) as (source, _, metrics):
        first, second = cluster.masters()[:2]
        owners = cluster.owners()
        moving = [channel for channel in CHANNELS if owners[key_slot(channel)] == first.port]
        for channel in moving[:30]:
            source.unsubscribe(channel)
            for link in cast(ShardedCluster, source)._links.values():
                link._channels.tidy(asyncio.get_running_loop().time())
                link._settle()
            cluster.move_slots([key_slot(channel)], second)
        await eventually(lambda: source.healed, "health", AGES)
        await eventually(lambda: source.confirmed == source.wanted == len(CHANNELS) - 30, "the rest", AGES)
        assert metrics.link_failures == 0


async def test_classic_channels_of_a_cluster_come_through_any_node(cluster: ClusterOfSix) -> None:
    cluster.settle()
    async with sourced(cluster.url, "classic") as (source, recorder, _):
        assert len(source.links) == 1
        for number, node in enumerate(cluster.nodes):
            node.publish("app:1", str(number))
            await recorder.until("message", b"app:1", b"%d" % number)
        here = source.links[0].line
        node = next(node for node in cluster.nodes if f":{node.port}:" in here)
        node.stop()
        await eventually(lambda: len(gaps(recorder)) == len(CHANNELS), "the gaps", AGES)
        assert source.healed
        assert source.links[0].line != here
    cluster.settle()


@needs_sharding
async def test_a_user_who_may_do_what_the_readme_says_can_use_a_cluster(cluster: ClusterOfSix) -> None:
    cluster.settle()
    for node in cluster.nodes:
        node("ACL", "SETUSER", "wsd", "on", ">s3cret", *ACL, *CLUSTER_ACL, "resetchannels", "&app:*")
    async with sourced(cluster.url.replace("//", "//wsd:s3cret@")) as (source, recorder, _):
        assert len(source.links) == 3
        await eventually(lambda: all(link.probe_age is not None for link in source.links), "the probes")
        source.subscribe(b"other:1")
        await recorder.until("refused", b"other:1")
        assert source.healed


async def test_a_cluster_that_is_no_cluster_says_so(redis: RedisServer) -> None:
    source = make_source(
        parse_deployment(f"redis+cluster://127.0.0.1:{redis.port}"),
        pubsub="sharded",
        prefix="",
        heartbeat=HEARTBEAT,
        metrics=Metrics(),
        events=Events(*[lambda *args: None] * 4),
    )
    task = asyncio.create_task(source.run())
    await eventually(lambda: "use redis:// in redis_url" in source.problem)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


# Sentinel.


async def test_the_master_is_found_and_followed(trio: SentinelTrio) -> None:
    async with sourced(trio.url) as (source, recorder, _):
        assert str(trio.master_port()) in source.links[0].line
        old = trio.master()
        trio.fail_over()
        await eventually(lambda: len(gaps(recorder)) == len(CHANNELS), "the gaps", AGES)
        await eventually(lambda: source.healed, "health", AGES)
        new = trio.master()
        assert new.port != old.port
        new.publish("app:7", "x")
        await recorder.until("message", b"app:7", b"x")
    trio.settle()


async def test_users_who_may_do_what_the_readme_says_can_use_sentinels(trio: SentinelTrio) -> None:
    trio.settle()
    for sentinel in trio.sentinels:
        sentinel("ACL", "SETUSER", "asks", "on", ">t0ld", *ACL, *SENTINEL_ACL, "resetchannels", "&+switch-master")
    for server in trio.servers:
        server("ACL", "SETUSER", "wsd", "on", ">s3cret", *ACL, "resetchannels", "&app:*")
    url = trio.url.replace("//", "//wsd:s3cret@") + "?sentinel_username=asks&sentinel_password=t0ld"
    async with sourced(url) as (source, recorder, _):
        trio.fail_over()
        await eventually(lambda: len(gaps(recorder)) == len(CHANNELS), "the gaps", AGES)
        await eventually(lambda: source.healed, "health", AGES)


async def test_a_stale_sentinel_is_outvoted_at_the_start_and_later(
    trio: SentinelTrio, make_redis: Callable[..., RedisServer], caplog: pytest.LogCaptureFixture
) -> None:
    trio.settle()
    elsewhere = make_redis()  # a master too, at which nobody publishes
    stale = Watcher(elsewhere.port)
    try:
        ports = [stale.port, *(sentinel.port for sentinel in trio.sentinels[:2])]
        url = f"redis+sentinel://{','.join(f'127.0.0.1:{port}' for port in ports)}/{trio.name}"
        for _ in range(12):
            async with sourced(url) as (source, _, _):
                assert f":{trio.master_port()}:" in source.links[0].line
        async with sourced(url) as (source, recorder, _):
            await eventually(lambda: "the Sentinels disagree" in source.links[0].line)
            await eventually(lambda: f"127.0.0.1:{stale.port}: 127.0.0.1:{elsewhere.port}" in caplog.text, "a line")
            trio.fail_over()
            await eventually(lambda: len(gaps(recorder)) == len(CHANNELS), "the gaps", AGES)
            await eventually(lambda: source.healed, "health", AGES)
            new = trio.master()
            assert f":{new.port}:" in source.links[0].line
        # Another Sentinel turns stale while the daemon runs.
        trio.settle()
        trio_url = trio.url
        async with sourced(trio_url) as (source, recorder, _):
            turned = trio.sentinels[0]
            turned("SENTINEL", "REMOVE", trio.name)
            turned("SENTINEL", "MONITOR", trio.name, "127.0.0.1", elsewhere.port, 2)
            await eventually(lambda: "the Sentinels disagree" in source.links[0].line, "the doubt", AGES)
            assert f":{trio.master_port()}:" in source.links[0].line
            assert gaps(recorder) == []
            turned("SENTINEL", "REMOVE", trio.name)
            turned("SENTINEL", "MONITOR", trio.name, "127.0.0.1", trio.master_port(), 2)
            turned("SENTINEL", "SET", trio.name, "auth-user", SENTINEL_USER)
            turned("SENTINEL", "SET", trio.name, "auth-pass", SENTINEL_USER)
            turned("SENTINEL", "SET", trio.name, "down-after-milliseconds", DOWN_AFTER)
            turned("SENTINEL", "SET", trio.name, "failover-timeout", FAILOVER_TIMEOUT)
            await eventually(lambda: "disagree" not in source.links[0].line, "the end of it", AGES)
    finally:
        stale.remove()
    trio.settle()


async def test_a_stale_sentinel_that_is_alone_is_followed_until_the_others_are_back(
    trio: SentinelTrio, make_redis: Callable[..., RedisServer]
) -> None:
    trio.settle()
    elsewhere = make_redis()
    stale = Watcher(elsewhere.port)
    try:
        ports = [stale.port, *(sentinel.port for sentinel in trio.sentinels[:2])]
        url = f"redis+sentinel://{','.join(f'127.0.0.1:{port}' for port in ports)}/{trio.name}"
        for sentinel in trio.sentinels[:2]:
            sentinel.stop()
        async with sourced(url) as (source, recorder, _):
            assert f":{elsewhere.port}:" in source.links[0].line
            await eventually(lambda: "only 1 of 3 Sentinels answer" in source.links[0].line)
            for sentinel in trio.sentinels[:2]:
                sentinel.start()
            await eventually(lambda: len(gaps(recorder)) == len(CHANNELS), "the gaps", AGES)
            await eventually(lambda: source.healed, "health", AGES)
            assert f":{trio.master_port()}:" in source.links[0].line
    finally:
        stale.remove()
    trio.settle()


@pytest.mark.skipif(redis_version() < (7,), reason="the Sentinels of Redis 6 take a minute to undo it")
async def test_a_server_that_is_no_master_is_left_whatever_sentinel_says(
    trio: SentinelTrio, make_redis: Callable[..., RedisServer]
) -> None:
    trio.settle()
    elsewhere = make_redis()
    async with sourced(trio.url) as (source, recorder, _):
        old = trio.master()
        # As after a split that healed, before the Sentinels have told. It is made a replica of a stranger because two
        # replicas of each other may both wait for the other's link, and then Sentinel finds neither fit for a master.
        old("REPLICAOF", "127.0.0.1", elsewhere.port)
        await eventually(lambda: "replica" in source.problem, "the demotion", AGES)
        trio.hasten()  # else it takes Sentinels 21 to 31 seconds to believe that the master is none
        await eventually(lambda: source.healed, "another master", AGES)
        assert f":{trio.master_port()}:" in source.links[0].line
        await eventually(lambda: len(gaps(recorder)) == len(CHANNELS), "the gaps", AGES)
    trio.settle()
