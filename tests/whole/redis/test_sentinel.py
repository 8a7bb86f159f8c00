"""Whom of several Sentinels to believe, with Sentinels and servers that the test plays. With real ones:
test_source.py and test_faults.py."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import NoReturn

import hiredis
import pytest

from bench.processes import free_port
from tests.lib.resp import bulk
from tests.lib.waiting import eventually
from wsd.deployment import Address, Sentinel
from wsd.errors import LinkError
from wsd.redis import sentinel as sentinel_module
from wsd.redis.sentinel import SentinelGuide

ONE = Address("127.0.0.1", 1)


class Played:
    """A server whose answers the test sets: of a master, or of a Sentinel."""

    def __init__(self) -> None:
        self.role = "master"
        self.told = ("127.0.0.1", 0)  # where the master is, if it is a Sentinel
        self.epoch: int | None = None  # of the election; None: it refuses to tell
        self.asked: list[str] = []
        self._writers: set[asyncio.StreamWriter] = set()

    async def listen(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.port = int(self._server.sockets[0].getsockname()[1])
        self.address = Address("127.0.0.1", self.port)
        self.place = ("127.0.0.1", self.port)

    async def stop(self) -> None:
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await eventually(lambda: not self._writers)

    def tell_switch(self, place: tuple[str, int]) -> None:
        """Tell of a failover."""
        old, self.told = self.told, place
        payload = f"mymaster {old[0]} {old[1]} {place[0]} {place[1]}"
        for writer in self._writers:
            writer.write(bulk("message", "+switch-master", payload).replace(b"*", b">", 1))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        commands = hiredis.Reader()
        with suppress(OSError):
            while data := await reader.read(65536):
                commands.feed(data)
                while command := commands.gets():
                    writer.write(self._answer([word.decode() for word in command]))
        writer.close()
        self._writers.discard(writer)

    def _answer(self, words: list[str]) -> bytes:
        self.asked.append(" ".join(words[:2]))
        match words[:2]:
            case ["HELLO", _]:
                return b"%1\r\n" + bulk("role", self.role).partition(b"\r\n")[2]
            case ["SUBSCRIBE", channel]:
                return bulk("subscribe", channel).replace(b"*2", b">3") + b":1\r\n"
            case ["SENTINEL", "GET-MASTER-ADDR-BY-NAME"]:
                return bulk(*self.told)
            case ["SENTINEL", "MASTER"] if self.epoch is not None:
                return bulk("ip", self.told[0], "port", self.told[1], "config-epoch", self.epoch)
        return b"-NOPERM no\r\n"


class House:
    """Two servers, three Sentinels and a guide."""

    def __init__(self, servers: list[Played], sentinels: list[Played]) -> None:
        self.old, self.new = servers
        self.sentinels = sentinels
        self.moves: list[str] = []
        deployment = Sentinel(tuple(sentinel.address for sentinel in sentinels), "mymaster", Address(password="s3cret"))
        self.guide = SentinelGuide(deployment, heartbeat=0.1)

    def say(self, *places: Played) -> None:
        for sentinel, server in zip(self.sentinels, places, strict=True):
            sentinel.told = server.place

    async def located(self) -> tuple[str, int]:
        address = await self.guide.locate()
        assert address.password == "s3cret"
        self.guide.arrived()
        return address.host, address.port

    async def run(self) -> None:
        await self.guide.run(self.moves.append)

    async def heard(self, times: int = 3) -> None:
        """Wait until each Sentinel that answers has been asked some more times."""
        for sentinel in self.sentinels:
            if sentinel._writers:
                asked = len(sentinel.asked)
                await eventually(lambda: len(sentinel.asked) >= asked + 2 * times)  # noqa: B023


@asynccontextmanager
async def house(**more: float) -> AsyncIterator[House]:
    async with AsyncExitStack() as stack:
        played = [Played() for _ in range(5)]
        for server in played:
            await server.listen()
            stack.push_async_callback(server.stop)
        yield House(played[:2], played[2:])


@asynccontextmanager
async def running(house: House) -> AsyncIterator[None]:
    task = asyncio.create_task(house.run())
    try:
        yield
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the guide look more often."""
    for name, seconds in (("PAUSE", 0.05), ("REVIEW_INTERVAL", 0.1), ("SETTLE", 0.3), ("BACKOFF_MAX", 0.05)):
        monkeypatch.setattr(sentinel_module, name, seconds)


@pytest.mark.parametrize("stale", [0, 1, 2])
async def test_at_the_start_the_majority_is_believed_whoever_is_first(
    stale: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with house() as played:
        played.say(*(played.old if number == stale else played.new for number in range(3)))
        async with running(played):
            assert await played.located() == played.new.place
            await eventually(lambda: "the Sentinels disagree about where mymaster is" in caplog.text)
            assert f"{played.sentinels[stale].address.place}: 127.0.0.1:{played.old.port}" in caplog.text
            assert "the Sentinels disagree" in played.guide.note
            await played.heard()
        assert played.moves == []
        assert caplog.text.count("disagree") == 1, "it is said once"


async def test_a_majority_that_comes_late_moves_the_link(monkeypatch: pytest.MonkeyPatch) -> None:
    async with house() as played:
        stale, *right = played.sentinels
        for sentinel in right:
            await sentinel.stop()
        played.say(played.old, played.new, played.new)
        async with running(played):
            assert await played.located() == played.old.place
            await eventually(lambda: "only 1 of 3 Sentinels answer" in played.guide.note)
            for sentinel in right:
                await sentinel.listen(sentinel.port)
            await eventually(lambda: played.moves)
            assert "most Sentinels say that the master is" in played.moves[0]
            assert await played.located() == played.new.place
            assert stale.told == played.old.place


async def test_the_majority_does_not_lead_to_a_server_that_is_no_master() -> None:
    async with house() as played:
        played.say(played.new, played.new, played.new)
        async with running(played):
            assert await played.located() == played.new.place
            played.old.role = "replica"
            played.say(played.old, played.old, played.new)  # two come back with what was
            await eventually(lambda: len(played.old.asked) > 2, "the question whether it is a master")
            assert played.moves == []
            assert await played.located() == played.new.place


async def test_a_sentinel_that_turns_stale_is_outvoted() -> None:
    for epochs in ((None, None, None), (0, 7, 7), (7, 7, 7)):
        async with house() as played:
            played.say(played.new, played.new, played.new)
            for sentinel, epoch in zip(played.sentinels, epochs, strict=True):
                sentinel.epoch = epoch
            async with running(played):
                assert await played.located() == played.new.place
                played.say(played.old, played.new, played.new)
                await eventually(lambda: "disagree" in played.guide.note)
                await played.heard()
                assert played.moves == []
                assert await played.located() == played.new.place


async def test_a_switch_moves_the_link_at_once_and_only_once_although_three_tell_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sentinel_module, "SETTLE", 60.0)
    async with house() as played:
        played.say(played.old, played.old, played.old)
        async with running(played):
            assert await played.located() == played.old.place
            played.sentinels[1].tell_switch(played.new.place)
            await eventually(lambda: played.moves)
            assert f"Sentinel says that the master is now redis://127.0.0.1:{played.new.port}" in played.moves[0]
            assert await played.located() == played.new.place
            await played.heard()
            for sentinel in (played.sentinels[0], played.sentinels[2]):
                sentinel.tell_switch(played.new.place)
            await played.heard()
            assert len(played.moves) == 1


async def test_a_switch_that_nobody_else_knows_of_is_taken_back() -> None:
    async with house() as played:
        played.say(played.old, played.old, played.old)
        async with running(played):
            await played.located()
            played.sentinels[1].tell_switch(played.new.place)
            await eventually(lambda: len(played.moves) == 2)
            assert await played.located() == played.old.place


async def test_a_switch_told_by_a_sentinel_of_another_deployment_is_no_news() -> None:
    async with house() as played:
        played.say(played.old, played.new, played.new)
        async with running(played):
            assert await played.located() == played.new.place
            await played.heard(1)
            played.sentinels[0].tell_switch(("127.0.0.1", 1))
            await played.heard()
            assert played.moves == []


async def test_a_newer_election_is_news_without_a_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentinel_module, "SETTLE", 60.0)
    async with house() as played:
        played.say(played.old, played.old, played.old)
        for sentinel in played.sentinels:
            sentinel.epoch = 4
        async with running(played):
            await played.located()
            await played.heard(1)
            played.sentinels[2].told, played.sentinels[2].epoch = played.new.place, 5
            await eventually(lambda: played.moves)
            assert await played.located() == played.new.place


async def test_of_two_that_disagree_the_newer_election_wins() -> None:
    async with house() as played:
        await played.sentinels[2].stop()
        for first, second, expected in ((1, 2, 1), (2, 1, 0)):
            played.say(played.old, played.new, played.old)
            played.sentinels[0].epoch, played.sentinels[1].epoch = first, second
            again = House([played.old, played.new], played.sentinels)
            async with running(again):
                assert await again.located() == (played.old.place, played.new.place)[expected]


async def test_what_leads_nowhere_is_tried_in_turn() -> None:
    async with house() as played:
        played.say(played.old, played.old, played.new)
        async with running(played):
            places = []
            for _ in range(4):
                address = await played.guide.locate()
                places.append((address.host, address.port))
            assert places == [played.old.place, played.new.place] * 2


async def test_without_sentinels_the_last_master_stays(caplog: pytest.LogCaptureFixture) -> None:
    async with house() as played:
        played.say(played.old, played.old, played.old)
        async with running(played):
            await played.located()
            for sentinel in played.sentinels:
                await sentinel.stop()
            await eventually(lambda: "only 0 of 3 Sentinels answer" in caplog.text)
            assert [await played.located() for _ in range(3)] == [played.old.place] * 3
            for sentinel in played.sentinels:
                await sentinel.listen(sentinel.port)
            await eventually(lambda: played.guide.note == "")
        assert played.moves == []


async def test_a_user_who_may_not_ask_for_the_epoch_asks_once(caplog: pytest.LogCaptureFixture) -> None:
    async with house() as played:
        played.say(played.old, played.old, played.old)
        async with running(played):
            await played.located()
            await played.heard(5)
        assert [sentinel.asked.count("SENTINEL MASTER") for sentinel in played.sentinels] == [1, 1, 1]
        assert "of no use" not in caplog.text


async def test_a_sentinel_that_switches_all_the_time_moves_the_link_at_a_bounded_rate(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(sentinel_module, "PAUSE", 0.5)
    async with house() as played:
        played.say(played.old, played.old, played.old)
        async with running(played):
            await played.located()
            loop = asyncio.get_running_loop()
            began = loop.time()
            for number in range(500):
                played.sentinels[0].tell_switch((played.old if number % 2 else played.new).place)
                await asyncio.sleep(0.002)
            assert len(played.moves) <= (loop.time() - began) / 0.5 + 2
            assert len(caplog.records) < 20 + len(played.moves)


async def test_at_first_there_is_none() -> None:
    guide = SentinelGuide(Sentinel((ONE,), "mymaster", Address()), heartbeat=0.05)
    guide._voices[ONE].problem = "Connection refused"
    with pytest.raises(
        LinkError, match=r"no Sentinel tells where mymaster is \(redis://127.0.0.1:1: Connection refused"
    ):
        await guide.locate()


@asynccontextmanager
async def alone(attempt: Callable[..., NoReturn] | None = None) -> AsyncIterator[SentinelGuide]:
    guide = SentinelGuide(Sentinel((Address("127.0.0.1", free_port()),), "mymaster", Address()), heartbeat=0.05)
    task = asyncio.create_task(guide.run(lambda reason: None))
    try:
        yield guide
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_thousand_refused_connections_in_a_row_are_not_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: 0.0)  # no wait takes any time
    attempts = 0

    async def refused(*args: object) -> NoReturn:
        nonlocal attempts
        attempts += 1
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(sentinel_module, "connect", refused)
    async with alone():
        await eventually(lambda: attempts > 3000)


async def test_sentinels_that_are_away_are_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    async with alone() as guide:
        with pytest.raises(LinkError, match="Connection refused"):
            await guide.locate()
        await asyncio.sleep(0.1)
    assert caplog.text.count("is of no use") == 1, "it is said once"
