"""The generators: that they count right, and that they catch a server that doesn't."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest

from bench.load.control import GeneratorError, Publisher, Shard
from bench.load.dialects import DIALECTS, Refused
from bench.load.group import Group, Plan
from bench.load.histogram import Histogram
from bench.load.publisher import ENCODERS, Order
from bench.load.scan import Frames, Marks, Notes, Sampler, Sequences, Stride, due_by
from bench.load.wire import MIN_SIZE, STAMP, client_frame, pad, payload, token
from bench.measure.verdicts import verdicts
from bench.servers.baselines import NaiveServer
from bench.servers.process import RedisServer
from bench.servers.wsd import WsdServer
from tests.bench.made_up import NO_CORES, feed, stamped
from tests.lib.mocked import mocked
from tests.lib.servers import RedisServer as SharedRedis
from tests.lib.waiting import PATIENCE


def sampler(notes: Notes | None = None, *, from_start: bool = True, joined: bool = False) -> Sampler:
    """A sampler of its own."""
    return Sampler(Stride(), notes or Notes(), Sequences(from_start), Histogram(), joined)


# Bytes.


@pytest.mark.parametrize("size", [MIN_SIZE, 100, 5000])
def test_payload_has_its_size_is_json_and_can_be_read_back(size: int) -> None:
    made = payload(7, 42, 123456789, pad(size))
    assert len(made) == size
    json.loads(made)
    assert [match.groups() for match in STAMP.finditer(b"before" + made + made)] == [
        (b"00007", b"%012d" % 42, b"%018d" % 123456789)
    ] * 2
    assert STAMP.search(json.dumps(json.loads(made)).encode())


def test_payload_that_is_too_small_for_its_number_is_refused() -> None:
    with pytest.raises(ValueError, match=f"at least {MIN_SIZE} bytes"):
        pad(MIN_SIZE - 1)


def test_token_is_what_the_daemon_verifies() -> None:
    jwt = pytest.importorskip("jwt")
    key = b"k" * 40
    assert jwt.decode(token(key, "client-1", 4102444800), key, algorithms=["HS256"])["sub"] == "client-1"


@pytest.mark.parametrize("kind", ENCODERS)
def test_every_command_holds_the_whole_payload(kind: str) -> None:
    data = payload(1, 2, 3, pad(100))
    command = ENCODERS[kind](1, data)
    assert data in command
    assert b"t00001" in command and b"100" in command


# Latencies.


def test_histogram_knows_values_to_three_percent() -> None:
    for value in (0, 1, 63, 64, 1000, 123_456, 10_000_000):
        histogram = Histogram()
        histogram.add(value)
        assert histogram.percentile(50) == pytest.approx(value, rel=0.032, abs=0.5)


def test_histogram_percentiles_merge_and_subtract() -> None:
    first, second = Histogram(), Histogram()
    for value in range(1, 51):
        first.add(value)
    for value in range(51, 61):
        second.add(value)
    both = Histogram(json.loads(json.dumps(first.dump())))
    both.merge(second)
    assert (len(both), both.percentile(50), both.percentile(100)) == (60, 30, 60)
    assert both.since(first).counts == second.counts
    assert Histogram().percentile(99) is None


# Counting.


@pytest.mark.parametrize(
    ("size", "pieces"),
    [
        *((size, pieces) for size in (60, 100) for pieces in (1, 2, 3, 5, 64, 151, 153, 154, 1000, 1 << 18)),
        *((70_000, pieces) for pieces in (1000, 65_536, 1 << 18)),
    ],
)
def test_all_scanners_count_the_same_however_the_stream_is_cut(pieces: int, size: int) -> None:
    others = b"\x89\x00" + b"\x81\x05other" + b"\x89\x02hi"
    data = b"".join(stamped(number, size=size) + (others if number % 7 == 3 else b"") for number in range(40))
    notes = Notes()
    counting = Frames(Stride(), notes)
    assert feed(counting, data, pieces) == 40
    assert notes.texts == {"other": 6}
    assert notes.pings == 12
    assert counting.outbox.count(b"\x8a") == 12
    assert feed(Marks(), data, pieces) == 40
    looking = sampler()
    assert feed(looking, data, pieces) == 40
    assert looking.sequences.seen == 40
    assert looking.sequences.lost(40, 1, (0,)) == 0


def test_joined_frames_are_counted_without_a_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    counting = Frames(Stride(), Notes())
    feed(counting, stamped(0), 1 << 18)
    monkeypatch.setattr(Frames, "walk", lambda *_: pytest.fail("walked"))
    many = b"".join(map(stamped, range(1, 1001)))
    assert feed(counting, many, len(many)) == 1000
    # A frame has 153 bytes: every read begins and ends within one, but never within its header, which would be walked.
    assert feed(counting, many, 153 * 7 + 51) == 1000


def test_control_frame_between_joined_frames_is_seen() -> None:
    notes = Notes()
    counting = Frames(Stride(), notes)
    feed(counting, stamped(0), 1 << 18)
    mixed = stamped(1) + stamped(2) + b"\x89\x00" + stamped(3) + b"\x88\x02\x0f\xa8"
    assert feed(counting, mixed, len(mixed)) == 3
    assert (notes.pings, notes.closes) == (1, {4008: 1})


def test_messages_that_nats_splits_and_joins_are_counted() -> None:
    stream = b"".join(b"MSG t00000 1 100\r\n" + payload(0, number, 0, pad(100)) + b"\r\n" for number in range(30))
    frames = b"".join(
        bytes((0x82, 0x7E)) + len(part).to_bytes(2, "big") + part
        for part in (stream[begin : begin + 333] for begin in range(0, len(stream), 333))
    )
    looking = sampler(joined=True)
    assert feed(looking, frames, 100) == 30
    assert looking.sequences.lost(30, 1, (0,)) == 0


@pytest.mark.parametrize(
    ("numbers", "lost", "duplicated", "out_of_order"),
    [
        ([0, 1, 2, 3], 0, 0, 0),
        ([0, 2, 3], 1, 0, 0),
        ([1, 2, 3], 1, 0, 0),
        ([0, 1, 2], 1, 0, 0),
        ([0, 1, 1, 2, 3], 0, 1, 0),
        ([0, 2, 1, 3], 0, 0, 1),
        ([3, 2, 1, 0], 0, 0, 3),
        ([0, 1, 2, 3, 0, 1], 0, 2, 0),
        ([], 4, 0, 0),
    ],
)
def test_sequences_tell_what_went_wrong(numbers: Sequence[int], lost: int, duplicated: int, out_of_order: int) -> None:
    sequences = Sequences(from_start=True)
    for number in numbers:
        sequences.see(0, number)
    assert (sequences.lost(4, 1, (0,)), sequences.duplicated, sequences.out_of_order) == (
        lost,
        duplicated,
        out_of_order,
    )


def test_latecomer_has_lost_nothing() -> None:
    sequences = Sequences(from_start=False)
    sequences.see(0, 41)
    sequences.see(0, 42)
    assert sequences.lost(1000, 1, (0,)) == 0


def test_published_messages_are_shared_out_over_the_topics() -> None:
    assert [due_by(10, 4, topic) for topic in range(4)] == [3, 3, 2, 2]
    assert sum(due_by(999, 7, topic) for topic in range(7)) == 999


def test_samples_are_spread_over_connections_replicas_and_topics() -> None:
    for count, sampled in ((300, 50), (1000, 50), (4, 2), (7, 7), (3, 8)):
        group = Group(Plan("listeners", count, [("127.0.0.1", 1)], topics=4, sampled=sampled, first=2))
        numbers = [number for number in range(2, 2 + count) if group.sampled(number)]
        assert len(numbers) == min(count, sampled)
        if sampled == 50:
            assert max(numbers) - min(numbers) > 0.9 * count
            for alike in (2, 4):  # connections with as many numbers between them have one replica, or one topic
                assert min(Counter(number % alike for number in numbers).values()) > sampled / alike / 2


# Becoming subscribed.


def test_wsd_setup_sends_everything_at_once_and_is_done_at_the_last_reply() -> None:
    setup = DIALECTS["wsd"]("localhost", [3, 4], "TOKEN")
    assert setup.upgraded(b"HTTP/1.1 101 Switching Protocols") == b""
    assert setup.hear(b'{"action":"connect","message":"connection established"}') == b""
    sent = setup.hear(b'{"action":"session","message":"waiting for create session","session":"ID"}')
    requests = ("authorization", "TOKEN"), ("subscribe", "t00003"), ("subscribe", "t00004")
    assert sent == b"".join(
        client_frame(f'{{"action":"{action}","session":"ID","context":"{context}"}}'.encode())
        for action, context in requests
    )
    for reply in (b'"session authenticated"', b'"context subscribed"'):
        setup.hear(reply)
        assert not setup.done
    setup.hear(b'"context subscribed"')
    assert setup.done


@pytest.mark.parametrize("dialect", DIALECTS)
def test_refused_handshake_is_told(dialect: str) -> None:
    with pytest.raises(Refused, match="503"):
        DIALECTS[dialect]("localhost", [0], "").upgraded(b"HTTP/1.1 503 Service Unavailable")


def test_refused_token_is_told() -> None:
    setup = DIALECTS["wsd"]("localhost", [0], "")
    setup.upgraded(b"HTTP/1.1 101 x")
    with pytest.raises(Refused, match="unauthorized"):
        setup.hear(b'{"action":"session","message":"session unauthorized"}')


# Against servers.


def test_absent_key_is_refused_and_told() -> None:
    with RedisServer() as redis, WsdServer(redis) as server, Shard() as shard:
        answer = shard.open(Plan("listeners", 5, [("127.0.0.1", server.port)], timeout=PATIENCE))
    assert answer["subscribed"] == 0
    assert sum(answer["failures"].values()) == 5
    assert any("unauthorized" in reason for reason in answer["failures"])


def test_server_that_does_not_listen_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, Shard() as shard:
        port = listener.getsockname()[1]
        listener.close()
        answer = shard.open(Plan("listeners", 3, [("127.0.0.1", port)], timeout=PATIENCE))
    assert answer["failures"] == {"ECONNREFUSED": 3}


def test_connections_that_a_server_drops_are_told() -> None:
    with RedisServer() as redis, NaiveServer(redis) as server, Shard() as shard:
        plan = Plan("listeners", 5, [("127.0.0.1", server.port)], key="not the server's key, but as long as one")
        assert shard.open(plan)["failures"]
    with mocked(lambda connection, number: False) as port, Shard() as shard:
        shard.open(Plan("listeners", 2, [("127.0.0.1", port)], dialect="raw"))
        stats = eventually_stats(shard, lambda group: group["connections"] == 0)
    assert stats["broken"] == {"end of stream": 2}


def eventually_stats(shard: Shard, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The listeners' statistics, once something is true of them."""
    deadline = time.monotonic() + PATIENCE
    while True:
        group: dict[str, Any] = shard.stats()["groups"]["listeners"]
        if condition(group):
            return group
        assert time.monotonic() < deadline, f"did not come true: {group}"


@pytest.mark.parametrize(
    ("numbers", "lost", "duplicated", "out_of_order", "complete"),
    [
        ([*range(100)], 0, 0, 0, True),
        ([number for number in range(100) if number != 40], 1, 0, 0, False),
        ([*range(100), 99], 0, 1, 0, False),
        ([*range(50), 51, 50, *range(52, 100)], 0, 0, 1, True),
        ([*range(90)], 10, 0, 0, False),
    ],
    ids=["right", "lossy", "duplicating", "reordering", "stopping"],
)
def test_lying_server_is_caught(
    numbers: Sequence[int], lost: int, duplicated: int, out_of_order: int, complete: bool
) -> None:
    def behave(connection: socket.socket, number: int) -> bool:
        connection.sendall(b"".join(map(stamped, numbers)))
        return True

    with mocked(behave) as port, Shard() as shard:
        shard.open(Plan("listeners", 4, [("127.0.0.1", port)], dialect="raw", sampled=2))
        eventually_stats(shard, lambda group: group["messages"] == 4 * len(numbers))
        stats = shard.drain(100, 1, quiet=0.2, timeout=PATIENCE)
        listeners = stats["groups"]["listeners"]
    found = (listeners["lost"], listeners["duplicated"], listeners["out_of_order"])
    assert found == (2 * lost, 2 * duplicated, 2 * out_of_order)  # two of the four are sampled
    assert (stats["expected"] == listeners["messages"]) is complete
    checks = listeners | {"expected": stats["expected"], "complete": complete}
    assert bool(verdicts({"kind": "fan-out", "checks": checks}, NO_CORES)) is (len(numbers) != 100 or out_of_order > 0)


def test_pings_are_answered() -> None:
    heard: list[int] = []

    def behave(connection: socket.socket, number: int) -> bool:
        connection.sendall(b"\x89\x02hi" + stamped(0) + stamped(1) + b"\x89\x00")
        while len(heard) < 14 and (data := connection.recv(100)):
            heard.extend(data)
        return True

    with mocked(behave) as port, Shard() as shard:
        shard.open(Plan("listeners", 1, [("127.0.0.1", port)], dialect="raw", sampled=0))
        group = eventually_stats(shard, lambda group: group["messages"] == 2 and len(heard) == 14)
    assert bytes(heard) == client_frame(b"hi", opcode=10) + client_frame(b"", opcode=10)
    assert group["pings"] == 2


def test_generator_tells_what_it_used() -> None:
    """A server that sends as fast as it can keeps the generator busy, and its CPU time shows it."""
    block = b"".join(map(stamped, range(1000))) + b"\x89\x00"  # the ping makes it walk
    stop = threading.Event()

    def behave(connection: socket.socket, number: int) -> bool:
        try:
            while not stop.is_set():
                connection.sendall(block)
        except ConnectionError:
            pass
        return False

    with mocked(behave) as port, Shard() as shard:
        shard.open(Plan("listeners", 2, [("127.0.0.1", port)], dialect="raw", sampled=0))
        before = shard.stats()
        eventually_stats(shard, lambda group: group["messages"] > 300_000)
        after = shard.stats()
        stop.set()
    assert after["cpu"] > before["cpu"] + 0.05


# The publisher.


def test_publisher_keeps_its_rate_and_tells_when_messages_were_due(redis: SharedRedis) -> None:
    with redis_subscriber(redis, "t00000", "t00001") as link:
        with Publisher(Order("redis", redis.port, rate=500, topics=2, size=100, seconds=0.4)) as publisher:
            publisher.start()
            result = publisher.result()
        found = [STAMP.search(data) for data in received(link, 200)]
    assert result["published"] == 200
    assert result["seconds"] >= 0.39
    stamps = [tuple(map(int, match.groups())) for match in found if match]
    assert [stamp[:2] for stamp in stamps] == [(number % 2, number // 2) for number in range(200)]
    # Due every 2 ms, to the nanosecond, whenever they were sent.
    assert {after[2] - before[2] for before, after in pairwise(stamps)} == {2_000_000}


def test_publisher_can_be_stopped(redis: SharedRedis) -> None:
    with Publisher(Order("redis", redis.port, rate=100, topics=1, size=100, seconds=1000)) as publisher:
        publisher.start()
        publisher.halt()
        assert publisher.result()["published"] < 1000


def test_dead_generator_is_an_error() -> None:
    ended = pytest.raises(GeneratorError, match="ended with status -9")
    with Shard() as shard:
        shard.signal(signal.SIGSTOP)
        shard.begin("stats")
        shard.kill()
        with ended:
            shard.hear(10)  # it never answers
        with ended:
            shard.stats()  # it no longer reads


@contextmanager
def redis_subscriber(redis: SharedRedis, *channels: str) -> Iterator[socket.socket]:
    """A connection that is subscribed."""
    with socket.create_connection(("127.0.0.1", redis.port), timeout=PATIENCE) as link:
        for channel in channels:
            link.sendall(f"SUBSCRIBE {channel}\r\n".encode())
            link.recv(1000)
        yield link


def received(link: socket.socket, count: int) -> list[bytes]:
    """So many payloads."""
    data = b""
    while data.count(b"message\r\n") < count or not data.endswith(b'"}\r\n'):
        data += link.recv(65536)
    return data.split(b"message\r\n")[1:]
