"""Clients by hand and numbered messages, which tell whether a hand-over was seen."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import redis.asyncio
import redis.exceptions

from tests.lib.clients import Client, Closed
from tests.lib.waiting import eventually

__all__ = ["Heard", "crowd", "numbering", "numbering_shards"]


class Heard:
    """A client, and all that it has heard."""

    def __init__(self, client: Client, topics: Iterable[str]) -> None:
        self.client = client
        self.topics = list(topics)
        self.numbers: dict[str, list[int]] = defaultdict(list)  # by topic
        self.messages: list[tuple[str, int]] = []  # the same, of all topics
        self.gaps: dict[str, list[int]] = defaultdict(list)  # by topic: the last number before each gap notice
        self.others: list[Any] = []  # replies, in their order
        self.closed: Closed | None = None
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            while True:
                message = await self.client.receive()
                if message["action"] == "message":
                    self.numbers[message["topic"]].append(message["snapshot"])
                    self.messages.append((message["topic"], message["snapshot"]))
                elif message["action"] == "gap":
                    self.gaps[message["topic"]].append((self.numbers[message["topic"]] or [0])[-1])
                else:
                    self.others.append(message)
        except Closed as exc:
            self.closed = exc

    async def stop(self) -> None:
        """Listen no more."""
        while (
            not self._task.done()
        ):  # before Python 3.12 wait_for() may swallow it when a message comes at the same time
            self._task.cancel()
            await asyncio.wait((self._task,), timeout=0.1)

    def check(self, topic: str, *, gaps: bool = False) -> None:
        """Everything came, once and in order; or what is missing was announced."""
        numbers = self.numbers[topic]
        assert self.closed is None, self.closed
        holes = [(one, two) for one, two in pairwise(numbers) if two != one + 1]
        wrong = [hole for hole in holes if hole[0] not in self.gaps[topic] or hole[1] <= hole[0]]
        assert not wrong, f"{topic}: {wrong[:5]}, gaps after {self.gaps[topic]}"
        if not gaps:
            assert not self.gaps[topic], f"{topic}: gaps after {self.gaps[topic]}"


@asynccontextmanager
async def crowd(port: int, topics: list[list[str]]) -> AsyncIterator[list[Heard]]:
    """Connect a client for each list of topics, and subscribe it."""
    heard: list[Heard] = []
    try:
        for wanted in topics:
            client = await Client(port).__aenter__()
            heard.append(Heard(client, wanted))
            for topic in wanted:
                client.request("subscribe", topic)
        await eventually(lambda: all(len(each.others) >= len(each.topics) for each in heard), "the replies")
        assert all(reply["message"] == "context subscribed" for each in heard for reply in each.others)
        for each in heard:
            each.others.clear()
        yield heard
    finally:
        for each in heard:
            await each.stop()
            await each.client.__aexit__(None, None, None)


class Numbering:
    """Publishes 1, 2, 3 and so on, on each channel.

    Args:
        url: of the server.
        channels: where to.
        pause: seconds between two numbers.
    """

    def __init__(self, url: str, channels: list[str], pause: float) -> None:
        self.url = url
        self.channels = channels
        self.pause = pause
        self.last = 0
        self.stopped = False

    async def run(self) -> None:
        """Publish until it is stopped."""
        async with redis.asyncio.Redis.from_url(self.url) as connection:
            while not self.stopped:
                self.last += 1
                async with connection.pipeline(transaction=False) as pipeline:
                    for channel in self.channels:
                        pipeline.publish(channel, json.dumps(self.last))
                    await pipeline.execute()
                await asyncio.sleep(self.pause)


class ShardedNumbering:
    """Publishes numbers on sharded channels of a cluster, at the node that has the channel's slot at the time.

    Args:
        ports: of the nodes.
        channels: where to.
        pause: seconds between two numbers.
    """

    def __init__(self, ports: list[int], channels: list[str], pause: float) -> None:
        self.nodes = {port: redis.asyncio.Redis(port=port) for port in ports}
        self.owners = dict.fromkeys(channels, ports[0])
        self.pause = pause
        self.last = 0
        self.stopped = False

    async def run(self) -> None:
        """Publish until it is stopped."""
        while not self.stopped:
            self.last += 1
            for channel in self.owners:
                await self._publish(channel)
            await asyncio.sleep(self.pause)
        for node in self.nodes.values():
            await node.aclose()

    async def _publish(self, channel: str) -> None:
        while True:
            try:
                node: Any = self.nodes[self.owners[channel]]
                await node.execute_command("SPUBLISH", channel, json.dumps(self.last))
            except redis.exceptions.MovedError as exc:
                self.owners[channel] = int(exc.port)
            except redis.exceptions.RedisError:
                await asyncio.sleep(0.01)
            else:
                return


@asynccontextmanager
async def _running(numbers: Numbering | ShardedNumbering) -> AsyncIterator[None]:
    task = asyncio.create_task(numbers.run())
    try:
        yield
    finally:
        numbers.stopped = True
        await task


@asynccontextmanager
async def numbering_shards(ports: list[int], *channels: str, pause: float = 0.005) -> AsyncIterator[ShardedNumbering]:
    """Publish numbers on sharded channels while this is entered."""
    numbers = ShardedNumbering(ports, list(channels), pause)
    async with _running(numbers):
        yield numbers


@asynccontextmanager
async def numbering(url: str, *channels: str, pause: float = 0.005) -> AsyncIterator[Numbering]:
    """Publish numbers while this is entered."""
    numbers = Numbering(url, list(channels), pause)
    async with _running(numbers):
        yield numbers
