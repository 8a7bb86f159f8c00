"""Marks on real servers: two workers in this process find the same place among messages that come at full speed."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import redis as redis_py

from tests.lib.marks import needs_sharding
from tests.lib.servers import RedisServer
from tests.lib.topologies import ClusterOfSix
from tests.lib.waiting import eventually
from wsd.config.redis_url import parse_deployment
from wsd.delivery.fanout import Bounds, Fanout
from wsd.delivery.marks import Mark
from wsd.delivery.topics import TopicTable
from wsd.metrics import Metrics
from wsd.redis.source import make_source
from wsd.source import Events

pytestmark = pytest.mark.timeout(600)

HEARTBEAT = 2.0
TOPICS = [f"t{number}" for number in range(12)]
CHANNELS = [f"app:{topic}" for topic in TOPICS]
EARS = 300  # of a worker: a pass takes several slices
BATCH = 100  # messages that the publisher sends before it reads the answers
ROUNDS = 12  # marks, one after the other, on each stream


class Ear:
    """A listener that keeps all it is written."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes, /) -> object:
        self.data += data
        return None

    def topic_confirmed(self, topic: str) -> None:
        """The worker looks at the table."""

    def topic_refused(self, topic: str, reason: str) -> None:
        raise AssertionError(reason)


class Deaf(Ear):
    """A listener that is there to be written to."""

    def write(self, data: bytes, /) -> object:
        return None


MESSAGE = re.compile(rb'\x81.\{"action":"message","topic":"(t\d+)","snapshot":(\d+)\}', re.DOTALL)


class Half:
    """One of two workers: what delivers, without clients."""

    def __init__(self, url: str, pubsub: Any, topics: Sequence[str]) -> None:
        self.metrics = Metrics()
        self.table = TopicTable("app:", self.subscribe, self.unsubscribe)
        loop = asyncio.get_running_loop()
        bounds = Bounds(max_backlog=1 << 20, max_backlog_age=10.0)
        self.fanout = Fanout(self.table, self.metrics, bounds, loop.call_soon, self.hold)
        self.source = make_source(
            parse_deployment(url),
            pubsub=pubsub,
            prefix="app:",
            heartbeat=HEARTBEAT,
            metrics=self.metrics,
            events=Events(self.fanout.publish, self.fanout.confirm, self.table.refuse, self.table.unconfirm),
        )
        self.ear = Ear()
        self.told: list[str] = []  # what the marks were told
        self.cuts: list[int] = []  # bytes that the ear had at each barrier
        for topic in topics:
            for each in (self.ear, *(Deaf() for _ in range(EARS // len(topics)))):
                self.table.wait(topic, each)
                self.table.listen(topic, each)

    def subscribe(self, channel: bytes) -> None:
        self.source.subscribe(channel)

    def unsubscribe(self, channel: bytes) -> None:
        self.source.unsubscribe(channel)

    def hold(self, full: bool) -> None:
        self.source.hold(full)

    def place(self, channel: bytes) -> Mark:
        """Subscribe to a mark; at its message, note at a barrier what has been written."""

        def cut(payload: bytes) -> None:
            self.fanout.barrier(lambda: self.cuts.append(len(self.ear.data)))

        self.told = []
        mark = Mark(channel, lambda: self.told.append("confirmed"), self.told.append, cut)
        self.table.place(mark)
        return mark

    async def publish(self, channel: bytes) -> int | str:
        """Publish a mark; return the answer."""
        answers: list[int | str] = []
        self.source.publish(channel, b"here", answers.append)
        await eventually(lambda: answers, "the answer")
        return answers[0]


@asynccontextmanager
async def halves(*urls: str, pubsub: str = "auto", topics: Sequence[str] = TOPICS) -> AsyncIterator[list[Half]]:
    async with AsyncExitStack() as stack:
        both = [Half(url, pubsub, topics) for url in urls]
        for half in both:
            task = asyncio.create_task(half.source.run())
            stack.push_async_callback(asyncio.wait, [task])
            stack.callback(task.cancel)
        for half in both:
            await eventually(lambda half=half: all(map(half.table.confirmed, topics)), "the confirmations")  # type: ignore[misc]
        yield both


@asynccontextmanager
async def publishing(send: Callable[[Iterator[int]], None]) -> AsyncIterator[None]:
    """Let a thread publish numbers at full speed."""
    done, counter = threading.Event(), iter(range(1, 1 << 60))

    def run() -> None:
        while not done.is_set():
            send(counter)

    publisher = asyncio.create_task(asyncio.to_thread(run))
    try:
        yield
    finally:
        done.set()
        await publisher


def lasts(half: Half) -> list[dict[str, int]]:
    """The last number of each topic at each cut of a worker; nothing is missing or doubled before."""
    data, last, found, end = bytes(half.ear.data), dict.fromkeys(TOPICS, 0), [], 0
    for cut in half.cuts:
        while end < cut:
            message = MESSAGE.match(data, end)
            assert message is not None, data[end : end + 200]
            topic, number = message[1].decode(), int(message[2])
            assert number == last[topic] + 1, f"{number} of {topic} follows on {last[topic]}"
            last[topic], end = number, message.end()
        assert end == cut, "the cut is between two messages"
        found.append(dict(last))
    return found


async def cut_at(a: Half, b: Half, channel: bytes) -> None:
    """Cut both halves at a mark."""
    marks = [(half, half.place(channel)) for half in (a, b)]
    await eventually(lambda: a.told == b.told == ["confirmed"], "the mark's confirmations")
    before = len(a.cuts)
    assert await b.publish(channel) == 2
    await eventually(lambda: len(a.cuts) == len(b.cuts) == before + 1, "the barriers")
    for half, mark in marks:
        half.table.remove(mark)


def unlimited(server: RedisServer) -> None:
    """Never cut a subscriber off that reads slowly, because the machine is busy."""
    server("CONFIG", "SET", "client-output-buffer-limit", "pubsub 0 0 0")


async def test_two_workers_are_cut_at_the_same_place_among_all_messages_of_a_server(own_redis: RedisServer) -> None:
    unlimited(own_redis)
    client = redis_py.Redis(port=own_redis.port)

    def send(counter: Iterator[int]) -> None:
        with client.pipeline(transaction=False) as pipeline:
            for number in (next(counter) for _ in range(BATCH)):
                for channel in CHANNELS[:3]:
                    pipeline.publish(channel, number)
            pipeline.execute()

    with client:
        async with halves(own_redis.url, own_redis.url) as (a, b), publishing(send):
            for turn in range(ROUNDS):
                stream = a.source.stream(CHANNELS[0].encode())
                assert stream == b.source.stream(CHANNELS[1].encode()) != ""
                channel = a.source.private(stream, f"mark:{turn}")
                assert channel.startswith(b"app:__wsd:mark:")
                await cut_at(a, b, channel)
        assert lasts(a) == lasts(b)
        assert sum(lasts(a)[-1].values()) > sum(lasts(a)[0].values())
        assert a.metrics.gaps == b.metrics.gaps == 0


async def test_the_answer_tells_who_is_elsewhere(
    own_redis: RedisServer, make_redis: Callable[..., RedisServer]
) -> None:
    other = make_redis()
    async with halves(own_redis.url, own_redis.url, other.url, topics=["t0"]) as (a, b, stranger):
        stream = a.source.stream(b"app:t0")
        assert stranger.source.stream(b"app:t0") not in ("", stream)
        assert stranger.source.private(stream, "mark:1") == b""
        channel = a.source.private(stream, "mark:1")
        a.place(channel)
        assert await a.publish(channel) == 1, "it came behind the subscription, and nobody else is there"
        stranger.place(channel)
        await eventually(lambda: stranger.told == ["confirmed"])
        assert await stranger.publish(channel) == await a.publish(channel) == 1
        b.place(channel)
        assert await b.publish(channel) == 2


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterOfSix]:
    with ClusterOfSix() as cluster:
        for node in cluster.nodes:
            unlimited(node)
        yield cluster


@needs_sharding
async def test_two_workers_are_cut_at_the_same_place_of_each_stream_of_a_cluster(cluster: ClusterOfSix) -> None:
    owners = [(redis_py.Redis(port=cluster.owner(channel).port), channel) for channel in CHANNELS]

    def send(counter: Iterator[int]) -> None:
        batch = [next(counter) for _ in range(BATCH // 4)]
        for client, channel in owners:
            with client.pipeline(transaction=False) as pipeline:
                for number in batch:
                    pipeline.execute_command("SPUBLISH", channel, number)  # type: ignore[no-untyped-call]
                pipeline.execute()

    async with halves(cluster.url, cluster.url) as (a, b), publishing(send):
        streams: dict[str, list[str]] = {}
        for topic, channel in zip(TOPICS, CHANNELS, strict=True):
            stream = a.source.stream(channel.encode())
            assert stream == b.source.stream(channel.encode()) != ""
            streams.setdefault(stream, []).append(topic)
        assert len(streams) == 3
        order = list(streams)
        for turn in range(ROUNDS):
            for stream in order:
                await cut_at(a, b, (a, b)[turn % 2].source.private(stream, f"mark:{turn}"))
    for number, (first, second) in enumerate(zip(lasts(a), lasts(b), strict=True)):
        for topic in streams[order[number % 3]]:
            assert first[topic] == second[topic]
    assert sum(lasts(a)[-1].values()) > sum(lasts(a)[0].values())
    assert a.metrics.gaps == b.metrics.gaps == 0
    for client, _ in owners:
        client.close()


async def test_classic_workers_of_a_host_are_at_the_same_node_of_a_cluster(cluster: ClusterOfSix) -> None:
    async with halves(cluster.url, cluster.url, cluster.url, pubsub="classic", topics=["t0"]) as (a, b, other):
        stream = a.source.stream(b"app:t0")
        assert stream == b.source.stream(b"app:t0") == other.source.stream(b"app:t0")
        channel = a.source.private(stream, "mark:1")
        for half in (a, b):
            half.place(channel)
        await eventually(lambda: a.told == b.told == ["confirmed"])
        assert await a.publish(channel) == 2
        other.source.relocate("to see what the others do")  # type: ignore[attr-defined]
        await eventually(lambda: other.source.stream(b"app:t0") not in ("", stream), "another node")
        other.place(channel)
        await eventually(lambda: other.told == ["confirmed"])
        assert await other.publish(channel) == 1
        assert await a.publish(channel) == 2
