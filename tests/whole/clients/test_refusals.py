"""What Redis refuses: clients, readiness and the log are told, by a whole daemon on a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.lib.clients import Client
from tests.lib.servers import RedisServer, Sentinel, serving
from tests.lib.waiting import eventually


@pytest.fixture
def renamed(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A Redis that does not know a command under its name."""
    server = RedisServer("--rename-command", request.param, "hidden")
    yield server
    server.remove()


@pytest.mark.parametrize("renamed", ["SUBSCRIBE"], indirect=True)
async def test_a_redis_that_lets_nothing_be_subscribed_is_not_ready(
    renamed: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(renamed, wait=False, redis_heartbeat=1) as worker:
        await eventually(lambda: "nothing can be subscribed" in worker.status.unready())
        assert "SUBSCRIBE" in worker.status.unready()
        await asyncio.sleep(1.5)  # some beats
        assert "nothing can be subscribed" in worker.status.unready()
    assert sum("not probed" in message for message in caplog.messages) == 1


@pytest.mark.parametrize("renamed", ["SSUBSCRIBE"], indirect=True)
async def test_a_redis_without_sharded_channels_is_not_ready_for_them(renamed: RedisServer) -> None:
    async with serving(renamed, wait=False, pubsub="sharded") as worker:
        await eventually(lambda: "nothing can be subscribed" in worker.status.unready())
        assert "set pubsub to classic" in worker.status.unready()


@pytest.mark.parametrize("renamed", ["PUBLISH"], indirect=True)
async def test_that_delivery_cannot_be_probed_is_said(renamed: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(renamed, redis_heartbeat=1) as worker, Client(worker.port) as client:
        await eventually(lambda: worker.source.links[0].unprobed)
        assert worker.status.unready() == ""  # what is published under the other name is delivered
        assert "not probed: Redis refuses PUBLISH" in worker.source.links[0].line
        await client.subscribe("topic")
        renamed("hidden", "topic", '"hello"')
        assert (await client.receive())["snapshot"] == "hello"
    assert sum("not probed" in message for message in caplog.messages) == 1


async def test_a_probe_that_was_refused_is_tried_again(own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsd.redis.vitals.AUDIT_INTERVAL", 0.5)
    permitted = "+@connection", "+@pubsub"
    own_redis("ACL", "SETUSER", "wsd", "on", ">pw", *permitted, "-publish", "&*")
    url = f"redis://wsd:pw@127.0.0.1:{own_redis.port}"
    async with serving(url, redis_heartbeat=0.5) as worker:
        await eventually(lambda: worker.source.links[0].unprobed)
        own_redis("ACL", "SETUSER", "wsd", "+publish")
        await eventually(lambda: worker.source.links[0].probe_age is not None)
        assert not worker.source.links[0].unprobed


@pytest.fixture
def sentinel(redis: RedisServer) -> Iterator[int]:
    """The port of a Sentinel."""
    sentinel = Sentinel.watching(redis)
    yield sentinel.port
    sentinel.remove()


async def test_a_sentinel_is_not_taken_for_a_redis(sentinel: int) -> None:
    async with serving(f"redis://127.0.0.1:{sentinel}", wait=False) as worker:
        await eventually(lambda: "it is a Sentinel" in worker.status.unready())
        assert "redis+sentinel://" in worker.status.unready()


async def test_those_who_listen_are_told_when_redis_takes_a_permission_away(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsd.redis.channels.REFUSED_RETRY", 2.0)
    own_redis("ACL", "SETUSER", "wsd", "on", ">pw", "+@connection", "+@pubsub", "&*")
    url = f"redis://wsd:pw@127.0.0.1:{own_redis.port}"
    async with serving(url, redis_heartbeat=1) as worker, Client(worker.port) as one, Client(worker.port) as other:
        await one.subscribe("kept", "taken")
        own_redis("ACL", "SETUSER", "wsd", "resetchannels", "&kept", "&__wsd*")
        error = await one.receive()
        while error["action"] == "gap":  # of the other topic, because Redis ends the connection
            error = await one.receive()
        assert (error["action"], error["code"]) == ("error", "unavailable")
        assert error["message"].startswith("taken is not delivered now")
        # What is known is answered at once: nobody waits five seconds, and nothing behind it does.
        other.request("subscribe", "taken")
        other.request("subscribe", "kept")
        replies = [await other.receive() for _ in range(2)]
        assert [reply.get("code", reply["message"]) for reply in replies] == ["unavailable", "context subscribed"]
        own_redis("ACL", "SETUSER", "wsd", "&*")
        while (message := await one.receive()) != {
            "action": "gap",
            "topic": "taken",
            "message": "messages may have been missed",
        }:
            assert message["action"] == "gap"
        own_redis.publish("taken", '"back"')
        assert (await one.receive())["snapshot"] == "back"
        await other.subscribe("taken")
