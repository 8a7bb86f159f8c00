"""Connections move between two workers, here of one process, and their clients see nothing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.lib.clients import Client
from tests.lib.servers import RedisServer, serving
from tests.lib.topologies import ClusterOfThree
from tests.lib.waiting import eventually
from tests.whole.handover.crowd import Heard, crowd, numbering, numbering_shards
from wsd.delivery import fanout as delivery
from wsd.delivery.topics import TopicTable
from wsd.handover import fence, giver, taker
from wsd.handover.giver import Giver
from wsd.handover.parts import Given, Taken
from wsd.handover.steps import Step
from wsd.handover.taker import Taker
from wsd.pipe import pair
from wsd.source import Source
from wsd.worker.alone import LoneWorker

TOPICS = ["a", "b", "c"]


async def move(
    old: LoneWorker, new: LoneWorker, *, count: int | None = None, seconds: float = 20.0
) -> tuple[Given, Taken]:
    left, right = pair()
    giving = Giver(old.parts, left, count=count, seconds=seconds)
    taking = Taker(new.parts, right)
    given, taken = await asyncio.gather(giving.run(), taking.run())
    return given, taken


def check_clean(*workers: LoneWorker) -> None:
    """Nothing is left of the hand-over but connections and their topics."""
    for worker in workers:
        wanted = {topic for each in worker.gateway.connections for topic in each.listening}  # type: ignore[attr-defined]
        assert len(worker.topics) == len(wanted)
        assert not worker.topics.marks
        assert worker.metrics.internal_errors == 0


async def check_all_heard(heard: list[Heard], last: int, *, gaps: bool = False) -> None:
    await eventually(
        lambda: all((each.numbers[topic] or [0])[-1] == last for each in heard for topic in each.topics),
        "the last number",
    )
    for each in heard:
        for topic in each.topics:
            each.check(topic, gaps=gaps)


async def test_nobody_notices_that_all_move_there_and_back(redis: RedisServer) -> None:
    wanted = [TOPICS[: 1 + number % 3] for number in range(60)]
    async with (
        serving(redis) as one,
        serving(redis) as two,
        crowd(one.port, wanted) as heard,
        numbering(redis.url, *TOPICS) as numbers,
    ):
        await eventually(lambda: numbers.last > 20)
        for old, new in ((one, two), (two, one)) * 2:
            given, taken = await move(old, new)
            assert given == Given(60, {}, 0, ""), given
            assert (taken.moved, taken.gaps, taken.reason) == (60, {}, "")
            assert (len(old.gateway.connections), len(new.gateway.connections)) == (0, 60)
        await asyncio.sleep(0.05)
        numbers.stopped = True
        await eventually(lambda: heard[0].numbers["a"] and heard[0].numbers["a"][-1] == numbers.last)
        await check_all_heard(heard, numbers.last)
        check_clean(one, two)
        for each in heard:
            each.client.request("unsubscribe", "a")
        await eventually(lambda: all(each.others for each in heard))
        assert all(each.others == [{"action": "unsubscribe", "message": "context unsubscribed"}] for each in heard)


async def test_some_move(redis: RedisServer) -> None:
    async with (
        serving(redis) as one,
        serving(redis) as two,
        crowd(one.port, [["a"]] * 50) as heard,
        numbering(redis.url, "a") as numbers,
    ):
        assert (await move(one, two, count=20))[0] == Given(20, {}, 0, "")
        assert (len(one.gateway.connections), len(two.gateway.connections)) == (30, 20)
        numbers.stopped = True
        await check_all_heard(heard, numbers.last)
        check_clean(one, two)


@pytest.mark.parametrize("step", Step)
@pytest.mark.parametrize("victim", ["giver", "taker"])
async def test_one_side_dies_at_a_step(
    redis: RedisServer, step: Step, victim: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pipe breaks: each side must think that the other has died. Here both live, so each client must be served."""
    async with (
        serving(redis) as one,
        serving(redis) as two,
        crowd(one.port, [["a", "b"]] * 40) as heard,
        numbering(redis.url, "a", "b") as numbers,
    ):
        left, right = pair()
        giving, taking = Giver(one.parts, left, count=None, seconds=20), Taker(two.parts, right)
        happened: list[Step] = []

        def die(reached: Step) -> None:
            if reached is step and not happened:
                happened.append(step)
                dying = giving if victim == "giver" else taking
                dying._pipe._sock.shutdown(2)

        monkeypatch.setattr(giver, "reached", die)
        monkeypatch.setattr(taker, "reached", die)
        given, taken = await asyncio.gather(giving.run(), taking.run())
        assert happened == [step]
        assert given.moved == taken.moved == len(two.gateway.connections)
        assert given.left == len(one.gateway.connections)
        assert given.moved + given.left == 40
        numbers.stopped = True
        await check_all_heard(heard, numbers.last)
        check_clean(one, two)


async def test_another_prefix_is_a_gap_and_nothing_comes_twice(redis: RedisServer) -> None:
    async with (
        serving(redis) as one,
        serving(redis, channel_prefix="other:") as two,
        crowd(one.port, [["a"], ["b"], ["a", "b"]] * 10) as heard,
        numbering(redis.url, "a", "b", "other:a", "other:b") as numbers,
    ):
        await eventually(lambda: numbers.last > 20)
        given, _ = await move(one, two)
        assert given == Given(30, {taker.NAMES: 30}, 0, "")
        await asyncio.sleep(0.05)
        numbers.stopped = True
        await check_all_heard(heard, numbers.last, gaps=True)
        assert all(len(each.gaps[topic]) == 1 for each in heard for topic in each.topics)
        check_clean(one, two)


async def test_another_redis_is_a_gap(redis: RedisServer, own_redis: RedisServer) -> None:
    async with (
        serving(redis) as one,
        serving(own_redis) as two,
        crowd(one.port, [["a"]] * 10) as heard,
        numbering(redis.url, "a") as numbers,
    ):
        await eventually(lambda: numbers.last > 5)
        given, _ = await move(one, two)
        assert given == Given(10, {taker.SERVERS: 10}, 0, "")
        numbers.stopped = True
        await eventually(lambda: all(each.gaps["a"] for each in heard), "the notices")
        async with numbering(own_redis.url, "a") as others:
            others.last = numbers.last + 100
            await eventually(lambda: all(each.numbers["a"][-1] > numbers.last for each in heard))
        for each in heard:
            each.check("a", gaps=True)


async def test_redis_is_away(own_redis: RedisServer) -> None:
    async with (
        serving(own_redis, redis_heartbeat=1) as one,
        serving(own_redis, redis_heartbeat=1) as two,
        crowd(one.port, [["a"], ["a", "b"]] * 10) as heard,
    ):
        async with numbering(own_redis.url, "a", "b") as numbers:
            await eventually(lambda: numbers.last > 5)
        own_redis.stop()
        await eventually(lambda: not one.source.up and not two.source.up)
        given, _ = await move(one, two)
        assert given == Given(20, {taker.AWAY: 20}, 0, "")
        own_redis.start()
        await eventually(lambda: two.source.healed)
        async with numbering(own_redis.url, "a", "b") as numbers_:
            numbers_.last = numbers.last + 100
            await eventually(lambda: numbers_.last > numbers.last + 110)
            numbers_.stopped = True
        await check_all_heard(heard, numbers_.last, gaps=True)
        assert all(len(each.gaps[topic]) == 1 for each in heard for topic in each.topics)
        check_clean(one, two)


async def test_a_worker_that_reads_other_records_is_given_nothing(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taker, "VERSION", 99)
    async with serving(redis) as one, serving(redis) as two, crowd(one.port, [["a"]] * 3) as heard:
        given, taken = await move(one, two)
        assert (given.moved, given.left) == (0, 3)
        assert given.reason == "the new worker reads records of version 99, the old one writes 1"
        assert taken.moved == 0
        assert all(each.closed is None for each in heard)
        check_clean(one, two)


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterOfThree]:
    cluster = ClusterOfThree()
    yield cluster
    cluster.remove()


async def test_each_node_of_a_cluster_has_a_mark_of_its_own(cluster: ClusterOfThree) -> None:
    url = cluster.url(cluster.masters[0].port)
    topics = [f"t{number}" for number in range(12)]  # on all three nodes
    ports = [node.port for node in cluster.masters]
    async with (
        serving(url) as one,
        serving(url) as two,
        crowd(one.port, [topics[number % 6 :: 3] for number in range(40)]) as heard,
        numbering_shards(ports, *topics) as numbers,
    ):
        await eventually(lambda: numbers.last > 20)
        assert len({one.source.stream(topic.encode()) for topic in topics}) == 3
        for old, new in ((one, two), (two, one)) * 2:
            given, taken = await move(old, new)
            assert given == Given(40, {}, 0, ""), given
            assert taken.gaps == {}
        await asyncio.sleep(0.05)
        numbers.stopped = True
        await check_all_heard(heard, numbers.last)
        check_clean(one, two)


async def test_slots_move_while_connections_do(cluster: ClusterOfThree) -> None:
    """A slot that moves is a gap as ever; nothing comes twice, and nothing is missing without a notice."""
    url = cluster.url(cluster.masters[0].port)
    topics = [f"s{number}" for number in range(6)]
    ports = [node.port for node in cluster.masters]
    async with (
        serving(url) as one,
        serving(url) as two,
        crowd(one.port, [topics[number % 3 :: 2] for number in range(30)]) as heard,
        numbering_shards(ports, *topics) as numbers,
    ):
        await eventually(lambda: numbers.last > 10)
        for number, (old, new) in enumerate(((one, two), (two, one)) * 3):
            moving = asyncio.create_task(move(old, new))
            source = cluster.owner(topics[number])
            target = cluster.masters[cluster.masters.index(source) - 1]
            await asyncio.to_thread(cluster.move, topics[number], target)
            given, _ = await moving
            assert (given.moved, given.left, given.reason) == (30, 0, "")
        await eventually(lambda: one.source.healed and two.source.healed)
        await asyncio.sleep(0.05)
        numbers.stopped = True
        await check_all_heard(heard, numbers.last, gaps=True)
        check_clean(one, two)


async def test_classic_channels_on_a_cluster_need_links_to_the_same_node(cluster: ClusterOfThree) -> None:
    url = cluster.url(cluster.masters[0].port)
    async with (
        serving(url, pubsub="classic") as one,
        serving(url, pubsub="classic") as two,
        crowd(one.port, [["a", "b"]] * 20) as heard,
        numbering(cluster.masters[1].url, "a", "b") as numbers,
    ):
        await eventually(lambda: numbers.last > 10)
        given, _ = await move(one, two)
        assert given == Given(20, {}, 0, ""), given
        await asyncio.sleep(0.05)
        numbers.stopped = True
        await check_all_heard(heard, numbers.last)


async def test_replies_that_are_owed_come_from_the_new_worker(own_redis: RedisServer) -> None:
    async with (
        serving(own_redis) as one,
        serving(own_redis) as two,
        crowd(one.port, [["a"]] * 5) as heard,
    ):
        own_redis.freeze()
        try:
            for each in heard:
                each.client.request("subscribe", "new", id=1)
                each.client.send({"action": "ping", "id": 2})
            connections = list(one.gateway.connections)
            await eventually(lambda: all(each.waiting for each in connections))  # type: ignore[attr-defined]
            moving = asyncio.create_task(move(one, two))
            await asyncio.sleep(0.2)
        finally:
            own_redis.thaw()
        given, _ = await moving
        assert (given.moved, given.left) == (5, 0)
        await eventually(lambda: all(len(each.others) == 2 for each in heard))
        for each in heard:
            assert [reply["id"] for reply in each.others] == [1, 2]
            assert each.others[0]["message"] == "context subscribed"
        async with numbering(own_redis.url, "a", "new") as numbers:
            await eventually(lambda: numbers.last > 3)
        await eventually(lambda: all(each.numbers["new"][-1:] == [numbers.last] for each in heard))
        check_clean(one, two)


async def test_one_that_lags_moves_when_its_socket_has_taken_what_it_holds(redis: RedisServer) -> None:
    large = "x" * 40_000
    async with serving(redis) as one, serving(redis) as two, Client(one.port, receive_buffer=4096) as slow:
        await slow.subscribe("a")
        sent = 0
        (connection,) = one.gateway.connections
        while connection.backlog_bytes < 300_000:
            redis("PUBLISH", "a", f'"{sent}:{large}"')
            sent += 1
            await asyncio.sleep(0)
        moving = asyncio.create_task(move(one, two))
        await asyncio.sleep(0.1)
        assert not moving.done()
        redis("PUBLISH", "a", f'"{sent}:{large}"')
        sent += 1
        numbers: list[int] = []
        while len(numbers) < sent:
            message = await slow.receive()
            assert message["action"] == "message", message
            numbers.append(int(message["snapshot"].split(":")[0]))
        assert numbers == list(range(sent))
        assert (await moving)[0] == Given(1, {}, 0, "")
        check_clean(one, two)


async def test_one_that_takes_nothing_stays(redis: RedisServer) -> None:
    async with serving(redis) as one, serving(redis) as two, Client(one.port, receive_buffer=4096) as slow:
        await slow.subscribe("a")
        (connection,) = one.gateway.connections
        while connection.backlog_bytes < 300_000:
            redis("PUBLISH", "a", '"' + "x" * 40_000 + '"')
            await asyncio.sleep(0)
        given, _ = await move(one, two, seconds=0.5)
        assert given == Given(0, {}, 1, "what had been sent to them was not taken within 0.5 s"), given
        check_clean(one, two)


async def test_a_worker_without_room_takes_what_it_has_room_for(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(redis) as one, serving(redis) as two, crowd(one.port, [["a"]] * 10) as heard:
        parts = replace(two.parts, room=lambda: 4 - len(two.gateway.connections))
        left, right = pair()
        given, _ = await asyncio.gather(Giver(one.parts, left, count=None, seconds=1).run(), Taker(parts, right).run())
        assert given == Given(4, {}, 6, "the other worker has no room for more")
        assert all(each.closed is None for each in heard)
        check_clean(one, two)


async def test_clients_that_leave_meanwhile_leave_nothing(redis: RedisServer) -> None:
    async with (
        serving(redis) as one,
        serving(redis) as two,
        crowd(one.port, [["a", "b"]] * 60) as heard,
        numbering(redis.url, "a", "b") as numbers,
    ):
        moving = asyncio.create_task(move(one, two))
        for each in heard[::2]:
            await each.stop()
            each.client.writer.close()
            await asyncio.sleep(0)
        await moving
        await eventually(lambda: len(one.gateway.connections) + len(two.gateway.connections) == 30)
        numbers.stopped = True
        await check_all_heard(heard[1::2], numbers.last)
        check_clean(one, two)


async def test_descriptors_that_run_out_slow_the_move_and_break_nothing(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel drops descriptors that the receiver has no room for; the message comes without them."""
    async with (
        serving(redis) as one,
        serving(redis) as two,
        crowd(one.port, [["a"]] * 30) as heard,
        numbering(redis.url, "a") as numbers,
    ):
        left, right = pair()
        giving, taking = Giver(one.parts, left, count=None, seconds=20), Taker(two.parts, right)
        take, lost = taking._pipe._on_message, list[int]()

        def lose(message: dict[str, Any], descriptors: list[int]) -> None:
            if descriptors and len(lost) < 10:
                lost.append(descriptors[-1])
                os.close(descriptors.pop())
            take(message, descriptors)

        monkeypatch.setattr(taking._pipe, "_on_message", lose)
        given, _ = await asyncio.gather(giving.run(), taking.run())
        assert len(lost) == 10
        assert given == Given(30, {}, 0, ""), given
        assert one.metrics.moves["back"] == 10
        numbers.stopped = True
        await check_all_heard(heard, numbers.last)
        check_clean(one, two)


async def test_what_comes_right_behind_the_mark_is_for_those_who_come(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one read the taker gets a message for somebody else, the mark, and a message that it has no listener for."""
    async with (
        serving(redis) as one,
        serving(redis) as two,
        crowd(two.port, [["own"]]) as others,
        crowd(one.port, [["a"]] * 3) as heard,
    ):
        on_mark, fanout = Taker._on_mark, two.parts.shared.fanout

        def in_one_read(self: Taker, channel: bytes, payload: bytes) -> None:
            fanout.publish(b"a", b"1")  # before the mark: the giver delivers that
            fanout.publish(b"own", b"1")
            on_mark(self, channel, payload)
            fanout.publish(b"a", b"2")

        monkeypatch.setattr(Taker, "_on_mark", in_one_read)
        assert (await move(one, two))[0] == Given(3, {}, 0, "")
        await eventually(lambda: others[0].numbers["own"] == [1])
        await eventually(lambda: all(each.numbers["a"] for each in heard), "what came behind the mark")
        assert [each.numbers["a"] for each in heard] == [[2]] * 3
        check_clean(one, two)


@pytest.mark.parametrize("lost", [pytest.param(False, id="link stays"), pytest.param(True, id="link is lost then")])
async def test_a_gap_is_told_before_what_the_taker_has_for_others(
    redis: RedisServer, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch, lost: bool
) -> None:
    """The cut is unknown. When the stand-ins begin to listen, a message waits for those who listened there before."""
    monkeypatch.setattr(delivery, "STEP", 1)  # so it takes some turns to write to the others
    monkeypatch.setattr(delivery, "SLICE", 0.0)
    async with (
        serving(redis) as one,
        serving(own_redis) as two,
        crowd(two.port, [["a"]] * 20) as others,
        crowd(one.port, [["a"]] * 3) as heard,
    ):
        pass_fences, fanout = fence.pass_fences, two.parts.shared.fanout

        def come_behind_the_barrier() -> None:
            fanout.publish(b"a", b"2")
            if lost:
                two.source._wire.fail("lost")  # type: ignore[attr-defined]

        async def then_comes_a_message(topics: TopicTable, source: Source, names: Iterable[str]) -> None:
            await pass_fences(topics, source, names)
            asyncio.get_running_loop().call_soon(come_behind_the_barrier)
            fanout.publish(b"a", b"1")

        monkeypatch.setattr(taker, "pass_fences", then_comes_a_message)
        assert (await move(one, two))[0] == Given(3, {taker.AWAY if lost else taker.SERVERS: 3}, 0, "")
        await eventually(lambda: two.source.healed, "the link")
        own_redis.publish("a", "3")
        await eventually(lambda: all(each.numbers["a"][-1:] == [3] for each in (*heard, *others)), "the last one")
        assert [(each.numbers["a"], each.gaps["a"]) for each in others] == [([1, 2, 3], [2] * lost)] * 20
        assert [each.numbers["a"] for each in heard] == [[2, 3]] * 3
        assert [each.gaps["a"] for each in heard] == [[0, *[2] * lost]] * 3, "before the first message"
        assert two.metrics.gap_notices == (26 if lost else 3)
        check_clean(one, two)


async def test_the_order_holds_across_topics_whose_cut_is_known_and_unknown(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are kept together until the connection has come."""
    async with serving(redis) as one, serving(redis) as two, crowd(one.port, [["a", "b"]] * 2) as heard:
        stream, fanout = one.source.stream, two.parts.shared.fanout

        def publish(step: Step) -> None:
            if step is Step.TAKER_CUT:
                for number, topic in enumerate((b"b", b"a", b"b", b"a"), start=1):
                    fanout.publish(topic, b"%d" % number)
                asyncio.get_running_loop().call_soon(fanout.publish, b"a", b"5")
                asyncio.get_running_loop().call_soon(fanout.publish, b"b", b"6")

        monkeypatch.setattr(taker, "reached", publish)
        monkeypatch.setattr(one.source, "stream", lambda channel: "" if channel == b"b" else stream(channel))
        assert (await move(one, two))[0] == Given(2, {taker.AWAY: 2}, 0, "")
        await eventually(lambda: all(len(each.messages) == 6 for each in heard), "the messages")
        for each in heard:
            assert each.messages == [("b", 1), ("a", 2), ("b", 3), ("a", 4), ("a", 5), ("b", 6)]
            assert (each.gaps["a"], each.gaps["b"]) == ([], [0])
        check_clean(one, two)


async def test_what_the_giver_missed_is_told_though_it_is_confirmed_again_when_all_is_cut(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mark comes while it is not, and the notice when the stand-ins have taken the places of the connections."""
    async with serving(redis) as one, serving(redis) as two, crowd(one.port, [["a"]] * 2) as heard:
        publish_marks = Taker._publish_marks

        def lose(step: Step) -> None:
            if step is Step.GIVER_MARKED:
                one.source._lose_dead([b"a"])  # type: ignore[attr-defined]

        async def then_wait(*args: Any) -> list[bytes]:
            marked = await publish_marks(*args)
            await eventually(lambda: one.metrics.gaps and one.source.healed, "the confirmation")
            return marked

        monkeypatch.setattr(giver, "reached", lose)
        monkeypatch.setattr(Taker, "_publish_marks", then_wait)
        assert (await move(one, two))[0] == Given(2, {taker.AWAY: 2}, 0, "")
        await eventually(lambda: all(each.gaps["a"] == [0] for each in heard), "the notice")
        check_clean(one, two)


async def test_topics_whose_cut_is_unknown_are_not_ahead_of_those_whose_cut_is_known(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the giver began, Redis had not confirmed one of them again. When the mark comes, it has."""
    async with serving(redis) as one, serving(redis) as two, crowd(one.port, [["a", "b"]] * 2) as heard:
        stream = one.source.stream

        def publish(step: Step) -> None:
            if step is Step.GIVER_MARKED:
                for number, topic in enumerate("abab", start=1):
                    redis.publish(topic, str(number))

        monkeypatch.setattr(giver, "reached", publish)
        monkeypatch.setattr(one.source, "stream", lambda channel: "" if channel == b"b" else stream(channel))
        assert (await move(one, two))[0] == Given(2, {taker.AWAY: 2}, 0, "")
        redis.publish("b", "5")
        await eventually(lambda: all(each.numbers["b"][-1:] == [5] for each in heard), "the last one")
        for each in heard:
            assert [number for _, number in each.messages] == sorted(number for _, number in each.messages)
            each.check("b", gaps=True)
            assert each.numbers["a"] == [1, 3]
        check_clean(one, two)


@pytest.mark.parametrize(
    ("up", "late", "most"),
    [
        pytest.param(False, 0.05, 3.0, id="not up: the nodes of a Cluster deliver that have lost the majority"),
        pytest.param(True, 1.5, 3.0, id="slow: it answers only when the wait for marks is over"),
        pytest.param(True, 3.0, 1.0, id="silent: it is given up"),
    ],
)
async def test_nothing_comes_twice_that_the_taker_reads_late(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch, up: bool, late: float, most: float
) -> None:
    """The giver has delivered it."""
    async with (
        serving(redis) as one,
        serving(redis) as two,
        crowd(two.port, [["a"]]) as others,
        crowd(one.port, [["a"]] * 3) as heard,
    ):
        pass_fences, link = fence.pass_fences, two.source._wire._transport  # type: ignore[attr-defined]

        async def then_it_reads(topics: TopicTable, source: Source, names: Iterable[str]) -> None:
            asyncio.get_running_loop().call_later(late, link.resume_reading)
            await pass_fences(topics, source, names)

        monkeypatch.setattr(taker, "pass_fences", then_it_reads)
        monkeypatch.setattr(fence, "FENCE_PATIENCE", most)
        if not up:
            monkeypatch.setattr(type(two.source), "up", False)
        link.pause_reading()
        redis.publish("a", "1")
        await eventually(lambda: all(each.numbers["a"] == [1] for each in heard), "the first one")
        given, _ = await move(one, two)
        assert (given.moved, sum(given.gaps.values())) == (3, 3)
        await eventually(lambda: two.source.stream(b"a"), "the link that was given up, if it was")
        redis.publish("a", "2")
        await eventually(lambda: all(each.numbers["a"][-1:] == [2] for each in (*heard, *others)), "the last one")
        assert [each.numbers["a"] for each in heard] == [[1, 2]] * 3
        check_clean(one, two)


async def test_nothing_comes_twice_of_a_topic_that_is_confirmed_late(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis has subscribed the taker, which has not read it yet, and what comes behind."""
    async with serving(redis) as one, serving(redis) as two, crowd(one.port, [["a"]] * 3) as heard:
        link = two.source._wire._transport  # type: ignore[attr-defined]

        def publish(step: Step) -> None:
            if step is Step.TAKER_PREPARED:
                redis.publish("a", "1")
                asyncio.get_running_loop().call_later(2.0, link.resume_reading)

        monkeypatch.setattr(taker, "reached", publish)
        link.pause_reading()
        given, _ = await move(one, two)
        assert (given.moved, sum(given.gaps.values())) == (3, 3)
        redis.publish("a", "2")
        await eventually(lambda: all(each.numbers["a"][-1:] == [2] for each in heard), "the last one")
        assert [each.numbers["a"] for each in heard] == [[1, 2]] * 3
        check_clean(one, two)


async def test_a_socket_that_fails_at_the_cut_stops_nobody(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client has gone. The write that finds it is the one before the cut, and the loop has not told of it yet."""
    async with (
        serving(redis) as one,
        serving(redis) as two,
        crowd(one.port, [["a"]] * 4) as heard,
        numbering(redis.url, "a") as numbers,
    ):

        def fail(step: Step) -> None:
            if step is Step.GIVER_SENDS:
                next(iter(one.gateway.connections)).transport.abort()

        monkeypatch.setattr(giver, "reached", fail)
        assert (await move(one, two))[0] == Given(3, {}, 0, "")
        numbers.stopped = True
        await eventually(lambda: any(each.closed for each in heard), "the end of the one that has gone")
        await check_all_heard([each for each in heard if each.closed is None], numbers.last)
        check_clean(one, two)
