"""The topology of a cluster, as several nodes tell it. With a real cluster: test_redis_cluster.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from tests.servers import RedisServer
from wsd.errors import LinkError
from wsd.redis import topology as topology_module
from wsd.redis.address import Address, parse_address
from wsd.redis.slots import SLOTS
from wsd.redis.topology import Nodes

HELLO = b"%1\r\n$4\r\nrole\r\n$6\r\nmaster\r\n"
OK = b"$16\r\ncluster_state:ok\r\n"


def slots(*ranges: tuple[int, int, str, int]) -> bytes:
    """The reply to CLUSTER SLOTS, each range with one replica at the port after its master's."""
    reply = b"*%d\r\n" % len(ranges)
    for first, last, host, port in ranges:
        reply += b"*4\r\n:%d\r\n:%d\r\n" % (first, last)
        for number in (port, port + 1):
            reply += b"*3\r\n$%d\r\n%b\r\n:%d\r\n$2\r\nid\r\n" % (len(host), host.encode(), number)
    return reply


@asynccontextmanager
async def node(*answers: bytes) -> AsyncIterator[Address]:
    """A node that gives one answer to each thing it receives; with none left it is mute."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        rest = list(answers)
        while await reader.read(65536):
            if rest:
                writer.write(rest.pop(0))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1") as server:
        yield parse_address(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}")


async def test_owners_and_replicas_are_read() -> None:
    async with node(HELLO, slots((0, 99, "a", 1), (100, SLOTS - 1, "", 7)) + OK) as address:
        topology = await Nodes((address,), 5.0).ask()
    assert topology.masters == [("127.0.0.1", 7), ("a", 1)], "without a host it means the one that was asked"
    assert topology.replicas == {("a", 2), ("127.0.0.1", 8)}
    owners = topology.owners()
    assert (owners[0], owners[99], owners[100], owners[-1]) == (("a", 1), ("a", 1), ("127.0.0.1", 7), ("127.0.0.1", 7))
    assert len(owners) == SLOTS
    assert topology.ok


async def test_a_slot_may_have_no_owner_and_a_cluster_may_be_down() -> None:
    async with node(HELLO, slots((5, 6, "a", 1)) + b"$18\r\ncluster_state:fail\r\n") as address:
        topology = await Nodes((address,), 5.0).ask()
    assert not topology.ok
    owners = topology.owners()
    assert owners[4:8] == [None, ("a", 1), ("a", 1), None]


async def test_the_majority_is_believed_and_the_mute_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topology_module, "GRACE", 0.2)
    old, new = slots((0, 9, "old", 1)) + OK, slots((0, 9, "new", 1)) + OK
    async with AsyncExitStack() as stack:
        seeds = [await stack.enter_async_context(node(HELLO, answer)) for answer in (new, old, new)]
        seeds.append(await stack.enter_async_context(node()))
        started = asyncio.get_running_loop().time()
        topology = await Nodes(tuple(seeds), 60.0).ask()
        assert asyncio.get_running_loop().time() - started < 10
    assert topology.masters == [("new", 1)]


async def test_all_that_is_known_is_asked_later_and_the_seeds_too() -> None:
    async with AsyncExitStack() as stack:
        told = await stack.enter_async_context(node(HELLO, slots((0, 9, "told", 1)) + OK))
        seed = await stack.enter_async_context(node(HELLO, slots((0, 9, "127.0.0.1", told.port)) + OK))
        nodes = Nodes((seed,), 0.2)
        await nodes.ask()
        assert (await nodes.ask()).masters in ([("told", 1)], [("127.0.0.1", told.port)])


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ((b"-NOAUTH s3cret\r\n",), "asks for a password"),
        ((HELLO, b"-NOPERM no\r\n" + OK), "it answered CLUSTER with NOPERM no"),
        ((HELLO, b"*1\r\n*1\r\n:1\r\n" + OK), "it answered CLUSTER SLOTS with"),
        ((HELLO, b"+what\r\n" + OK), "it answered CLUSTER SLOTS with what"),
        ((HELLO, b"x"), "Protocol error"),
        ((HELLO,), "no answer within 0.2 s"),
        ((), "no answer to HELLO"),
    ],
)
async def test_who_does_not_tell_is_named(answers: tuple[bytes, ...], words: str) -> None:
    async with node(*answers) as address:
        with pytest.raises(LinkError) as caught:
            await Nodes((address,), 0.2).ask()
    assert words in str(caught.value)
    assert f"no node of the cluster tells its topology ({address}: " in str(caught.value)
    assert "s3cret" not in str(caught.value)


async def test_a_single_redis_is_no_cluster(redis: RedisServer) -> None:
    with pytest.raises(LinkError, match="use redis:// in redis_url"):
        await Nodes((parse_address(redis.url),), 5.0).ask()
