"""The topology of a cluster, as several nodes tell it. With a real cluster: test_source.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from tests.lib.addresses import parse_address
from tests.lib.marks import needs_sharding
from tests.lib.servers import RedisServer
from tests.lib.waiting import PATIENCE
from wsd.deployment import Address
from wsd.errors import LinkError
from wsd.redis import topology as topology_module
from wsd.redis.slots import SLOTS
from wsd.redis.topology import Nodes

HELLO = b"%1\r\n$4\r\nrole\r\n$6\r\nmaster\r\n"
OK = b"$16\r\ncluster_state:ok\r\n"


def slots(*ranges: tuple[int, int, str, int]) -> bytes:
    """The reply to CLUSTER SLOTS, each range with one replica at the port after its master's. A master's id is its host
    and port, without a colon."""
    reply = b"*%d\r\n" % len(ranges)
    for first, last, host, port in ranges:
        reply += b"*4\r\n:%d\r\n:%d\r\n" % (first, last)
        for number in (port, port + 1):
            id = b"%b%d" % (host.encode(), number)
            reply += b"*3\r\n$%d\r\n%b\r\n:%d\r\n$%d\r\n%b\r\n" % (len(host), host.encode(), number, len(id), id)
    return reply


def epochs(myself: str = "", **nodes: int) -> bytes:
    """The reply to CLUSTER NODES: the config epoch of each node, by its id; one of them is the one that says it."""
    lines = b"".join(
        b"%b :0@0 %bmaster - 0 0 %d connected 0\n" % (id.encode(), b"myself," * (id == myself), epoch)
        for id, epoch in nodes.items()
    )
    return b"$%d\r\n%b\r\n" % (len(lines), lines)


NOPERM = b"-NOPERM no\r\n"


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
    async with node(HELLO, slots((0, 99, "a", 1), (100, SLOTS - 1, "", 7)) + OK + epochs()) as address:
        topology = await Nodes((address,), 5.0).ask()
    assert topology.masters == [("127.0.0.1", 7), ("a", 1)], "without a host it means the one that was asked"
    assert topology.replicas == {("a", 2), ("127.0.0.1", 8)}
    owners = topology.owners()
    assert (owners[0], owners[99], owners[100], owners[-1]) == (("a", 1), ("a", 1), ("127.0.0.1", 7), ("127.0.0.1", 7))
    assert len(owners) == SLOTS
    assert topology.ok


async def test_a_slot_may_have_no_owner_and_a_cluster_may_be_down() -> None:
    async with node(HELLO, slots((5, 6, "a", 1)) + b"$18\r\ncluster_state:fail\r\n" + epochs()) as address:
        topology = await Nodes((address,), 5.0).ask()
    assert not topology.ok
    owners = topology.owners()
    assert owners[4:8] == [None, ("a", 1), ("a", 1), None]


async def test_the_newest_claim_to_each_slot_is_believed() -> None:
    before = slots((0, 9, "a", 1), (10, 19, "b", 1)) + OK + epochs(a1=1, b1=5)
    after = slots((0, 4, "a", 1), (5, 9, "c", 1), (10, 19, "b", 1)) + OK + epochs(a1=1, b1=5, c1=6)
    # Lost by the others, it still believes in what was, and the cluster is down to it.
    lost = slots((0, 9, "a", 1), (10, 19, "d", 1)) + b"$18\r\ncluster_state:fail\r\n" + epochs(a1=1, d1=4)
    async with AsyncExitStack() as stack:
        answers = (before, before, lost, after)
        seeds = [await stack.enter_async_context(node(HELLO, answer)) for answer in answers]
        topology = await Nodes(tuple(seeds), 5.0).ask()
    assert topology.ranges == ((0, 4, ("a", 1)), (5, 9, ("c", 1)), (10, 19, ("b", 1)))
    assert topology.replicas == {("a", 2), ("b", 2), ("c", 2), ("d", 1), ("d", 2)}
    assert topology.ok


@pytest.mark.parametrize(("known", "owner"), [(9, "a"), (8, "c")])
async def test_a_node_knows_best_what_it_serves_unless_others_know_of_a_newer_epoch(known: int, owner: str) -> None:
    # A slot went from c to a, and c imported another one then. Who has missed the first takes c's claim for the newer.
    first = slots((0, 9, "a", 1), (10, 19, "c", 1)) + OK + epochs("a1", a1=5, c1=9)
    other = slots((0, 9, "a", 1), (10, 19, "c", 1)) + OK + epochs("c1", a1=5, c1=known)
    stale = slots((0, 4, "a", 1), (5, 19, "c", 1)) + OK + epochs("x1", a1=5, c1=9)
    async with AsyncExitStack() as stack:
        seeds = [await stack.enter_async_context(node(HELLO, answer)) for answer in (stale, first, other)]
        topology = await Nodes(tuple(seeds), 5.0).ask()
    assert (topology.owners()[5], topology.owners()[15]) == ((owner, 1), ("c", 1))


async def test_the_majority_is_believed_without_epochs_and_the_mute_are_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(topology_module, "GRACE", 0.2)
    old, new = slots((0, 9, "old", 1)) + OK + NOPERM, slots((0, 9, "new", 1)) + OK + NOPERM
    async with AsyncExitStack() as stack:
        seeds = [await stack.enter_async_context(node(HELLO, answer)) for answer in (new, old, new)]
        seeds.append(await stack.enter_async_context(node()))
        started = asyncio.get_running_loop().time()
        topology = await Nodes(tuple(seeds), 60.0).ask()
        assert asyncio.get_running_loop().time() - started < 10
    assert topology.masters == [("new", 1)]


async def test_all_that_is_known_is_asked_later_and_the_seeds_too() -> None:
    async with AsyncExitStack() as stack:
        answer = slots((0, 9, "told", 1)) + OK + epochs(told1=2)
        told = await stack.enter_async_context(node(HELLO, answer))
        answer = slots((0, 9, "127.0.0.1", told.port)) + OK + epochs()
        seed = await stack.enter_async_context(node(HELLO, answer))
        nodes = Nodes((seed,), 0.2)
        assert (await nodes.ask()).masters == [("127.0.0.1", told.port)]
        assert (await nodes.ask()).masters == [("told", 1)]


async def test_those_who_doubt_are_asked_first_of_all_but_not_they_alone() -> None:
    seeds = [Address("seed", number) for number in range(40)]
    nodes = Nodes(seeds, 1.0)
    for doubters in ([], [("x", 1)], [("x", 1), ("x", 2), ("x", 3)]):
        chosen = nodes._choose(doubters)
        assert chosen[: len(doubters)][:2] == doubters[:2]
        assert len(set(chosen)) == 5
        assert sum(host == "seed" for host, _ in chosen) == 5 - min(len(doubters), 2)


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ((b"-NOAUTH s3cret\r\n",), "asks for a password"),
        ((HELLO, NOPERM + OK + NOPERM), "it answered CLUSTER with NOPERM no"),
        ((HELLO, b"*1\r\n*1\r\n:1\r\n" + OK + epochs()), "it answered CLUSTER SLOTS with"),
        ((HELLO, b"+what\r\n" + OK + epochs()), "it answered CLUSTER SLOTS with what"),
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


@needs_sharding
async def test_nodes_that_should_have_host_names_and_have_none_are_reached_by_address(
    make_redis: Callable[..., RedisServer],
) -> None:
    options = ("--cluster-enabled", "yes", "--cluster-preferred-endpoint-type", "hostname")
    first, second = (make_redis(*options) for _ in range(2))
    first("CLUSTER", "ADDSLOTSRANGE", 0, 99)
    second("CLUSTER", "ADDSLOTSRANGE", 100, SLOTS - 1)
    first("CLUSTER", "MEET", "127.0.0.1", second.port)
    nodes = Nodes((parse_address(first.url),), 5.0)
    expected = {("127.0.0.1", first.port), ("127.0.0.1", second.port)}
    async with asyncio.timeout(PATIENCE):
        while set((topology := await nodes.ask()).masters) != expected:  # noqa: ASYNC110 - nodes tell it each other
            await asyncio.sleep(0.02)
    assert topology.problem == ""


async def test_a_single_redis_is_no_cluster(redis: RedisServer) -> None:
    with pytest.raises(LinkError, match="use redis:// in redis_url"):
        await Nodes((parse_address(redis.url),), 5.0).ask()
