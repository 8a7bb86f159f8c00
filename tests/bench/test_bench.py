"""The suite itself: that it counts right, that it catches a server that doesn't, and that it knows its own limits."""

from __future__ import annotations

import json
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from bench.__main__ import main
from bench.load.control import GeneratorError, Publisher, Shard
from bench.load.dialects import DIALECTS, Refused
from bench.load.histogram import Histogram
from bench.load.publisher import ENCODERS, Order
from bench.load.scan import Frames, Marks, Notes, Sampler, Scanner, Sequences, Stride, due_by
from bench.load.shard import Plan
from bench.load.wire import MIN_SIZE, STAMP, client_frame, pad, payload, token
from bench.measure.run import Cores, Load, burst, fan_out, soak, storm, verdicts
from bench.report.compare import compare
from bench.report.page import headline, render
from bench.report.plots import Axis, Series, bars, lines
from bench.report.sizing import Model, table
from bench.rows.goals import Goal, evaluate
from bench.rows.scenarios import Cell, full, in_turn, quick
from bench.servers.baselines import NaiveServer
from bench.servers.catalogue import SERVERS
from bench.servers.floor import accept_response, frame
from bench.servers.process import RedisServer
from bench.servers.wsd import WsdServer
from tests.lib.servers import PATIENCE
from tests.lib.servers import RedisServer as SharedRedis

NO_CORES = Cores((), ())
"""The tests share the machine with others, so nothing is pinned."""

SMALL = Load(connections=50, rate=200, seconds=0.5, warm_up=0.1)


def stamped(number: int, topic: int = 0, due: int = 0, size: int = 100) -> bytes:
    """A frame as the floor sends it."""
    return frame(b"t%05d" % topic, payload(topic, number, due, pad(size)))


def feed(scanner: Scanner, data: bytes, pieces: int) -> int:
    """Give a scanner data in pieces of a size, as a socket would."""
    count = 0
    for begin in range(0, len(data), pieces):
        piece = data[begin : begin + pieces]
        count += scanner.feed(bytearray(piece), len(piece))
    return count


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


@pytest.mark.parametrize("server", [name for name, kind in SERVERS.items() if not kind.absent()])
def test_fan_out_is_counted_right(server: str) -> None:
    result = fan_out(SERVERS[server], SMALL, NO_CORES)
    checks = result["checks"]
    assert checks["messages"] == checks["expected"] == 50 * 120
    assert (checks["lost"], checks["duplicated"], checks["out_of_order"]) == (0, 0, 0)
    assert checks["checked"] == 120 * checks["sampled"] > 0
    assert (checks["broken"], checks["failures"], checks["notes"]) == ({}, {}, {})
    assert result["setup"]["subscribed"] == 50
    assert result["cpu_per_delivery_us"] > 0
    assert 0 < result["latency_us"]["p50"] <= result["latency_us"]["p99"] < 10_000_000


@pytest.mark.parametrize("server", [name for name, kind in SERVERS.items() if not kind.absent() and kind.multiplexes])
def test_topics_are_counted_right(server: str) -> None:
    load = Load(connections=30, topics=10, topics_each=4, rate=300, seconds=0.4, warm_up=0.1)
    checks = fan_out(SERVERS[server], load, NO_CORES)["checks"]
    assert checks["messages"] == checks["expected"] == 150 * 30 * 4 / 10
    assert (checks["lost"], checks["duplicated"], checks["out_of_order"]) == (0, 0, 0)


def test_storm_and_what_it_does_to_others() -> None:
    alone = storm(WsdServer, Load(connections=200), None, NO_CORES)
    assert (alone["setup"]["subscribed"], alone["setup"]["failures"]) == (200, {})
    assert alone["setup"]["cpu_per_session_us"] > 0
    standing = Load(connections=20, rate=50, seconds=0.5)
    both = storm(WsdServer, Load(connections=200), standing, NO_CORES)
    assert both["setup"]["subscribed"] == 200
    assert both["checks"]["complete"] and both["checks"]["lost"] == 0
    assert both["calm_us"]["p99"] > 0


def test_a_burst_over_several_topics_beside_clients_that_do_not_read() -> None:
    load = Load(connections=10, topics=3, topics_each=2, size=150)
    result = burst(WsdServer, load, NO_CORES, messages=600, stalled=3)
    assert result["checks"]["complete"]
    assert not result["checks"]["out_of_order"]
    assert result["stops"]["asked"] > 0
    assert 0 < result["stops"]["longest"] < 60
    assert 0 <= result["memory_growth"] < 64 * 2**20


def test_soak_with_visitors_and_slow_readers() -> None:
    load = Load(connections=20, rate=200, size=5000, seconds=2.5, drain=PATIENCE)
    result = soak(WsdServer, load, NO_CORES, churn=20, slow=3)
    assert result["churned"] > 10
    assert result["churn_failures"] == {}
    # 1 MB a second to those who read 2 kB of it. That the daemon has given them up they see only when they have read
    # what the kernel holds for them; but the others lose nothing, and nothing grows.
    assert result["memory_growth"] < 16 * 2**20
    assert result["checks"]["complete"] and result["checks"]["lost"] == 0
    assert len(result["samples"]) > 10
    assert result["samples"][-1]["threads"] >= 1
    assert abs(result["threads_growth"]) <= 1
    # A few tasks, however many clients there are.
    assert 0 < result["samples"][-1]["tasks"] < 20
    assert abs(result["tasks_growth"]) <= 10


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


Behaviour = Callable[[socket.socket, int], bool]
"""What a server of the tests does for a connection; whether it then waits for the client to leave, or closes."""


@contextmanager
def mocked(behave: Behaviour) -> Iterator[int]:
    """A server that shakes hands and then does as told, for each connection in a thread."""
    threads: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve(connection: socket.socket, number: int) -> None:
            with connection:
                connection.sendall(accept_response(connection.recv(65536)))
                if behave(connection, number):
                    try:
                        while connection.recv(65536):
                            pass
                    except ConnectionError:
                        pass  # the shard resets

        def accept() -> None:
            number = 0
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threads.append(threading.Thread(target=serve, args=(connection, number)))
                threads[-1].start()
                number += 1

        acceptor = threading.Thread(target=accept)
        acceptor.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            acceptor.join()
            for thread in threads:
                thread.join()


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


def test_generator_that_is_the_limit_is_marked() -> None:
    shares = {"generator": 0.9, "publisher": 0.0, "redis": 0.0}
    assert verdicts({"kind": "fan-out", "shares": shares}, Cores((0,), (1,))) == ["generator-bound"]
    shares = {"generator": 0.5, "publisher": 0.3, "redis": 0.2}
    assert verdicts({"kind": "fan-out", "shares": shares}, Cores((0,), (1,))) == ["generator-bound"]
    assert verdicts({"kind": "fan-out", "shares": shares}, Cores((0,), (1, 2))) == []
    setup = {"generator_share": 0.99, "failures": {}}
    assert verdicts({"kind": "storm", "setup": setup}, Cores((0,), (1,))) == ["generator-bound"]


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


# Scenarios, goals and reports.


def test_suites_cover_the_goals_and_only_known_servers() -> None:
    for cells in (quick(), full()):
        assert {"single", "joined", "round", "topics", "storm", "standing", "soak", "burst", "stalled"} <= {
            cell.row for cell in cells
        }
        assert {cell.server for cell in cells} <= SERVERS.keys()
    assert any(cell.load.seconds == 600 for cell in full())


def test_servers_take_turns() -> None:
    order = [cell.server for cell in in_turn(quick()) if cell.row == "single"]
    assert order[:2] == ["wsd", "floor"]
    assert order[-2:] == ["wsd", "floor"]
    assert len(in_turn(quick())) == sum(cell.repetitions for cell in quick())


def made_up(row: str, server: str, cost: float, **load: object) -> dict[str, Any]:
    """A result that nobody measured."""
    shape = {"connections": 1000, "topics": 1, "topics_each": 1, "rate": 100.0, "size": 100, "seconds": 1.0}
    histogram = Histogram({100: 50, 200: 1}).dump()
    latency = {"p50": 100.0, "p90": 150.0, "p99": 2000.0, "p99.9": 2100.0, "p100": 2200.0}
    return {
        "row": row,
        "server": server,
        "kind": "fan-out",
        "load": shape | load,
        "setup": {"cpu_per_session_us": 150.0, "latency_us": latency, "histogram": histogram, "failures": {}},
        "memory": {"empty": 50.0 * 2**20, "per_connection": 5000.0},
        "rate": 100_000.0,
        "offered": 100_000.0,
        "cpu_per_delivery_us": cost,
        "joined": 1.0,
        "server_share": 0.5,
        "latency_us": latency,
        "histogram": histogram,
        "shares": {"generator": 0.5, "publisher": 0.1, "redis": 0.1},
        "checks": {"expected": 100, "messages": 100, "lost": 0, "duplicated": 0, "out_of_order": 0},
        "verdicts": [],
    }


def test_goals_are_ratios_of_medians() -> None:
    results = [made_up("single", "wsd", cost) for cost in (5.0, 6.0, 100.0)] + [made_up("single", "floor", 4.0)]
    goal = evaluate(results)[0]
    assert (goal.value, goal.met) == (1.5, False)
    results[0]["cpu_per_delivery_us"] = results[2]["cpu_per_delivery_us"] = 5.0
    assert evaluate(results)[0].met
    assert evaluate([])[0].met is None
    results[0]["verdicts"] = ["generator-bound"]
    assert "generator-bound" in evaluate(results)[0].note


def test_goals_leave_out_what_was_disturbed_unless_there_is_nothing_else() -> None:
    results = [made_up("single", "wsd", cost) for cost in (2.0, 2.0, 6.0)] + [made_up("single", "floor", 4.0)]
    results[0]["verdicts"] = results[1]["verdicts"] = ["disturbed"]
    assert evaluate(results)[0].value == 1.5
    results[2]["verdicts"] = ["disturbed"]
    assert evaluate(results)[0].value == 0.5


def test_goal_that_falls_short_says_what_was_tried() -> None:
    goal = Goal("work", "measure", 1.0, 2.0, at_least=True, attempts="this and that")
    assert (goal.met, goal.tried) == (False, "this and that")
    assert goal.dump()["tried"] == "this and that"
    assert replace(goal, value=2.0).dump()["tried"] == ""
    assert replace(goal, value=None).dump()["tried"] == ""


def topics_goal(*results: dict[str, Any]) -> Goal:
    """The goal of 1,000 topics with ten subscribers each."""
    (goal,) = (goal for goal in evaluate(results) if goal.work.startswith("1,000 topics") and goal.limit == 5)
    return goal


def test_rates_of_topics_are_what_was_delivered_over_the_most_that_the_other_can_do() -> None:
    load = {"connections": 10_000, "topics": 1000}
    naive = made_up("topics", "naive", 10.0, **load) | {"rate": 50_000.0}  # it could do 100,000 in a second of CPU
    wsd = made_up("topics", "wsd", 1.0, **load) | {"rate": 620_000.0, "offered": 600_000.0}
    assert topics_goal(wsd, naive).value == 6.0  # what is left of the warm-up doesn't count
    assert topics_goal(wsd | {"rate": 400_000.0}, naive).value == 4.0
    assert topics_goal(wsd, naive | {"rate": 150_000.0}).value == 4.0
    assert topics_goal(wsd | {"checks": wsd["checks"] | {"messages": 99}}, naive).value is None  # lost: no rate


def test_soak_that_grows_falls_short() -> None:
    soaked = made_up("soak", "wsd", 1.0) | {"churned": 10, "memory_growth": 0.0, "descriptors_growth": 0.0}
    soaked |= {"tasks_growth": 11.0, "threads_growth": 2.0}
    found = {goal.measure: goal.met for goal in evaluate([soaked])}
    assert (found["growth of memory"], found["growth of descriptors"]) == (True, True)
    assert (found["growth of tasks"], found["growth of threads"]) == (False, False)
    found = {goal.measure: goal.met for goal in evaluate([soaked | {"tasks_growth": None}])}
    assert found["growth of tasks"] is None  # a server that doesn't tell


def document(results: list[dict[str, Any]]) -> dict[str, Any]:
    """What a run leaves."""
    machine = {
        "cpu": "<fast>",
        "cores": 2,
        "memory": 2**33,
        "kernel": "6",
        "system": "Linux",
        "python": "3.11",
        "libraries": {"websockets": "17"},
        "redis": "Redis 7",
        "node": "v18",
        "nats-server": "",
        "nginx": "",
        "revision": "abc",
        "load": 0.5,
    }
    return {
        "suite": "quick",
        "began": "2026-01-01T00:00:00+00:00",
        "command": "python -m bench quick",
        "machine": machine,
        "cores": {"server": [0], "load": [1]},
        "absent": {"node": "no node on PATH"},
        "results": results,
        "goals": [goal.dump() for goal in evaluate(results)],
    }


def test_report_is_one_page_without_scripts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = [made_up("single", server, cost) for server, cost in (("wsd", 5.0), ("floor", 4.0))]
    results += [made_up("joined", "wsd", 0.5, rate=2000.0), made_up("joined", "naive", 9.0, rate=2000.0)]
    path = tmp_path / "result.json"
    path.write_text(json.dumps(document(results)))
    assert main(["report", str(path)]) == 0
    page = path.with_suffix(".html").read_text()
    assert "<script" not in page and "http://" not in page and "https://" not in page
    assert "&lt;fast&gt;" in page and "no node on PATH" in page
    assert "server on core 0, load on core 1" in page and "Redis 7; node v18" in page
    assert 'content="width=device-width, initial-scale=1"' in page and "minmax(min(480px, 100%), 1fr)" in page
    assert page.count('<div class="wide"><table>') == page.count("<table>") == 2
    assert "✓ met" in page and "not measured" in page
    assert "✗ falls short" in page and "<b>Tried:</b> one joined write" in page
    assert page.count("<svg") >= 4
    assert "CPU per delivery against rate" in page
    assert str(path.with_suffix(".html")) in capsys.readouterr().out


def test_report_of_a_real_run(tmp_path: Path) -> None:
    results = [
        fan_out(WsdServer, SMALL, NO_CORES) | {"row": "single"},
        storm(WsdServer, Load(connections=20), None, NO_CORES) | {"row": "storm"},
        soak(WsdServer, SMALL, NO_CORES, churn=5, slow=0) | {"row": "soak"},
        burst(WsdServer, SMALL, NO_CORES, messages=100, stalled=0) | {"row": "burst"},
    ]
    results = [result | {"verdicts": verdicts(result, NO_CORES)} for result in results]
    page = render(json.loads(json.dumps(document(results))))
    assert "Memory while clients come and go" in page
    assert "Tasks and threads meanwhile" in page
    assert "longest stop" in page
    assert "Storm: from connect to subscribed" in page


def test_compare_sets_two_results_side_by_side() -> None:
    before, after = (document([made_up("single", "wsd", cost)]) for cost in (5.0, 4.0))
    text = compare(before, after)
    assert "-20.0 %" in text
    assert "NOT THE SAME" not in text
    after["machine"]["cpu"] = "another"
    assert "NOT THE SAME CPU" in compare(before, after)


def test_sizing_interpolates_and_checks_itself() -> None:
    results = [made_up("rate", "wsd", cost, rate=rate) for rate, cost in ((10.0, 8.0), (1000.0, 2.0))]
    results += [made_up("payload", "wsd", 16.0, rate=10.0, size=10_000)]
    results += [made_up("clients", "wsd", 8.0, rate=10.0, connections=5000)]
    for result in results:
        result["memory"]["empty"] = 50 * 2**20
    model = Model.fit(results)
    assert model.cores(1000, 100.0, 100) == pytest.approx(1000 * 100 * 4e-6)  # the geometric mean of 8 and 2
    assert model.cores(1000, 10.0, 1000) == pytest.approx(1000 * 10 * 8e-6 * 2**0.5)
    assert model.workers(100_000, 10.0, 100) == 16
    assert model.memory(1000, 2) == 100 * 2**20 + 5_000_000
    (check,) = model.checks(results)
    assert check.predicted == check.measured == pytest.approx(0.4)
    assert "| 5,000 connections, 10/s of 100 B | 0.40 | 0.40 | +0% |" in table(results)
    with pytest.raises(ValueError, match="two rates"):
        Model.fit(results[:1])


def test_headline_shows_shares_of_a_core_and_latencies_beside_each_other() -> None:
    results = [made_up("rate", server, 5.0, rate=rate) for server in ("wsd", "naive") for rate in (10.0, 100.0)]
    results += [made_up("rate", "floor", 5.0)]
    drawn = headline(document(results))
    assert "Share of a core" in drawn and "p99" in drawn and "100 %" in drawn
    assert drawn.count("<polyline") == 4 and drawn.count('<rect x="') == 2, "the floors are left out"
    assert headline(document([])) == ""


def test_nothing_runs_through_a_value_and_no_label_is_cut_off() -> None:
    drawn = bars("t", "ms", [("a", 9.0, 0), ("b", 1.0, 1)], limit=8.0)
    places = {float(x) for x in re.findall(r'<text x="([\d.]+)" y="\d+">', drawn)}
    (goal,) = (float(x) for x in re.findall(r'<line x1="([\d.]+)"', drawn))
    assert len(places) == 1 and min(places) > goal
    ticks = ((2.0, "p50"), (1000.0, "p99.9"))
    drawn = lines("t", Axis("x", log=True, ticks=ticks), Axis("y"), [Series("s", [(2, 1), (1000, 2)])])
    found = re.search(r'<text x="([\d.]+)"[^>]*>p99\.9<', drawn)
    assert found and float(found[1]) + len("p99.9") * 8 / 2 <= 560


def test_plots_draw_what_they_are_given_and_nothing_for_nothing() -> None:
    drawn = lines("A & B", Axis("x", log=True), Axis("y"), [Series("one", [(1, 1), (10, 2), (100, 3)])])
    assert drawn.count("<circle") == 3 and "A &amp; B" in drawn
    assert lines("t", Axis("x", log=True), Axis("y"), [Series("zero", [(0, 1)])]) == ""
    assert lines("t", Axis("x"), Axis("y", log=True), []) == ""
    assert bars("t", "ms", []) == ""
    assert bars("t", "ms", [("a", 1.0, 0), ("b", 0.0, 1)], limit=2.0).count("<rect") == 2
    assert "<polyline" in lines("one point", Axis("x", log=True), Axis("y"), [Series("one", [(5, 0)])])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["quick", "--rows", "nosuch"], "--rows: there is no 'nosuch' in this suite; known: single, joined,"),
        (["quick", "--rows", "single,strom"], "--rows: there is no 'strom' in this suite; did you mean storm"),
        (["quick", "--rows", "rate"], "--rows: there is no 'rate' in this suite"),  # of the full one
        (["full", "--servers", "wds"], "--servers: there is no 'wds' in this suite; did you mean wsd"),
        (["quick", "--servers", "WSD"], "did you mean wsd"),
        (["quick", "--servers", "naive", "--rows", "soak"], "they are in: joined, single, topics"),
        (["quick", "--rows", ","], "argument --rows: ',' names nothing"),
        (["quick", "--servers", ""], "argument --servers: '' names nothing"),
        (["quick", "--repeat", "-1"], "argument --repeat: '-1' is not a number from 0"),
        (["quick", "--again", "x"], "argument --again: 'x' is not a number from 0"),
        (["quikc"], "invalid choice"),
        ([], "command"),
    ],
)
def test_names_that_are_not_known_are_refused(
    words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*words, *(["--output", str(tmp_path)] if words[:1] in (["quick"], ["full"]) else [])])
    assert ended.value.code == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir()), "no result"


def test_a_server_that_is_asked_for_and_not_installed_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(NaiveServer, "absent", classmethod(lambda cls: "no program of it"))
    with pytest.raises(SystemExit):
        main(["quick", "--servers", "wsd,naive"])
    assert "--servers: naive can't be measured here: no program of it" in capsys.readouterr().err


def _without(place: str) -> Callable[[dict[str, Any]], None]:
    """Takes something out of a document."""

    def damage(found: dict[str, Any]) -> None:
        *way, last = place.split(".")
        at: Any = found
        for part in way:
            at = at[int(part)] if part.isdigit() else at[part]
        del at[last]

    return damage


BROKEN: dict[str, tuple[bytes | Callable[[dict[str, Any]], object], str]] = {
    "empty": (b"", "not JSON"),
    "half": (b'{"suite": "quick", "results": [', "not JSON"),
    "not UTF-8": (b"\xff\xfe", "not JSON"),
    "deep": (b"[" * 100_000, "not JSON"),
    "a list": (b"[]", "its content: input should be a valid dictionary"),
    "another's": (b'{"suite": "x"}', "began: is missing"),
    "no machine": (_without("machine"), "machine: is missing"),
    "no kernel": (_without("machine.kernel"), "machine.kernel: is missing"),
    "no load": (_without("results.0.load"), "results[0].load: is missing"),
    "no share": (_without("results.0.server_share"), "results[0].server_share: is missing"),
    "no row": (_without("results.0.row"), "results[0].row: is missing"),
    "no setup": (_without("results.0.setup.latency_us"), "results[0].setup.latency_us: is missing"),
    "text for a rate": (lambda found: found["results"][0].update(rate="fast"), "results[0].rate: input should be a"),
    "no number": (lambda found: found["results"][0].update(rate=float("nan")), "results[0].rate: input should be a"),
    "no buckets": (lambda found: found["results"][0].update(histogram={"x": 1}), "results[0].histogram.x"),
    "null": (lambda found: found["results"].append(None), "results[1]: input should be a valid dictionary"),
}


@pytest.mark.parametrize("damage", BROKEN)
@pytest.mark.parametrize("command", ["report", "compare", "size", "headline"])
def test_a_file_that_is_no_result_is_said(
    command: str, damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    found = document([made_up("single", "wsd", 5.0), made_up("joined", "wsd", 0.5, rate=2000.0)])
    good.write_text(json.dumps(found))
    content, says = BROKEN[damage]
    if callable(content):
        found["results"][1:] = []
        content(found)
        content = json.dumps(found).encode()
    bad.write_bytes(content)
    more = {"compare": [str(good)], "headline": [str(tmp_path / "plot.svg")]}.get(command, [])
    assert main([command, str(bad), *more]) == 1
    said = capsys.readouterr()
    assert said.err.startswith(f"bench: {bad}: ") and says in said.err and said.err.count("\n") == 1
    assert said.out == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.json", "good.json"]


def test_a_file_that_is_not_there_is_said_with_those_that_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "quick-20260101-000000.json").write_text("{}")
    assert main(["report", str(tmp_path / "quick-20260101-00000.json")]) == 1
    assert "no such file; results there: did you mean quick-20260101-000000.json?" in capsys.readouterr().err
    assert main(["size", str(tmp_path / "nowhere" / "x.json")]) == 1
    assert "no such file; results there: there is none" in capsys.readouterr().err
    assert main(["size", str(tmp_path)]) == 1
    assert "Is a directory" in capsys.readouterr().err
    good = tmp_path / "good.json"
    good.write_text(json.dumps(document([made_up("single", "wsd", 5.0)])))
    assert main(["headline", str(good), str(tmp_path / "nowhere" / "x.svg")]) == 1
    assert "x.svg: can't be written: No such file or directory" in capsys.readouterr().err


def test_a_directory_that_can_not_be_made_is_said_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(["quick", "--output", str(tmp_path / "file" / "results")]) == 1
    assert "no directory for results: Not a directory" in capsys.readouterr().err


def test_a_partial_run_can_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    part = tmp_path / "part.json"
    storm_alone = made_up("storm", "wsd", 5.0, connections=10_000) | {"kind": "storm"}
    new_kind = made_up("later", "wsd", 5.0) | {"kind": "later"}
    for results in ([], [storm_alone], [new_kind]):
        part.write_text(json.dumps(document(results)))
        assert main(["report", str(part)]) == 0
        assert main(["compare", str(part), str(part)]) == 0
        assert main(["size", str(part)]) == 1
        assert main(["headline", str(part), str(tmp_path / "plot.svg")]) == 1
        said = capsys.readouterr().err
        assert "sized from a run that measured wsd" in said and "nothing to draw" in said and "Traceback" not in said


def test_a_run_in_which_something_failed_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measure = Cell.measure

    def fail(cell: Cell, cores: Cores) -> Any:
        if cell.server == "wsd":
            raise GeneratorError("it broke")
        return measure(replace(cell, load=SMALL), cores)

    monkeypatch.setattr(Cell, "measure", fail)
    arguments = ["quick", "--output", str(tmp_path), "--rows", "single", "--repeat", "1", "--servers"]
    assert main([*arguments, "wsd"]) == 1
    assert "nothing could be measured" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert main([*arguments, "wsd,floor"]) == 1
    assert "1 of 2 measurements failed" in capsys.readouterr().err
    assert len(list(tmp_path.iterdir())) == 2


def test_command_line_measures_and_leaves_both_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cores, "split", lambda: NO_CORES)
    status = main(["quick", "--output", str(tmp_path), "--rows", "storm", "--servers", "wsd"])
    assert status == 0
    (made,) = tmp_path.glob("*.json")
    assert json.loads(made.read_text())["results"][0]["setup"]["subscribed"] == 10_000
    assert made.with_suffix(".html").exists()
