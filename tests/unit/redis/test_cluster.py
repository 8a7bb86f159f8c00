"""Which link a channel of a cluster is entrusted to, with nodes and links played. With a real cluster:
test_source.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from tests.lib.waiting import eventually
from wsd.deployment import Address
from wsd.errors import LinkError
from wsd.metrics import Metrics
from wsd.redis import guides as guides_module
from wsd.redis.cluster import ShardedCluster
from wsd.redis.guides import AnyNode, Fixed
from wsd.redis.link import Link
from wsd.redis.slots import SLOTS, key_slot
from wsd.redis.topology import Nodes, Place, Topology
from wsd.source import Events

A, B, C = ("a", 1), ("b", 2), ("c", 3)
HALF = SLOTS // 2

HEARTBEAT = 0.02


def split(low: Place, high: Place, *, ok: bool = True) -> Topology:
    """The lower half of the slots here, the upper there."""
    return Topology(((0, HALF - 1, low), (HALF, SLOTS - 1, high)), frozenset(), ok)


LOW = next(b"%d" % number for number in range(1000) if key_slot(b"%d" % number) < HALF)
HIGH = next(b"%d" % number for number in range(1000) if key_slot(b"%d" % number) >= HALF)


class PlayedNodes:
    """Tells what the test wants."""

    def __init__(self, answer: Topology | LinkError) -> None:
        self.answer = answer
        self.asked = 0
        self.doubters: list[Place] = []

    def address(self, place: Place) -> Address:
        return Address(*place)

    async def ask(self, doubters: Sequence[Place] = ()) -> Topology:
        self.asked += 1
        self.doubters = list(doubters)
        if isinstance(self.answer, LinkError):
            raise self.answer
        return self.answer


class PlayedLink:
    """Keeps what it was told."""

    def __init__(
        self,
        place: Place,
        name_private: Callable[[str], bytes],
        on_trouble: Callable[[], None],
    ) -> None:
        self.place = place
        self.name_private = name_private
        self.on_trouble = on_trouble
        self.channels: dict[bytes, bool] = {}  # whether they were entrusted with a gap
        self.released: list[bytes] = []
        self.published: list[tuple[bytes, bytes]] = []
        self.renewed: list[str] = []  # why
        self.delivered = True  # whether what is released was
        self.problem = ""
        self.failing = self.astray = self.running = self.held = False
        self.retries = 0

    @property
    def wanted(self) -> int:
        return len(self.channels)

    confirmed = wanted
    healed = True
    status = object()

    def subscribe(self, channel: bytes, *, missed: bool) -> None:
        self.channels[channel] = missed

    def unsubscribe(self, channel: bytes) -> None:
        del self.channels[channel]

    def release(self, channel: bytes) -> bool:
        del self.channels[channel]
        self.released.append(channel)
        return self.delivered

    def missed(self, channel: bytes) -> bool:
        return channel in self.channels

    def stream(self, channel: bytes) -> str:
        return self.place[0] if channel in self.channels else ""

    @property
    def streams(self) -> list[str]:
        return [self.place[0]]

    def private(self, stream: str, name: str) -> bytes:
        return self.name_private(name) if stream == self.place[0] else b""

    def publish(self, channel: bytes, payload: bytes, on_reply: Callable[[int | str], object]) -> None:
        self.published.append((channel, payload))
        on_reply(2)

    def renew(self, stream: str, reason: str) -> None:
        if stream == self.place[0]:
            self.renewed.append(reason)

    def retry(self) -> None:
        self.retries += 1

    def hold(self, full: bool) -> None:
        self.held = full

    async def run(self) -> None:
        self.running = True
        try:
            await asyncio.Event().wait()
        finally:
            self.running = False


class House:
    """A cluster, and what it has said and done."""

    def __init__(self, answer: Topology | LinkError) -> None:
        self.nodes = PlayedNodes(answer)
        self.links: dict[Place, PlayedLink] = {}
        self.lost: list[bytes] = []
        self.cluster = ShardedCluster(
            cast(Nodes, self.nodes),
            heartbeat=HEARTBEAT,
            metrics=Metrics(),
            events=Events(self.never, self.never, self.never, self.add_lost),
            make_link=self.make_link,
            name_private=lambda name: f"app:__wsd:{name}".encode(),
        )

    def never(self, *args: Any) -> None:
        raise AssertionError(args)

    def add_lost(self, channels: Iterable[bytes]) -> None:
        self.lost += channels

    def make_link(
        self,
        guide: Fixed,
        name_private: Callable[[str], bytes],
        on_trouble: Callable[[], None],
    ) -> Link:
        place = (guide.address.host, guide.address.port)
        self.links[place] = PlayedLink(place, name_private, on_trouble)
        return cast(Link, self.links[place])

    async def look_again(self, answer: Topology | LinkError) -> None:
        """Make it doubt the topology, and wait until it has looked twice."""
        self.nodes.answer = answer
        asked = self.nodes.asked
        self.cluster._doubted.set()
        await eventually(lambda: self.nodes.asked > asked)
        await asyncio.sleep(0)


@asynccontextmanager
async def running(answer: Topology | LinkError) -> AsyncIterator[House]:
    house = House(answer)
    task = asyncio.create_task(house.cluster.run())
    try:
        await eventually(lambda: house.nodes.asked)
        await asyncio.sleep(0)
        yield house
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert not any(link.running for link in house.links.values())


async def test_a_channel_goes_to_the_link_of_its_node_and_links_are_opened_when_needed() -> None:
    async with running(split(A, B)) as house:
        assert house.cluster.up
        assert house.links == {}
        house.cluster.subscribe(LOW)
        assert list(house.links) == [A]
        house.cluster.subscribe(HIGH)
        assert house.links[A].channels == {LOW: False}
        assert house.links[B].channels == {HIGH: False}
        await asyncio.sleep(0)
        assert house.links[A].running
        assert house.cluster.wanted == house.cluster.confirmed == 2


async def test_links_are_held_those_too_that_are_opened_meanwhile() -> None:
    async with running(split(A, B)) as house:
        house.cluster.subscribe(LOW)
        house.cluster.hold(True)
        house.cluster.subscribe(HIGH)
        assert [house.links[place].held for place in (A, B)] == [True, True]
        house.cluster.hold(False)
        assert [house.links[place].held for place in (A, B)] == [False, False]


async def test_channels_move_with_their_slots_and_the_old_link_is_closed() -> None:
    async with running(split(A, B)) as house:
        house.cluster.subscribe(LOW)
        house.cluster.subscribe(HIGH)
        await house.look_again(split(C, B))
        assert house.links[A].released == [LOW]
        assert house.links[C].channels == {LOW: True}
        assert house.links[B].channels == {HIGH: False}
        assert house.lost == [LOW]
        await eventually(lambda: not house.links[A].running)
        assert len(house.cluster.links) == 2


async def test_what_was_never_delivered_moves_without_a_gap() -> None:
    async with running(split(A, B)) as house:
        house.cluster.subscribe(LOW)
        house.links[A].delivered = False
        await house.look_again(split(C, B))
        assert house.links[C].channels == {LOW: False}


async def test_a_link_that_nobody_needs_is_closed() -> None:
    async with running(split(A, B)) as house:
        house.cluster.subscribe(LOW)
        await asyncio.sleep(0)
        house.cluster.unsubscribe(LOW)
        await house.look_again(split(A, B))
        await eventually(lambda: not house.links[A].running)
        assert house.cluster.links == []
        assert house.cluster.wanted == 0


async def test_channels_wait_for_a_slot_that_nobody_serves() -> None:
    async with running(Topology(((0, HALF - 1, A),), frozenset(), True)) as house:
        house.cluster.subscribe(HIGH)
        assert house.cluster.problem == "1 channels are in slots that no node serves"
        assert house.cluster.wanted == 1
        await house.look_again(split(A, B))
        assert house.links[B].channels == {HIGH: False}
        assert house.cluster.up


async def test_channels_wait_for_the_topology() -> None:
    async with running(LinkError("no node of the cluster tells its topology (x)")) as house:
        house.cluster.subscribe(LOW)
        house.cluster.subscribe(HIGH)
        house.cluster.unsubscribe(HIGH)
        assert "no node of the cluster tells" in house.cluster.problem
        house.nodes.answer = split(A, B)
        await eventually(lambda: house.cluster.up)
        assert house.links[A].channels == {LOW: False}
        assert B not in house.links


async def test_a_thousand_looks_that_fail_in_a_row_are_not_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: 0.0)  # no wait takes any time
    async with running(LinkError("no node of the cluster tells its topology (x)")) as house:
        house.cluster.subscribe(LOW)
        await eventually(lambda: house.nodes.asked > 3000)
        house.nodes.answer = split(A, B)
        await eventually(lambda: house.cluster.up)
        assert house.links[A].channels == {LOW: False}


async def test_a_cluster_that_is_down_is_said_and_not_pestered() -> None:
    async with running(split(A, B)) as house:
        house.cluster.subscribe(LOW)
        await house.look_again(split(A, B, ok=False))
        await eventually(lambda: not house.cluster.up)
        assert "cluster is down" in house.cluster.problem
        retries = house.links[A].retries
        asked = house.nodes.asked
        await eventually(lambda: house.nodes.asked >= asked + 2)
        assert house.links[A].retries == retries
        house.nodes.answer = split(A, B)
        await eventually(lambda: house.links[A].retries > retries)
        assert house.cluster.up


async def test_a_link_that_doubts_the_topology_has_it_looked_up_at_a_bounded_rate() -> None:
    async with running(split(A, B)) as house:
        house.cluster.subscribe(LOW)
        link = house.links[A]
        link.astray = True
        asked = house.nodes.asked
        link.on_trouble()
        await eventually(lambda: house.nodes.asked > asked)
        assert house.nodes.doubters == [A], "it is asked first of all"
        for _ in range(50):
            await asyncio.sleep(0.01)
            link.on_trouble()
        assert house.nodes.asked <= asked + 8
        link.on_trouble()
        await eventually(lambda: house.nodes.asked >= asked + 2, "another question")


async def test_a_topology_that_is_doubted_as_soon_as_it_is_known_is_not_looked_up_all_the_time() -> None:
    """Two nodes send a channel to each other. Each look is believed, tried, and doubted, a moment later."""
    async with running(split(A, B)) as house:
        house.cluster.subscribe(LOW)
        link = house.links[A]
        link.retry = link.on_trouble  # type: ignore[method-assign]
        asked = house.nodes.asked
        link.on_trouble()
        await asyncio.sleep(1.0)
        assert asked + 2 <= house.nodes.asked <= asked + 8


async def test_a_link_that_fails_is_a_problem_if_it_is_needed() -> None:
    async with running(split(A, B)) as house:
        house.cluster.subscribe(LOW)
        house.links[A].failing, house.links[A].problem = True, "can't connect"
        assert house.cluster.problem == "can't connect"
        house.cluster.unsubscribe(LOW)
        assert house.cluster.up


async def test_a_dead_cluster_is_noticed_while_nobody_listens() -> None:
    async with running(split(A, B)) as house:
        house.nodes.answer = LinkError("nobody answers")
        await eventually(lambda: house.cluster.problem == "nobody answers", "a look without a reason")
        house.nodes.answer = split(A, B)
        await eventually(lambda: house.cluster.up, "a look that succeeds")
        house.cluster.subscribe(LOW)
        asked = house.nodes.asked
        await asyncio.sleep(10 * HEARTBEAT)
        assert house.nodes.asked <= asked + 1, "the link tells when something is wrong"


async def test_the_private_channels_of_a_link_are_in_slots_of_its_node() -> None:
    async with running(split(A, B)) as house:
        house.cluster.subscribe(LOW)
        house.cluster.subscribe(HIGH)
        for place, low in ((A, True), (B, False)):
            channel = house.links[place].name_private("1")
            assert channel.startswith(b"app:__wsd:1:")
            assert (key_slot(channel) < HALF) is low
        await house.look_again(split(B, B))
        assert house.links[A].name_private("1") == b""


async def test_each_node_s_link_is_a_stream_with_private_channels_in_its_slots() -> None:
    async with running(split(A, B)) as house:
        cluster = house.cluster
        cluster.subscribe(LOW)
        cluster.subscribe(HIGH)
        assert (cluster.stream(LOW), cluster.stream(HIGH), cluster.stream(b"stranger")) == ("a", "b", "")
        assert cluster.streams == ["a", "b"]
        for stream, place, low in (("a", A, True), ("b", B, False)):
            channel = cluster.private(stream, "mark:7")
            assert channel.startswith(b"app:__wsd:mark:7:")
            assert (key_slot(channel) < HALF) is low
            cluster.subscribe(channel)
            assert cluster.stream(channel) == stream
            answers: list[int | str] = []
            cluster.publish(channel, b"x", answers.append)
            assert house.links[place].published == [(channel, b"x")]
            assert answers == [2]
        assert cluster.private("c", "mark:7") == b""
        cluster.renew("b", "slow")
        cluster.renew("c", "slow")
        assert [house.links[place].renewed for place in (A, B)] == [[], ["slow"]]


async def test_someone_new_may_have_missed_messages_of_a_channel_wherever_it_is() -> None:
    async with running(Topology(((0, HALF - 1, A),), frozenset(), True)) as house:
        house.cluster.subscribe(LOW)
        house.cluster.subscribe(HIGH)
        assert house.cluster.missed(LOW)
        assert house.cluster.missed(HIGH)
        assert not house.cluster.missed(b"stranger")
        assert house.cluster.stream(HIGH) == ""
        answers: list[int | str] = []
        house.cluster.publish(HIGH, b"x", answers.append)
        assert answers == []
        await asyncio.sleep(0)
        assert answers == ["1 channels are in slots that no node serves"]
        await house.look_again(split(A, B))
        assert house.links[B].channels == {HIGH: True}


async def test_classic_links_go_to_any_master_and_leave_one_that_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guides_module, "REFRESH_INTERVAL", 0.01)
    nodes = PlayedNodes(split(A, B))
    guide = AnyNode(cast(Nodes, nodes), "host")
    first = await guide.locate()
    second = await guide.locate()
    assert {(first.host, first.port), (second.host, second.port)} == {A, B}
    left: list[str] = []
    task = asyncio.create_task(guide.run(left.append))
    await eventually(lambda: nodes.asked > 4)
    assert left == []
    nodes.answer = LinkError("away")
    asked = nodes.asked
    await eventually(lambda: nodes.asked > asked + 1)
    nodes.answer = split(C, C)
    await eventually(lambda: left)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (await guide.locate()).host == "c"
    nodes.answer = Topology((), frozenset(), False)
    with pytest.raises(LinkError, match="no master with slots"):
        await guide.locate()


def nine() -> PlayedNodes:
    """A cluster of nine masters."""
    return PlayedNodes(Topology(tuple((slot, slot, ("n", slot + 1)) for slot in range(9)), frozenset(), True))


async def order(host: str, nodes: PlayedNodes) -> list[int]:
    """Where a guide leads a link that never arrives."""
    guide = AnyNode(cast(Nodes, nodes), host)
    return [(await guide.locate()).port for _ in range(10)]


async def test_links_of_a_host_go_to_the_same_master_and_hosts_spread_over_them() -> None:
    nodes = nine()
    orders = [await order(f"host-{number}", nodes) for number in range(200)]
    assert all(sorted(each[:9]) == list(range(1, 10)) and each[9] == each[0] for each in orders), "each in its turn"
    assert await order("host-7", nodes) == orders[7]
    firsts = [each[0] for each in orders]
    assert max(map(firsts.count, range(1, 10))) < 2 * 200 / 9
    assert min(map(firsts.count, range(1, 10))) > 200 / 9 / 2
    # A master that goes takes only its own hosts along, and they spread over the others.
    assert isinstance(nodes.answer, Topology)
    nodes.answer = Topology(nodes.answer.ranges[1:], frozenset(), True)
    for number, before in enumerate(orders[:50]):
        (after, *_) = await order(f"host-{number}", nodes)
        assert after == (before[1] if before[0] == 1 else before[0])


async def test_a_link_that_was_cut_off_comes_back_and_one_that_found_no_use_goes_on() -> None:
    nodes = nine()
    first, second, *_ = await order("host", nodes)
    guide = AnyNode(cast(Nodes, nodes), "host")

    async def located() -> int:
        return (await guide.locate()).port

    assert await located() == first
    guide.arrived()
    assert await located() == first, "it was cut off"
    assert await located() == second, "it could not connect"
    guide.arrived()
    assert await located() == first, "it was cut off from the second"
    guide.arrived()
    guide.abandoned()
    assert await located() == second
    guide.arrived()
    guide.abandoned()
    assert await located() == first
