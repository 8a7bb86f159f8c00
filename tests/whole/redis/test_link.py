"""The link to a real Redis, whatever happens to it; and to a server that misbehaves as no Redis does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import monotonic, sleep
from typing import Any

import pytest

from tests.lib.afar import RedisAfar, needs_namespaces
from tests.lib.links import HEARTBEAT, linked
from tests.lib.marks import needs_sharding
from tests.lib.proxy import Flow, Proxy
from tests.lib.recorder import Recorder
from tests.lib.servers import RedisServer, redis_version
from tests.lib.waiting import BUSY, eventually
from wsd.logs import BoundedLogger
from wsd.redis import channels as channels_module
from wsd.redis import link as link_module
from wsd.redis import vitals as vitals_module
from wsd.redis.link import Link
from wsd.redis.wire import SHARDED, connect


async def test_a_thousand_refused_connections_in_a_row_are_not_the_last(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: 0.0)  # no wait takes any time
    attempts = 0

    async def refused(*args: Any) -> Any:
        nonlocal attempts
        attempts += 1
        if attempts <= 3000:
            raise ConnectionRefusedError(111, "Connection refused")
        return await connect(*args)

    monkeypatch.setattr(link_module, "connect", refused)
    async with linked(redis.url) as (link, recorder):
        assert recorder.metrics.link_failures == 3000
        link.subscribe(b"after")
        await recorder.until("confirmed", b"after")


# Publishing.


async def test_what_is_published_comes_behind_what_is_subscribed_in_the_same_pass(redis: RedisServer) -> None:
    async with linked(redis.url) as (link, recorder), linked(redis.url) as (other, _):
        assert (link.stream(b"mine"), link.private("", "mine")) == ("", b"")
        other.subscribe(b"both")
        await eventually(lambda: other.stream(b"both"))
        stream = other.stream(b"both")
        assert stream == f"127.0.0.1:{redis.port}"
        assert (link.private(stream, "mark:7"), link.private("elsewhere:1", "mark:7")) == (b"__wsd:mark:7", b"")
        answers: list[int | str] = []
        for channel in (b"mine", b"both"):
            link.publish(channel, b"x", answers.append)
            link.subscribe(channel)
        assert answers == []
        await eventually(lambda: len(answers) == 2)
        assert answers == [1, 2]
        await recorder.until("message", b"mine", b"x")
        assert link.stream(b"mine") == link.stream(b"both") == stream
        assert link.stream(b"stranger") == ""


async def test_what_is_published_while_the_link_is_down_is_answered_with_the_reason(own_redis: RedisServer) -> None:
    own_redis.stop()
    answers: list[int | str] = []
    async with linked(own_redis.url, wait=False) as (link, _):
        link.publish(b"a", b"x", answers.append)
        await eventually(lambda: answers)
        await eventually(lambda: link.failing)
        link.publish(b"a", b"x", answers.append)
        await eventually(lambda: len(answers) == 2)
        assert "not connected yet" in str(answers[0])
        assert "can't connect" in str(answers[1])
    link.publish(b"a", b"x", answers.append)
    await eventually(lambda: len(answers) == 3)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("dropped", "lost the link"),
        ("deaf", "no answer to PING"),
        ("relocated", "another is better"),
        ("stopped", "stopped"),
    ],
)
async def test_what_is_published_is_answered_once_however_the_link_ends(
    fault: str, reason: str, redis: RedisServer
) -> None:
    answers: list[int | str] = []
    async with Proxy(redis.port) as proxy:
        async with linked(f"redis://127.0.0.1:{proxy.port}") as (link, recorder):
            link.subscribe(b"a")
            await recorder.until("confirmed", b"a")
            proxy.upward.flow = Flow.DISCARD
            link.publish(b"a", b"x", answers.append)
            await asyncio.sleep(0)  # it leaves
            match fault:
                case "dropped":
                    await proxy.drop()
                case "relocated":
                    link.relocate("another is better")
            if fault != "stopped":
                await recorder.until("lost")
                assert len(answers) == 1
                proxy.heal()
                await recorder.until("gap", b"a")
        assert len(answers) == 1
        assert reason in str(answers[0])


async def test_what_is_published_on_a_link_that_is_given_up_is_answered_too(redis: RedisServer) -> None:
    async with linked(redis.url) as (link, _):
        answers: list[int | str] = []
        link.relocate("another is better")
        link.publish(b"a", b"x", answers.append)
        await eventually(lambda: answers)
        assert isinstance(answers[0], str)


async def test_a_user_who_may_not_publish_is_told_so(own_redis: RedisServer) -> None:
    own_redis("ACL", "SETUSER", "listener", "on", ">pw", "+@connection", "+subscribe", "allchannels")
    async with linked(own_redis.url.replace("//", "//listener:pw@")) as (link, _):
        answers: list[int | str] = []
        link.publish(b"a", b"x", answers.append)
        await eventually(lambda: answers)
        assert "NOPERM" in str(answers[0])
        assert link.up


async def test_a_bug_about_an_answer_is_counted_and_harms_no_other(redis: RedisServer) -> None:
    def fail(answer: int | str) -> None:
        raise KeyError("a bug")

    async with linked(redis.url) as (link, recorder):
        answers: list[int | str] = []
        link.publish(b"a", b"x", fail)
        link.publish(b"a", b"x", answers.append)
        await eventually(lambda: answers)
        assert (recorder.metrics.internal_errors, recorder.metrics.link_failures) == (1, 0)


# Subscribing.


async def test_a_message_published_after_the_confirmation_arrives(redis: RedisServer) -> None:
    async with linked(redis.url) as (link, recorder):
        link.subscribe(b"link-1")
        await recorder.until("confirmed", b"link-1")
        assert redis.publish("link-1", b"\x00\xff") == 1
        await recorder.until("message", b"link-1", b"\x00\xff")
        link.unsubscribe(b"link-1")
        link.subscribe(b"link-1")
        assert recorder.count("confirmed") == 1
        await asyncio.sleep(0)
        assert recorder.count("confirmed") == 2, "at the end of the pass, because it lingers"


async def test_many_channels_are_subscribed_in_batches(redis: RedisServer) -> None:
    channels = [b"batch-%d" % number for number in range(3 * channels_module.BATCH + 7)]
    before = redis("INFO", "commandstats")["cmdstat_subscribe"]["calls"]
    async with linked(redis.url) as (link, recorder):
        for channel in channels:
            link.subscribe(channel)
        await eventually(lambda: recorder.count("confirmed") == len(channels))
        assert link.confirmed == link.wanted == len(channels)
        assert redis("INFO", "commandstats")["cmdstat_subscribe"]["calls"] - before == 4 + 1  # the probe's


async def test_a_channel_nobody_wants_lingers_and_is_then_unsubscribed(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels_module, "LINGER", 0.3)
    async with linked(redis.url) as (link, recorder):
        link.subscribe(b"linger")
        await recorder.until("confirmed", b"linger")
        link.unsubscribe(b"linger")
        link.subscribe(b"linger")
        link.unsubscribe(b"linger")
        assert "0 of 0 channels" in link.status.line
        await eventually(lambda: redis.publish("linger", "x") == 0)
        assert not link.confirmed
        link.subscribe(b"linger")
        await eventually(lambda: recorder.count("confirmed") == 2)


async def test_a_channel_unwanted_before_its_confirmation_is_unsubscribed_too(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels_module, "LINGER", 0.0)
    async with linked(redis.url) as (link, recorder):
        link.subscribe(b"hasty")
        await asyncio.sleep(0)  # the command is sent
        link.unsubscribe(b"hasty")
        await eventually(lambda: redis.publish("hasty", "x") == 0 and not link.confirmed)
        assert not recorder.count("confirmed")


async def test_a_channel_wanted_again_while_it_is_unsubscribed_is_confirmed_anew(redis: RedisServer) -> None:
    async with linked(redis.url) as (link, recorder):
        for _ in range(50):
            recorder.events.clear()
            link.subscribe(b"flap")
            await recorder.until("confirmed", b"flap")
            link.release(b"flap")
            await asyncio.sleep(0)  # UNSUBSCRIBE is sent
            recorder.events.clear()
            link.subscribe(b"flap")
            await recorder.until("confirmed", b"flap")
            assert redis.publish("flap", "x") == 1
            link.release(b"flap")
            await eventually(lambda: not link.confirmed)


# Whom Redis lets in.


async def test_a_channel_that_redis_refuses_is_refused_alone(own_redis: RedisServer) -> None:
    own_redis("ACL", "SETUSER", "wsd", "on", ">s3cret", "+@connection", "+@pubsub", "resetchannels", "&open-*")
    async with linked(f"redis://wsd:s3cret@127.0.0.1:{own_redis.port}") as (link, recorder):
        channels = [b"open-%d" % number for number in range(40)]
        channels.insert(17, b"closed-1")
        channels.append(b"closed-2")
        for channel in channels:
            link.subscribe(channel)
        await eventually(lambda: len(recorder.events) == len(channels))
        assert {event[1] for event in recorder.events if event[0] == "refused"} == {b"closed-1", b"closed-2"}
        assert recorder.count("confirmed") == 40
        assert link.up


async def test_a_permission_that_is_taken_away_and_given_back_ends_in_a_gap(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels_module, "REFUSED_RETRY", 0.2)
    own_redis("ACL", "SETUSER", "wsd", "on", ">s3cret", "+@connection", "+@pubsub", "&*")
    async with linked(f"redis://wsd:s3cret@127.0.0.1:{own_redis.port}") as (link, recorder):
        link.subscribe(b"given")
        await recorder.until("confirmed", b"given")
        own_redis("ACL", "SETUSER", "wsd", "resetchannels")  # Redis cuts off those who listen without permission
        await recorder.until("refused", b"given")
        assert link.up
        assert "0 of 1 channels (1 refused by Redis)" in link.status.line
        own_redis("ACL", "SETUSER", "wsd", "&*")
        await recorder.until("gap", b"given")
        assert link.healed


async def test_a_wrong_password_is_said_without_the_password(
    make_redis: Callable[..., RedisServer], caplog: pytest.LogCaptureFixture
) -> None:
    server = make_redis("--requirepass", "right-s3cret")
    for url in (f"redis://:wrong-s3cret@127.0.0.1:{server.port}", f"redis://127.0.0.1:{server.port}"):
        async with linked(url, wait=False) as (link, _):
            await eventually(lambda: "password" in link.problem)
            assert "s3cret" not in link.problem + caplog.text
    async with linked(f"redis://:right-s3cret@127.0.0.1:{server.port}"):
        pass


async def test_a_failing_login_is_retried_at_a_bounded_rate(make_redis: Callable[..., RedisServer]) -> None:
    server = make_redis("--requirepass", "right")
    async with linked(f"redis://:wrong@127.0.0.1:{server.port}", wait=False) as (_, recorder):
        await asyncio.sleep(1.5)
        assert recorder.metrics.link_failures <= 8
        await eventually(lambda: recorder.metrics.link_failures >= 2, "another attempt")


async def test_a_unix_socket_is_an_address_too(redis: RedisServer) -> None:
    async with linked(f"unix://{redis.socket}") as (link, recorder):
        link.subscribe(b"unix")
        await recorder.until("confirmed", b"unix")


# Redis comes and goes.


async def test_redis_may_be_missing_at_the_start(own_redis: RedisServer) -> None:
    own_redis.stop()
    async with linked(own_redis.url, wait=False) as (link, recorder):
        link.subscribe(b"early")
        await eventually(lambda: "can't connect" in link.problem)
        own_redis.start()
        await recorder.until("confirmed", b"early")
        assert recorder.count("gap") == 0


@pytest.mark.parametrize("fault", ["killed", "client killed", "restarted"])
async def test_a_link_that_is_cut_heals_with_a_gap_for_what_was_confirmed(own_redis: RedisServer, fault: str) -> None:
    async with linked(own_redis.url) as (link, recorder):
        link.subscribe(b"old")
        await recorder.until("confirmed", b"old")
        if fault == "client killed":
            own_redis("CLIENT", "KILL", "TYPE", "pubsub")
        else:
            own_redis.stop()
        await recorder.until("lost")
        link.subscribe(b"new")
        if fault != "client killed":
            own_redis.start()
        await recorder.until("gap", b"old")
        await recorder.until("confirmed", b"new")
        assert own_redis.publish("old", "x") == 1
        await recorder.until("message", b"old", b"x")
        assert link.healed
        assert recorder.count("gap") == 1


async def test_a_frozen_redis_is_noticed_within_two_heartbeats(own_redis: RedisServer) -> None:
    loop = asyncio.get_running_loop()
    async with linked(own_redis.url) as (link, recorder):
        link.subscribe(b"frozen")
        await recorder.until("confirmed", b"frozen")
        took = []
        for _ in range(3):
            recorder.events.clear()
            own_redis.freeze()
            frozen_at = loop.time()
            await recorder.until("lost")
            took.append(loop.time() - frozen_at)
            own_redis.thaw()
            await recorder.until("gap", b"frozen")
    # 1.5 heartbeats by design. When this process is held up, Redis gets its time again, so the quickest counts.
    assert min(took) < 2 * HEARTBEAT + BUSY


async def test_a_redis_that_does_not_hear_us_is_left_although_messages_come(own_redis: RedisServer) -> None:
    loop = asyncio.get_running_loop()
    async with Proxy(own_redis.port) as proxy, linked(f"redis://127.0.0.1:{proxy.port}") as (link, recorder):
        link.subscribe(b"busy")
        await recorder.until("confirmed", b"busy")
        proxy.upward.flow = Flow.DISCARD
        deaf_since = loop.time()
        while not recorder.count("lost"):
            own_redis.publish("busy", "x")
            await asyncio.sleep(HEARTBEAT / 8)
            assert loop.time() - deaf_since < 3 * HEARTBEAT + BUSY
        assert loop.time() - deaf_since > 2 * HEARTBEAT, "behind a burst an answer may come late"
        assert "messages come, but no answer to" in link.problem
        assert recorder.count("message") > 1
        proxy.heal()
        await recorder.until("gap", b"busy")


async def test_a_message_that_comes_before_its_gap_lies_under_it(own_redis: RedisServer) -> None:
    async with Proxy(own_redis.port) as proxy, linked(f"redis://127.0.0.1:{proxy.port}") as (link, recorder):
        link.subscribe(b"c")
        await recorder.until("confirmed", b"c")
        own_redis.publish("c", "before")
        await recorder.until("message", b"c", b"before")
        proxy.downward.flow = Flow.SWALLOW_PUSHES  # the confirmation that is to come will be lost
        own_redis("CLIENT", "KILL", "TYPE", "pubsub")
        await recorder.until("lost")
        await eventually(lambda: own_redis.publish("c", "missed") == 1, "the subscription, seen from Redis")
        await eventually(lambda: b"missed" in proxy.downward.swallowed, "the loss")
        proxy.heal()
        own_redis.publish("c", "early")
        await recorder.until("gap", b"c")
        own_redis.publish("c", "after")
        await recorder.until("message", b"c", b"after")
        about = [event for event in recorder.events if event[0] in ("message", "gap")]
        assert about == [("message", b"c", b"before"), ("gap", b"c"), ("message", b"c", b"after")]


async def test_a_loop_that_was_held_up_does_not_blame_redis(own_redis: RedisServer) -> None:
    import time

    async with linked(own_redis.url) as (link, recorder):
        for _ in range(3):
            time.sleep(HEARTBEAT * 2)  # noqa: ASYNC251  # the point of the test
            await asyncio.sleep(HEARTBEAT / 4)
        assert recorder.count("lost") == 0
        assert link.up


async def test_what_is_unsubscribed_while_the_link_is_down_has_no_gap(own_redis: RedisServer) -> None:
    async with linked(own_redis.url) as (link, recorder):
        link.subscribe(b"a")
        link.subscribe(b"b")
        await recorder.until("confirmed", b"b")
        own_redis.stop()
        await recorder.until("lost")
        link.unsubscribe(b"a")
        own_redis.start()
        await recorder.until("gap", b"b")
        await eventually(lambda: link.healed)
        assert recorder.count("gap") == 1
        assert link.wanted == 1


async def test_the_log_tells_of_a_redis_that_is_away_once(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    own_redis.stop()
    async with linked(own_redis.url, wait=False) as (_, recorder):
        await eventually(lambda: recorder.metrics.link_failures >= 4)
        assert caplog.text.count("can't connect to Redis") == 1


# Servers that are no Redis.


@asynccontextmanager
async def scripted(*answers: bytes) -> AsyncIterator[str]:
    """A server that gives one answer to each thing it receives, then closes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            if await reader.read(65536):
                writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1")
    async with server:
        yield f"redis://:s3cret@127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "Protocol error"),
        (b"-ERR unknown command 'HELLO', with args beginning with: '3' 'AUTH' 's3cret'\r\n", "6.0 or later"),
        (b"-ERR max number of clients reached\r\n", "maxclients"),
        (b"-LOADING Redis is loading the dataset in memory\r\n", "loading"),
        (b"-ODD\x1b[31m s3cret\r\n", "ODD"),
        (b"", "closed the connection"),
    ],
)
async def test_what_answers_hello_wrongly_is_named(
    answer: bytes, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with scripted(answer) as url, linked(url, wait=False) as (link, _):
        await eventually(lambda: problem in link.problem, problem)
        assert "s3cret" not in caplog.text
        assert "\x1b" not in caplog.text
        assert not link.up


async def test_an_unasked_unsubscribe_is_a_gap_and_is_mended() -> None:
    confirm = b">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n"
    taken = b">3\r\n$11\r\nunsubscribe\r\n$1\r\nc\r\n:0\r\n"
    async with scripted(b"%0\r\n", confirm + taken, confirm, b"") as url, linked(url, wait=False) as (link, recorder):
        link.subscribe(b"c")
        await recorder.until("gap", b"c")
        assert recorder.events[:2] == [("confirmed", b"c"), ("lost",)]


async def test_a_handler_that_fails_does_not_stop_the_messages_behind(
    redis: RedisServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(Recorder):
        failed = 0

        def message(self, channel: bytes, payload: bytes) -> None:
            if self.failed < 50:
                self.failed += 1
                raise ZeroDivisionError
            super().message(channel, payload)

    monkeypatch.setattr("wsd.redis.link.bugs", BoundedLogger(logging.getLogger("wsd.redis.link"), rate=0.01))
    async with linked(redis.url, recorder=Failing()) as (link, recorder):
        link.subscribe(b"bug")
        await recorder.until("confirmed", b"bug")

        for number in range(51):
            redis.publish("bug", f"{number}")
        await recorder.until("message", b"bug", b"50")
        assert recorder.metrics.internal_errors == 50
        assert caplog.text.count("Traceback") == 1


async def test_a_bug_about_one_channel_is_counted_and_harms_no_other(
    redis: RedisServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(Recorder):
        def confirmed(self, channel: bytes, gap: bool) -> None:
            if channel != b"last":
                raise ZeroDivisionError
            super().confirmed(channel, gap)

    monkeypatch.setattr("wsd.redis.link.bugs", BoundedLogger(logging.getLogger("wsd.redis.link"), rate=0.01))
    async with linked(redis.url, recorder=Failing()) as (link, recorder):
        for number in range(100):
            link.subscribe(b"%d" % number)
        link.subscribe(b"last")
        await recorder.until("confirmed", b"last")
        assert recorder.metrics.internal_errors == 100
        assert caplog.text.count("Traceback") == 1
        assert link.up


@pytest.mark.parametrize("answer", [b"*3333333333\r\n", b"%1\r\n*0\r\n+x\r\n", b"%1\r\n+\xff\r\n+\xff\r\n+again\r\n"])
async def test_rubbish_for_an_answer_to_hello_is_a_reason_and_no_traceback(
    answer: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with scripted(answer) as url, linked(url, wait=False) as (link, recorder):
        await eventually(lambda: recorder.metrics.link_failures > 1)
        assert not link.problem.endswith(": ")
        assert "Traceback" not in caplog.text
        assert not recorder.metrics.internal_errors


# Is what the link believes true?


def returned_at(link: Link) -> float:
    """When the last probe came back, to the hundredth of a second."""
    age = link.status.probe_age
    return 0.0 if age is None else round(monotonic() - age, 2)


async def test_the_probe_tells_how_long_delivery_takes(redis: RedisServer) -> None:
    async with linked(redis.url) as (link, recorder):
        await eventually(lambda: link.status.probe_age is not None)
        assert 0 < link.status.probe_round_trip < 15
        first = returned_at(link)
        await eventually(lambda: returned_at(link) > first)
        assert "probe came back in" in link.status.line
        assert recorder.events == [], "it is nobody else's business"


async def test_a_server_that_answers_and_delivers_nothing_is_left(own_redis: RedisServer) -> None:
    loop = asyncio.get_running_loop()
    async with Proxy(own_redis.port) as proxy, linked(f"redis://127.0.0.1:{proxy.port}") as (link, recorder):
        link.subscribe(b"c")
        await recorder.until("confirmed", b"c")
        await eventually(lambda: link.status.probe_age is not None)
        proxy.downward.flow = Flow.SWALLOW_PUSHES
        swallowed_at = loop.time()
        await recorder.until("lost")
        assert "nothing is delivered: probe" in link.problem
        # Two heartbeats by design; the rest is for a busy machine.
        assert loop.time() - swallowed_at < 2 * HEARTBEAT + BUSY
        assert recorder.metrics.probes_lost == 1
        proxy.downward.flow = Flow.PASS
        await recorder.until("gap", b"c")


async def test_a_user_who_may_not_publish_is_served_without_a_probe(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture, audited: None
) -> None:
    """Nor may this user ask what an audit asks."""
    own_redis("ACL", "SETUSER", "wsd", "on", ">s3cret", "+@connection", "+subscribe", "+unsubscribe", "&*")
    async with linked(f"redis://wsd:s3cret@127.0.0.1:{own_redis.port}") as (link, recorder):
        link.subscribe(b"c")
        await recorder.until("confirmed", b"c")
        await eventually(lambda: link.status.unprobed)
        await asyncio.sleep(3 * HEARTBEAT)
        assert link.healed
        assert recorder.count("lost") == 0
        assert "is not probed" in caplog.text
        assert "permit the Redis user +publish" in caplog.text
        await eventually(lambda: "not probed: permit" in link.status.line)


@pytest.fixture
def audited(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is an audit at each beat."""
    monkeypatch.setattr(vitals_module, "AUDIT_INTERVAL", 0.0)


async def drop_subscription(link: Link, channel: bytes) -> None:
    """Make Redis drop a subscription, without the link seeing it."""
    wire = link._wire
    assert wire is not None
    see, wire._on_change = wire._on_change, lambda *change: None
    wire.send("UNSUBSCRIBE", channels=(channel,), on_reply=lambda reply: None)
    await wire.ask("PING")
    wire._on_change = see


async def test_the_audit_finds_a_subscription_that_is_dead(own_redis: RedisServer, audited: None) -> None:
    async with linked(own_redis.url) as (link, recorder):
        for number in range(1200):
            link.subscribe(b"%d" % number)
        await eventually(lambda: link.confirmed == 1200)
        await drop_subscription(link, b"777")
        assert own_redis.publish("777", "missed") == 0
        await recorder.until("gap", b"777")
        assert recorder.count("gap") == 1
        assert own_redis.publish("777", "x") == 1
        assert recorder.metrics.dead_subscriptions == 1
        assert recorder.metrics.link_failures == 0


async def test_the_audit_finds_a_dead_subscription_although_others_listen(
    own_redis: RedisServer, audited: None
) -> None:
    async with linked(own_redis.url) as (link, recorder), linked(own_redis.url) as (other, heard):
        for one, record in ((link, recorder), (other, heard)):
            one.subscribe(b"a")
            one.subscribe(b"b")
            await record.until("confirmed", b"b")
        await drop_subscription(link, b"a")
        await recorder.until("gap", b"a")
        assert "Redis has only 2 of 3 subscriptions" in link.problem or link.healed
        await eventually(lambda: own_redis.publish("a", "x") == 2)
        assert heard.count("gap") == 0


async def test_one_audit_finds_all_dead_subscriptions(own_redis: RedisServer) -> None:
    """Those that nobody else listens to, and the others."""
    async with linked(own_redis.url) as (link, recorder), linked(own_redis.url) as (other, heard):
        for channel in (b"a", b"b"):
            link.subscribe(channel)
            await recorder.until("confirmed", channel)
        other.subscribe(b"a")
        await heard.until("confirmed", b"a")
        for channel in (b"a", b"b"):
            await drop_subscription(link, channel)
        link._vitals._audit_at = 0.0
        await recorder.until("gap", b"a")
        await recorder.until("gap", b"b")
        await eventually(lambda: (own_redis.publish("a", "x"), own_redis.publish("b", "x")) == (2, 1))


async def test_an_audit_that_finds_nothing_changes_nothing(own_redis: RedisServer, audited: None) -> None:
    async with linked(own_redis.url) as (link, recorder):
        for channel in (b"message", b"subscribe", b"pmessage"):  # words that replies and pushes share
            link.subscribe(channel)
        await eventually(lambda: link.confirmed == 3)
        await asyncio.sleep(3 * HEARTBEAT)
        link.subscribe(b"late")
        await recorder.until("confirmed", b"late")
        await asyncio.sleep(HEARTBEAT)
        assert link.up
        assert recorder.count("lost") == recorder.count("message") == 0


async def test_a_standstill_of_the_loop_is_no_silence_of_redis(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even when that is over, and what came meanwhile is still to be read: the answer stands behind it."""
    async with linked(own_redis.url) as (link, _):
        wire = link._wire
        assert wire is not None
        stood_still: list[float] = []
        monkeypatch.setattr(wire, "stood_still", stood_still.append)
        sleep(3 * HEARTBEAT)  # noqa: ASYNC251 - the loop is to stand still
        await eventually(lambda: stood_still, "the next look")
        assert 2 * HEARTBEAT < stood_still[0] < 3 * HEARTBEAT
        assert link.up


async def test_an_overrun_is_named(own_redis: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    own_redis("CONFIG", "SET", "client-output-buffer-limit", "pubsub 1mb 0 0")
    async with linked(own_redis.url) as (link, recorder):
        link.subscribe(b"c")
        await recorder.until("confirmed", b"c")
        await eventually(lambda: link.status.probe_age is not None, "a probe, and so the answer to INFO before it")
        while own_redis.publish("c", b"x" * 100_000):
            pass  # this holds up the loop
        await recorder.until("gap", b"c")
        await eventually(lambda: recorder.metrics.link_overruns == 1)
        assert "client-output-buffer-limit pubsub" in caplog.text
        own_redis("CLIENT", "KILL", "TYPE", "pubsub")
        await eventually(lambda: recorder.count("gap") == 2)
        await eventually(lambda: link.status.probe_age is not None, "a probe of the new connection")
        assert recorder.metrics.link_overruns == 1, "this was none"


# A replica.


async def test_a_replica_is_of_use_while_it_hears_its_master(
    make_redis: Callable[..., RedisServer], caplog: pytest.LogCaptureFixture
) -> None:
    master = make_redis("--repl-diskless-sync-delay", "0")
    replica = make_redis("--replicaof", "127.0.0.1", str(master.port))
    replica("ACL", "SETUSER", "wsd", "on", ">s3cret", "+@connection", "+@pubsub", "&*")
    async with linked(replica.url) as (link, recorder), linked(f"redis://wsd:s3cret@{replica.url[8:]}"):
        assert "whether it hears its master can't be told: NOPERM" in caplog.text
        link.subscribe(b"c")
        await recorder.until("confirmed", b"c")
        await eventually(lambda: link.status.probe_age is not None)
        master.publish("c", "x")
        await recorder.until("message", b"c", b"x")
        master.stop()
        await eventually(lambda: "it is a replica that does not hear its master" in link.problem)
        connects = recorder.metrics.link_connects
        await eventually(lambda: recorder.metrics.link_failures > 2)
        assert recorder.metrics.link_connects == connects, "one gap is announced, when it hears it again"
        master.start()
        await recorder.until("gap", b"c")
        await eventually(lambda: link.healed)


# Sharded Pub/Sub without a cluster.


@needs_sharding
async def test_sharded_channels_of_a_single_redis(redis: RedisServer, audited: None) -> None:
    async with linked(redis.url, dialect=SHARDED) as (link, recorder):
        for number in range(100):
            link.subscribe(b"shard-%d" % number)
        await eventually(lambda: recorder.count("confirmed") == 100)
        assert redis("SPUBLISH", "shard-7", "x") == 1
        await recorder.until("message", b"shard-7", b"x")
        assert redis.publish("shard-7", "classic") == 0
        await eventually(lambda: link.status.probe_age is not None)
        await asyncio.sleep(2 * HEARTBEAT)  # audits
        assert link.healed
        assert recorder.metrics.dead_subscriptions == recorder.metrics.link_failures == 0


@needs_sharding
async def test_a_cluster_is_not_a_single_redis(make_redis: Callable[..., RedisServer]) -> None:
    node = make_redis("--cluster-enabled", "yes")  # it has no slots
    async with linked(node.url, dialect=SHARDED) as (link, recorder):
        link.subscribe(b"c")
        await eventually(lambda: link.astray)
        await asyncio.sleep(2 * HEARTBEAT)
        await eventually(lambda: link.astray, "astray although it was tried again")
        assert link.up
        assert recorder.events == []


async def test_a_redis_that_has_paused_writes_is_not_left(own_redis: RedisServer) -> None:
    """Nobody can publish meanwhile, so that nothing is missed."""
    if redis_version() < (6, 2):
        pytest.skip("CLIENT PAUSE WRITE needs Redis 6.2")
    async with linked(own_redis.url) as (link, recorder):
        link.subscribe(b"c")
        await recorder.until("confirmed", b"c")
        await eventually(lambda: link.status.probe_age is not None)
        before = returned_at(link)
        own_redis("CLIENT", "PAUSE", 6 * int(1000 * HEARTBEAT), "WRITE")
        await asyncio.sleep(5 * HEARTBEAT)
        assert recorder.count("lost") == 0
        await eventually(lambda: returned_at(link) > before)
        assert recorder.count("lost") == 0
        own_redis.publish("c", "x")
        await recorder.until("message", b"c", b"x")


@needs_namespaces
async def test_a_network_that_dies_looks_like_paused_writes_only_until_the_kernel_tells() -> None:
    """When it dies between the answer to PING and that to PUBLISH, Redis might as well have paused writes."""
    if redis_version() < (6, 2):
        pytest.skip("CLIENT PAUSE WRITE needs Redis 6.2")
    server = await asyncio.to_thread(RedisAfar)
    try:
        async with linked(server.url) as (link, recorder):
            await eventually(lambda: link.status.probe_age is not None)
            server("CLIENT", "PAUSE", 100_000, "WRITE")
            wire = link._wire
            assert wire is not None
            await eventually(lambda: wire.unanswered == "PUBLISH" and wire.waiting(monotonic()) > 2 * HEARTBEAT)
            server.lose_the_way()
            await eventually(lambda: not link.up)
            # Else it would be "no answer to PUBLISH", after PAUSED_HEARTBEATS.
            assert wire.closed.result() == "connection lost: [Errno 110] Connection timed out"
            assert recorder.count("lost") == 1
    finally:
        await asyncio.to_thread(server.remove)
