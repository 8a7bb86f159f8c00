"""The fault suite: each fault stays within its bounds; and the suite itself sees what it is there to see."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace
from typing import cast

import pytest

from bench.processes import free_port
from tests.faults import scene, suite
from tests.faults.ledger import GAP, Balance, Books, Listener, Publisher, balance
from tests.faults.scene import TOPICS, Fault, Row, measure, nothing
from tests.faults.single import SingleStage, at_redis
from tests.faults.table import render
from tests.faults.watch import ObservedDaemon, Sample, Watch, near
from tests.lib.proxy import Flow, Proxy, end_of_reply
from tests.lib.routes import Server
from tests.lib.servers import RedisServer, serving
from tests.lib.waiting import eventually
from wsd.redis import link as link_module

pytestmark = pytest.mark.timeout(1800)  # the first test waits for all faults


# The faults.


@pytest.fixture(scope="session")
def rows(request: pytest.FixtureRequest) -> dict[str, Row]:
    """What was measured, by the names of the faults; those that were selected are played at the same time."""
    played = {
        item.callspec.params["name"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.originalname == "test_fault"
    }
    return {row.name: row for row in suite.run(played.__contains__)}


@pytest.mark.parametrize("name", suite.names())
def test_fault(name: str, rows: dict[str, Row]) -> None:
    row = rows[name]
    if row.skipped:
        pytest.skip(row.skipped)
    assert not row.problems, "\n".join([*row.problems, "", *row.log])


def test_every_fault_has_a_name_of_its_own() -> None:
    assert len(set(suite.names())) == len(suite.names())


# The books.


def books_of(*seen: int, accepted: range = range(1, 6), uncertain: tuple[int, ...] = (), closed: int = 5) -> Balance:
    """Balance one topic of one client."""
    listener = Listener(0, ("t",))
    listener.seen["t"] = [(number, 0.0) for number in seen]
    book = Books(5, dict.fromkeys(set(accepted) - set(uncertain), (0.0, 0.0)), set(uncertain), closed)
    return balance({"t": book}, [listener])


def test_books_that_balance() -> None:
    assert not books_of(1, 2, 3, 4, 5).problems
    holes = books_of(1, GAP, 4, GAP, 5)
    assert not holes.problems
    assert holes.most_lost == 2
    assert holes.gaps == {(0, "t"): 2}
    assert not books_of(1, 2, 4, 5, 3, uncertain=(3,)).problems
    assert not books_of(1, 2, GAP, 3, 4, 5).problems
    assert not books_of(1, 2, 3, GAP, closed=3).problems, "what comes after the books are closed may be under way"


@pytest.mark.parametrize(
    ("seen", "problem"),
    [
        ((1, 2, 4, 5), "no gap"),
        ((GAP, 1, 2, 4, 5), "no gap"),
        ((1, 2, 4, GAP, 5), "no gap"),
        ((1, 2, 2, 3, 4, 5), "twice"),
        ((1, 3, 2, 4, 5), "3"),
        ((1, 2, 3, GAP), "never came"),
        ((2, 3, 4, 5), "no gap"),
    ],
)
def test_books_that_do_not(seen: tuple[int, ...], problem: str) -> None:
    found = " ".join(books_of(*seen).problems)
    assert problem in found


async def test_a_row_that_was_held_up_is_played_again(monkeypatch: pytest.MonkeyPatch) -> None:
    plays = iter([Row("f", "k", problems=["late"], held_up=3.0), Row("f", "k"), Row("f", "k", problems=["wrong"])])

    async def play(*args: object) -> Row:
        return next(plays)

    monkeypatch.setattr(scene, "_measure_once", play)
    fault, stage = Fault("f", nothing), SingleStage()
    assert not (await measure(fault, stage)).problems
    assert (await measure(fault, stage)).problems == ["wrong"], "nothing held it up"


async def test_a_gap_that_is_not_announced_is_found() -> None:
    fault = Fault("silent", at_redis("CLIENT", "KILL", "TYPE", "pubsub"), settings={"WSD_GAP_NOTICES": "false"})
    fault = Fault(fault.name, fault.strike, settings=fault.settings, heal_bound=3.0)
    row = await measure(fault, SingleStage())
    problems = "\n".join(row.problems)
    assert "no gap was announced" in problems
    assert "were lost and no gap" in problems
    assert "FAILED" in render([row])


async def test_a_fault_that_is_not_noticed_is_found() -> None:
    async def nothing(stage: SingleStage) -> None:
        pass

    row = await measure(Fault("nothing", nothing, notice_bound=0.5), SingleStage())
    assert any("not noticed" in problem for problem in row.problems)


# The watch.


def watch_of(*samples: tuple[float, float, int], log: Sequence[float] = ()) -> Watch:
    """A watch that has seen this: when it asked, when it was answered, and the status."""
    daemon = cast(ObservedDaemon, SimpleNamespace(losses=lambda: list(log)))
    watch = Watch(daemon)
    watch.samples = [Sample(*sample) for sample in samples]
    return watch


def looks(start: float, end: float, status: int = 200) -> list[tuple[float, float, int]]:
    """Looks every 50 ms, each answered in 5."""
    return [(start + n * 0.05, start + n * 0.05 + 0.005, status) for n in range(round((end - start) / 0.05))]


@pytest.mark.parametrize(
    ("lost", "doubted"),
    [((5.0, 5.01), False), ((9.3, 9.31), True), ((10.5, 10.6), True), ((11.6, 11.7), False), ((11.3, 19.0), True)],
    ids=["before", "just before", "within", "after", "at some time, it may have been just after"],
)
def test_what_is_lost_is_judged_by_the_time_at_which_it_may_have_been_lost(
    lost: tuple[float, float], doubted: bool
) -> None:
    watch = watch_of(*looks(0, 10), *looks(10, 11, 503), *looks(11, 20))
    assert near(watch.doubts(), lost[0] - 0.5, lost[1] + 1) is doubted


def test_nobody_knows_what_readyz_said_while_nobody_asked() -> None:
    watch = watch_of(*looks(0, 10), *looks(13, 20), log=[17.5])
    assert [round(last - first, 1) for first, last in watch.doubts()] == [3.1, 0.0]
    assert near(watch.doubts(), 11, 12)
    assert not near(watch.doubts(), 15, 16)
    assert near(watch.doubts(), 17, 18)


def test_a_bound_does_not_count_the_time_in_which_nobody_could_look() -> None:
    watch = watch_of(*looks(0, 10), *looks(13, 30))
    assert watch.without_delay(2, 3) == 5
    assert watch.without_delay(8, 3) == pytest.approx(14, abs=0.01)
    assert watch.without_delay(15, 3) == 18


async def test_a_wait_ends_at_its_bound_and_tells_when_it_came_true() -> None:
    watch = watch_of()
    assert await watch.until(lambda: 7.5, 0.0) == 7.5
    polling = asyncio.create_task(_looking(watch))
    assert await watch.until(lambda: None, 0.2) is None
    polling.cancel()


async def _looking(watch: Watch) -> None:
    while True:
        watch.samples.append(Sample(time.monotonic(), time.monotonic(), 200))
        await asyncio.sleep(0.02)


# The proxy.


@pytest.mark.parametrize(
    "value",
    [
        b"+OK\r\n",
        b":12\r\n",
        b"$5\r\nab\r\nc\r\n",
        b"*2\r\n$1\r\na\r\n>1\r\n:1\r\n",
        b"%1\r\n+a\r\n*0\r\n",
        b"_\r\n",
    ],
)
def test_the_end_of_a_reply_is_found(value: bytes) -> None:
    assert end_of_reply(b"+x\r\n" + value + b":1\r\n", 4) == 4 + len(value)
    assert [end_of_reply(value[:length], 0) for length in range(len(value))] == [None] * len(value)


async def test_a_proxy_that_swallows_pushes_lets_replies_through(redis: RedisServer) -> None:
    async with Proxy(redis.port) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"HELLO 3\r\nSUBSCRIBE swallowed\r\nPING\r\n")
        await reader.readuntil(b"+PONG\r\n")
        proxy.downward.flow = Flow.SWALLOW_PUSHES
        writer.write(b"PUBLISH swallowed x\r\nECHO y\r\n")
        assert await reader.readexactly(11) == b":1\r\n$1\r\ny\r\n"
        proxy.heal()
        writer.write(b"PUBLISH swallowed z\r\n")
        assert b">3\r\n" in await reader.readuntil(b"z\r\n")
        await proxy.reset()
        with pytest.raises(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()


# Attempts that fail.


@asynccontextmanager
async def answering(answer: bytes | None) -> AsyncIterator[int]:
    """A server that gives everyone the same answer and closes; None: it never answers."""

    serving = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal serving
        serving += 1
        with suppress(OSError):
            await reader.read(65_536)
            if answer is None:
                await reader.read()  # until the client has enough
            else:
                writer.write(answer)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        serving -= 1

    server = await asyncio.start_server(serve, "127.0.0.1")
    async with server:
        yield int(server.sockets[0].getsockname()[1])
    await eventually(lambda: not serving, "the last connection's end")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let links try again at once."""
    monkeypatch.setattr(link_module, "BACKOFF_MAX", 0.005)
    monkeypatch.setattr(link_module, "MIN_CONNECT_TIMEOUT", 0.02)


@pytest.mark.parametrize(
    ("answer", "host"),
    [
        (b"", "127.0.0.1"),
        (b"-WRONGPASS no\r\n", "127.0.0.1"),
        (b"rubbish\r\n", "127.0.0.1"),
        (None, "127.0.0.1"),
        (b"", "127.0.0.1:"),
    ],
    ids=["closed", "wrong password", "rubbish", "mute", "refused"],
)
async def test_a_hundred_attempts_that_fail_leave_nothing_behind(
    impatient: None, answer: bytes | None, host: str
) -> None:
    async with answering(answer) as port:
        url = f"redis://:s3cret@127.0.0.1:{free_port() if host.endswith(':') else port}"
        async with serving(url, wait=False, redis_heartbeat=0.02) as worker:

            async def held_after(failures: int) -> tuple[int, int, int]:
                await eventually(lambda: worker.metrics.link_failures >= failures, "failed attempts")
                gc.collect()
                return len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks()), len(gc.get_objects())

            before = await held_after(20)
            after = await held_after(120)
            assert after[0] <= before[0] + 6
            assert after[1] <= before[1] + 6
            assert after[2] <= before[2] + 200


# The publisher.


async def test_the_publisher_knows_what_was_accepted(own_redis: RedisServer) -> None:
    with Publisher(Server(own_redis.port), TOPICS) as publisher:
        first = publisher.books[TOPICS[0]]
        await eventually(lambda: len(first.accepted) > 2)
        own_redis.stop()
        await eventually(lambda: first.last > max(first.accepted) + 2)
        own_redis.start()
        await eventually(lambda: max(first.accepted) == first.last and first.last > 10)
    assert len(first.accepted) + len(first.uncertain) < first.last
