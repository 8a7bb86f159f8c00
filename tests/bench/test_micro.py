"""Every micro-benchmark runs, and does what it says: what is timed is the whole of the work."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from bench.micro import encode, handshakes, ingest, passes, requests, sockets
from bench.micro.fakes import Ear, Queue
from bench.micro.suite import COMPARISONS, choose
from bench.micro.table import render
from bench.micro.work import Comparison, Work
from tests import ROOT
from tests.lib.waiting import eventually
from wsd.clients.replies import Reply
from wsd.clients.session import Effect, Listen, Wait
from wsd.protocol.frames import text_frame

pytest.importorskip("pyperf")


W = TypeVar("W", bound=Work)

SUBJECTS = [
    pytest.param(make, id=f"{comparison.name}: {name}")
    for comparison in COMPARISONS
    for name, make in comparison.subjects().items()
]
SHAPES = [passes.Shape(3), passes.Shape(600), passes.Shape(5, 4), passes.Shape(7, 7, apart=True)]


@asynccontextmanager
async def opened(work: W) -> AsyncIterator[W]:
    await work.open()
    try:
        yield work
    finally:
        await work.close()


async def done(work: W, loops: int = 1) -> W:
    """What is left of it when it has been done."""
    async with opened(work):
        assert await work.time(loops) > 0
    return work


def message_in(frame: bytes) -> Any:
    """The message of a frame of any length; nothing may follow it."""
    size, start = frame[1], 2
    if size >= 126:
        start = 4 if size == 126 else 10
        size = int.from_bytes(frame[2:start])
    assert frame[0] == 0x81 and len(frame) == start + size
    return json.loads(frame[start:])


@pytest.mark.parametrize("make", SUBJECTS)
async def test_runs(make: Callable[[], Work]) -> None:
    async with opened(make()) as work:
        assert await work.time(1) > 0
        assert await work.time(2) > 0


def test_every_benchmark_says_what_it_measures_beside_what() -> None:
    names = [comparison.name for comparison in COMPARISONS]
    assert len(set(names)) == len(names)
    for comparison in COMPARISONS:
        assert comparison.measures and comparison.unit and comparison.units >= 1
        assert comparison.references and "wsd" not in comparison.references


# Ingest.


@pytest.mark.parametrize("messages", [1, 64])
async def test_ingest_writes_every_message_to_the_listener(messages: int) -> None:
    work = await done(ingest.Ingest(messages), loops=2)
    expected = text_frame(passes.make_message(ingest.TOPIC)) * messages
    assert list(work.ear.heard) == [expected] * 2
    assert work.house.metrics.messages == work.house.metrics.deliveries == 2 * messages


async def test_the_references_of_ingest_parse_every_message() -> None:
    assert (await done(ingest.Alone(64), loops=2)).parsed == 64
    listened = await done(ingest.RedisPy(64), loops=2)
    assert listened.received == 128
    assert listened.last["data"] == ingest.PAYLOAD


# Encode.


@pytest.mark.parametrize("size", encode.SIZES)
@pytest.mark.parametrize("kind", encode.PAYLOADS)
async def test_both_encode_the_same_message(kind: str, size: int) -> None:
    payload = encode.PAYLOADS[kind](size)
    assert len(payload) == size
    ours = await done(encode.Encode(payload))
    theirs = await done(encode.Naive(payload, 2))
    message = message_in(ours.frame)
    assert message == message_in(theirs.frame)
    snapshots: dict[str, Callable[[], Any]] = {
        "JSON": lambda: json.loads(payload),
        "text": payload.decode,
        "binary": lambda: base64.b64encode(payload).decode(),
    }
    assert message["snapshot"] == snapshots[kind]()


# Passes.


def expected_of(shape: passes.Shape, each: int) -> list[bytes]:
    """The frames that a connection must get."""
    names = enumerate(shape.names())
    return [text_frame(passes.make_message(name)) for number, name in names if each in shape.of(number)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
async def test_a_pass_writes_once_to_every_fake(shape: passes.Shape) -> None:
    work = await done(passes.Pass(shape))
    for each, ear in enumerate(work.ears):
        assert list(ear.heard) == [b"".join(expected_of(shape, each))]
    assert work.house.metrics.deliveries == shape.deliveries
    assert work.house.metrics.writes == shape.connections


@pytest.mark.parametrize("shape", SHAPES, ids=str)
async def test_the_references_of_a_pass_write_the_same(shape: passes.Shape) -> None:
    loop, broadcast = await done(passes.Loop(shape)), await done(passes.Broadcast(shape))
    for each in range(shape.connections):
        expected = expected_of(shape, each)
        assert list(loop.ears[each].heard) == expected
        # The library writes header and payload as one.
        assert list(broadcast.transports[each].written) == expected


@pytest.mark.parametrize("make", [sockets.Pass, sockets.Broadcast, sockets.Loop], ids=lambda make: make.__name__)
async def test_a_pass_over_sockets_brings_everything_to_everybody(
    make: Callable[[int, int], sockets.Sockets],
) -> None:
    expected = b"".join(expected_of(passes.Shape(6, 3), 0))
    async with opened(make(6, 3)) as work:
        assert work.due == len(expected)
        assert await work.time(2) > 0
        assert work.passes == 2
        await work.turn()
        assert [peer.recv(65536) for peer in work.peers] == [expected] * 6


async def test_a_pass_over_sockets_joins_what_is_due_to_a_connection() -> None:
    work = await done(sockets.Pass(6, 3))
    assert work.house.metrics.deliveries == 18
    assert work.house.metrics.writes == 6


async def test_a_pass_that_does_not_arrive_fails() -> None:
    async with opened(sockets.Loop(2, 1)) as work:
        work.buffers = [b"too short"]
        for peer in work.peers:
            peer.settimeout(0.01)
        with pytest.raises(TimeoutError):
            await work.time(1)


# Requests.


def replies(effects: Iterable[Effect]) -> list[Any]:
    return [json.loads(effect.payload) for effect in effects if isinstance(effect, Reply)]


async def test_requests_are_granted() -> None:
    assert replies((await done(requests.Ping())).effects) == [{"action": "pong", "id": 17}]
    (authorized,) = replies((await done(requests.Authorize())).effects)
    assert authorized == {"action": "session", "message": "session authenticated", "id": 17}


async def test_subscriptions_come_to_listening() -> None:
    effects = (await done(requests.Subscribe(), loops=2)).effects
    count = requests.SUBSCRIPTIONS
    assert [sum(isinstance(effect, kind) for effect in effects) for kind in (Wait, Reply, Listen)] == [count] * 3
    assert [reply["id"] for reply in replies(effects)] == list(range(count))
    assert {reply["message"] for reply in replies(effects)} == {"context subscribed"}


async def test_the_references_of_requests_load_the_same() -> None:
    assert (await done(requests.LoadJson(requests.SUBSCRIBES))).loaded["context"] == "room.63"
    assert (await done(requests.LoadToken())).claims["sub"] == "user-4711"


async def test_an_exchange_answers_with_a_pong() -> None:
    ours, theirs = await done(requests.Exchange()), await done(requests.LibraryExchange())
    assert message_in(ours.transport.written[-1]) == {"action": "pong", "id": 17}
    assert message_in(b"".join(theirs.written)) == {"action": "pong"}


# Handshakes.


async def test_a_handshake_is_answered_and_greeted() -> None:
    work = await done(handshakes.Handshake())
    assert work.house.metrics.handshakes == handshakes.BATCH
    for transport in work.transports:
        (written,) = transport.written
        assert written.startswith(b"HTTP/1.1 101 ") and b"connection established" in written
    theirs = await done(handshakes.LibraryHandshake())
    assert b"".join(theirs.written).startswith(b"HTTP/1.1 101 ")


async def test_a_session_is_authorized_and_subscribed() -> None:
    work = await done(handshakes.WholeSession())
    for transport in work.transports:
        _, authorized, subscribed = transport.written
        assert message_in(authorized)["message"] == "session authenticated"
        assert message_in(subscribed)["message"] == "context subscribed"
    # Those that are lost leave in slices: on a busy machine that takes more turns of the loop than one.
    await eventually(lambda: len(work.house.topics) == 0, "that lost connections leave their topics")
    assert work.house.metrics.close_codes["1006"] == handshakes.BATCH
    assert len((await done(handshakes.LibrarySession())).made) == handshakes.BATCH


# Fakes, the table, the command line.


def test_a_queue_runs_what_its_callbacks_add() -> None:
    queue, ear = Queue(), Ear()
    queue.call_soon(lambda: queue.call_soon(lambda: ear.write(b"later")))
    queue.run()
    assert list(ear.heard) == [b"later"]


def test_the_table_has_a_line_for_every_reference() -> None:
    comparison = Comparison("encode", "message", 1, "", Work, {"json": Work, "a loop": Work})
    table = render([(comparison, {"wsd": 0.5e-6, "json": 2e-6, "a loop": 0.25e-3})])
    assert [line.split() for line in table.splitlines()[2:]] == [
        ["encode", "message", "500", "ns", "json", "2", "µs", "0.250"],
        ["a", "loop", "250", "µs", "0.002"],
    ]


def test_what_the_readme_names_is_found() -> None:
    readme = (ROOT / "bench" / "README.md").read_text()
    table = readme.partition("| benchmark | measures | reference |")[2].partition("\n\n")[0]
    names = [line.split("|")[1].strip() for line in table.splitlines()[2:]]
    assert len(names) > 8
    for name in [*names, *re.findall(r'bench.micro --only "?([^"`\n)]+)', readme)]:
        assert choose(name), name
    found = {comparison.name for name in names for comparison in choose(name)}
    assert found == {comparison.name for comparison in COMPARISONS}


@pytest.mark.parametrize(
    ("text", "count"),
    [("pass, fakes", 6), ("pass, sockets", 2), ("PASS", 8), ("json 1,024", 1), ("", 25), ("1 fake", 5)],
)
def test_names_are_chosen_by_their_words(text: str, count: int) -> None:
    assert len(choose(text)) == count


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--only", "pass, soket"], "--only: no benchmark has 'pass, soket' in its name; did you mean sockets"),
        (["--only", "nosuch"], "--only: no benchmark has 'nosuch' in its name; known: ingest,"),
        (["--only", "encode sockets"], "not all in one; words: ingest,"),
        (["--rounds", "0"], "--rounds: '0' is not a number from 1"),
        (["--rounds", "-1"], "--rounds: '-1' is not a number from 1"),
        (["-o", "/nowhere/x.json"], "--output: there is no directory /nowhere"),
        (["-o", __file__], "exists already"),
    ],
)
def test_what_cannot_be_measured_is_refused(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    from bench.micro.__main__ import main

    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


def test_the_command_line_prints_a_table_and_keeps_what_pyperf_can_compare(tmp_path: Path) -> None:
    def run(*words: str) -> str:
        return subprocess.run(
            [sys.executable, "-m", *words], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout

    kept = str(tmp_path / "kept.json")
    table = run("bench.micro", "--fast", "--debug-single-value", "--only", "ping, bytes", "-o", kept)
    assert [line.split("  ")[0] for line in table.splitlines()[2:]] == ["ping, bytes to bytes"]
    suite = json.loads(Path(kept).read_text())
    names = {"".join(benchmark["metadata"]["name"]) for benchmark in suite["benchmarks"]}
    assert "ping, bytes to bytes, per request: ServerProtocol alone" in names
    assert "ping, bytes to bytes, per request: wsd" in run("pyperf", "compare_to", "--verbose", kept, kept)
