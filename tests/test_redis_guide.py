"""Whom of several Sentinels to believe. With real Sentinels: test_redis_source.py."""

from __future__ import annotations

import asyncio
from typing import NoReturn

import pytest

from tests.servers import eventually, free_port
from wsd.errors import LinkError
from wsd.redis import sentinel as sentinel_module
from wsd.redis.address import Address, Sentinel
from wsd.redis.sentinel import SentinelGuide

OLD, NEW = ("old", 1), ("new", 2)
ONE, TWO, THREE = (Address("127.0.0.1", port) for port in (1, 2, 3))


class Told:
    """A guide that is told what the Sentinels say."""

    def __init__(self) -> None:
        deployment = Sentinel((ONE, TWO, THREE), "mymaster", Address(password="s3cret"))
        self.guide = SentinelGuide(deployment, heartbeat=0.05)
        self.moves: list[str] = []
        self.guide._relocate = self.moves.append

    def say(self, sentinel: Address, place: tuple[str, int]) -> None:
        self.guide._learn(sentinel, place)
        self.guide._answering.add(sentinel)

    async def located(self) -> tuple[str, int]:
        address = await self.guide.locate()
        assert address.password == "s3cret"
        return address.host, address.port


async def test_the_first_to_tell_is_believed_and_nobody_is_moved() -> None:
    told = Told()
    told.say(ONE, OLD)
    assert await told.located() == OLD
    told.say(TWO, OLD)
    assert told.moves == []


async def test_a_switch_moves_the_link_once_although_three_tell_it() -> None:
    told = Told()
    for sentinel in (ONE, TWO, THREE):
        told.say(sentinel, OLD)
    for sentinel in (TWO, ONE, THREE, TWO):
        told.say(sentinel, NEW)
    assert len(told.moves) == 1
    assert "the master is now redis://new:2" in told.moves[0]
    assert await told.located() == NEW


async def test_a_sentinel_that_comes_back_with_what_it_said_is_no_news() -> None:
    told = Told()
    for sentinel in (ONE, TWO, THREE):
        told.say(sentinel, OLD)
    told.say(ONE, NEW)
    told.guide._answering.discard(THREE)
    told.say(THREE, OLD)
    assert len(told.moves) == 1
    assert await told.located() == NEW


async def test_a_sentinel_heard_for_the_first_time_does_not_move_the_link() -> None:
    told = Told()
    told.say(ONE, NEW)
    told.say(TWO, OLD)
    assert told.moves == []
    assert await told.located() == NEW


async def test_when_the_news_leads_nowhere_the_majority_is_tried_in_turn() -> None:
    told = Told()
    for sentinel in (ONE, TWO, THREE):
        told.say(sentinel, OLD)
    told.say(ONE, NEW)
    assert await told.located() == NEW
    assert await told.located() == OLD


async def test_without_sentinels_the_last_master_is_tried_and_at_first_there_is_none() -> None:
    told = Told()
    told.guide._problems[ONE] = "Connection refused"
    with pytest.raises(
        LinkError, match=r"no Sentinel tells where mymaster is \(redis://127.0.0.1:1: Connection refused"
    ):
        await told.guide.locate()
    told.say(ONE, OLD)
    told.guide._answering.clear()
    assert [await told.located() for _ in range(3)] == [OLD] * 3


async def test_a_thousand_refused_connections_in_a_row_are_not_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: 0.0)  # no wait takes any time
    attempts = 0

    async def refused(*args: object) -> NoReturn:
        nonlocal attempts
        attempts += 1
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(sentinel_module, "connect", refused)
    guide = SentinelGuide(Sentinel((ONE,), "mymaster", Address()), heartbeat=0.05)
    task = asyncio.create_task(guide.run(lambda reason: None))
    await eventually(lambda: attempts > 3000 or task.done())
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_sentinels_that_are_away_are_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sentinel_module, "BACKOFF_MAX", 0.01)
    deployment = Sentinel((Address("127.0.0.1", free_port()),), "mymaster", Address())
    guide = SentinelGuide(deployment, heartbeat=0.05)
    task = asyncio.create_task(guide.run(lambda reason: None))
    with pytest.raises(LinkError, match="Connection refused"):
        await guide.locate()
    await asyncio.sleep(0.1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert caplog.text.count("is of no use") == 1, "it is said once"
