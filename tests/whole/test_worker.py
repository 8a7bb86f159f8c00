"""The whole daemon on a real Redis: two replicas, Redis's faults, signals."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import jwt
import pytest
import websocket

from bench.processes import free_port, plain_environment
from tests.lib.clients import Client, Closed
from tests.lib.pipe import ask
from tests.lib.programs import Daemon
from tests.lib.servers import RedisServer, serving
from tests.lib.waiting import PATIENCE, eventually
from wsd.clients import session as session_module
from wsd.delivery import fanout
from wsd.worker.alone import LoneWorker

GAP = {"action": "gap", "message": "messages may have been missed"}


async def test_a_message_reaches_every_subscriber_on_every_replica_once(redis: RedisServer) -> None:
    async with serving(redis) as one, serving(redis) as other:
        clients = [await Client(worker.port).__aenter__() for worker in (one, other) for _ in range(10)]
        for client in clients:
            await client.subscribe("all", "all")
        assert redis.publish("all", '{"to":"all"}') == 2, "one subscription per replica, however many clients"
        redis.publish("all", '"end"')
        for client in clients:
            assert (await client.receive())["snapshot"] == {"to": "all"}
            assert (await client.receive())["snapshot"] == "end"
            client.writer.close()


async def test_a_publish_after_the_confirmation_always_arrives_first(redis: RedisServer) -> None:
    """Fifty clients subscribe to one new topic at the same time; each publishes as soon as it is confirmed."""
    async with serving(redis) as worker:

        async def take_part(number: int) -> None:
            async with Client(worker.port) as client:
                await client.subscribe("race")
                await asyncio.to_thread(redis.publish, "race", str(number))
                while (await client.receive())["snapshot"] != number:
                    pass

        await asyncio.gather(*(take_part(number) for number in range(50)))
        assert len(worker.topics) == 0


async def test_messages_of_many_topics_come_in_the_order_of_redis(redis: RedisServer) -> None:
    async with serving(redis) as worker, Client(worker.port) as client:
        await client.subscribe(*(f"order-{number}" for number in range(5)))
        await asyncio.to_thread(lambda: [redis.publish(f"order-{number % 5}", str(number)) for number in range(500)])
        assert [(await client.receive())["snapshot"] for _ in range(500)] == list(range(500))


async def test_a_topic_is_not_a_pattern_and_has_the_prefix(redis: RedisServer) -> None:
    async with serving(redis, channel_prefix="app:") as worker, Client(worker.port) as client:
        await client.subscribe("a*", "[b]", "é")
        assert redis.publish("app:abc", "1") == 0
        assert redis.publish("a*", "1") == 0
        assert redis.publish("app:é", "1") == 1
        assert await client.receive() == {"action": "message", "topic": "é", "snapshot": 1}


async def test_nothing_comes_after_unsubscribed(redis: RedisServer) -> None:
    async with serving(redis) as worker, Client(worker.port) as client, Client(worker.port) as stays:
        await client.subscribe("leave")
        await stays.subscribe("leave")
        assert (await client.call("unsubscribe", "leave"))["message"] == "context unsubscribed"
        redis.publish("leave", "1")
        await stays.receive()
        client.send({"action": "ping"})
        assert await client.receive() == {"action": "pong"}


async def test_a_broken_link_is_announced_before_the_next_message(own_redis: RedisServer) -> None:
    async with serving(own_redis) as worker, Client(worker.port) as client, Client(worker.port) as fresh:
        await client.subscribe("gap-1", "gap-2")
        own_redis.stop()
        await eventually(lambda: not worker.source.up)
        fresh.request("subscribe", "gap-1")
        own_redis.start()
        await eventually(lambda: worker.source.healed)
        for topic in ("gap-1", "gap-2"):
            own_redis.publish(topic, "1")
        received = [await client.receive() for _ in range(4)]
        for topic in ("gap-1", "gap-2"):
            about = [message for message in received if message["topic"] == topic]
            assert about == [GAP | {"topic": topic}, {"action": "message", "topic": topic, "snapshot": 1}]
        # Whoever came during the outage has missed nothing that was promised.
        assert [(await fresh.receive())["action"] for _ in range(2)] == ["subscribe", "message"]
        assert worker.metrics.gaps == 2
        assert worker.metrics.gap_notices == 2


async def test_gap_notices_can_be_switched_off(own_redis: RedisServer) -> None:
    async with serving(own_redis, gap_notices=False) as worker, Client(worker.port) as client:
        await client.subscribe("t")
        own_redis("CLIENT", "KILL", "TYPE", "pubsub")
        await eventually(lambda: worker.metrics.link_connects == 2 and worker.source.healed)
        own_redis.publish("t", "1")
        assert (await client.receive())["action"] == "message"


async def test_subscribing_while_redis_is_away_is_unavailable_after_a_while_and_works_later(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "SUBSCRIBE_TIMEOUT", 0.3)
    own_redis.stop()
    async with serving(own_redis, wait=False) as worker, Client(worker.port) as client:
        client.request("subscribe", "away", id=1)
        client.send({"action": "ping", "id": 2})
        error = await client.receive()
        assert (error["code"], error["id"]) == ("unavailable", 1)
        assert await client.receive() == {"action": "pong", "id": 2}
        assert not len(worker.topics)
        monkeypatch.setattr(session_module, "SUBSCRIBE_TIMEOUT", 10)
        client.request("subscribe", "away", id=3)
        own_redis.start()
        assert (await client.receive())["message"] == "context subscribed"


async def test_a_channel_that_redis_refuses_is_unavailable_for_that_request_alone(own_redis: RedisServer) -> None:
    own_redis("ACL", "SETUSER", "wsd", "on", ">pw", "+@connection", "+@pubsub", "resetchannels", "&open-*")
    async with serving(f"redis://wsd:pw@127.0.0.1:{own_redis.port}") as worker, Client(worker.port) as client:
        for number, topic in enumerate(("open-1", "closed", "open-2")):
            client.request("subscribe", topic, id=number)
        replies = [await client.receive() for _ in range(3)]
        assert [reply["id"] for reply in replies] == [0, 1, 2]
        assert [reply.get("code") for reply in replies] == [None, "unavailable", None]


@pytest.mark.parametrize(
    ("host", "named"),
    [("web-1.example", "web-1.example"), ("Büro PC\n2", "B-ro-PC-2"), ("", "")],
)
async def test_redis_can_tell_whose_connection_it_is(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch, host: str, named: str
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: host)
    port = free_port()
    async with serving(own_redis, port=port):
        assert f" name=wsd:{named}:{port}:{os.getpid()} " in ask(own_redis.port, "CLIENT", "LIST")


async def test_redis_faults_lose_nothing_without_a_gap(own_redis: RedisServer) -> None:
    """Numbered messages throughout: in order, never twice, and every hole lies under an announced gap."""
    async with serving(own_redis, redis_heartbeat=0.4) as worker, Client(worker.port) as client:
        await client.subscribe("numbered")
        for fault in (
            own_redis.stop,
            own_redis.freeze,
            lambda: own_redis("CLIENT", "KILL", "TYPE", "pubsub"),
            own_redis.stop,
        ):
            losses = worker.metrics.gaps
            fault()
            await eventually(partial(_more_gaps, worker, losses))
            if fault == own_redis.freeze:
                own_redis.thaw()
            elif own_redis.process.status is not None:
                own_redis.start()
            await eventually(lambda: worker.source.healed)
            for number in range(20):
                own_redis.publish("numbered", str(number))
            received = [await client.receive() for _ in range(21)]
            assert received[0] == GAP | {"topic": "numbered"}
            assert [message["snapshot"] for message in received[1:]] == list(range(20))


def _more_gaps(worker: LoneWorker, before: int) -> bool:
    return worker.metrics.gaps > before


@pytest.mark.parametrize("topics", [1, 2, 50])
async def test_a_burst_over_topics_in_turn_costs_those_who_do_not_read_their_bound(
    redis: RedisServer, topics: int
) -> None:
    """Each message is on another topic than the one before. Those who read get all of it, in order."""
    names = [f"burst-{number}" for number in range(topics)]
    messages, padding = 6000, "x" * 900
    async with serving(redis, max_backlog="1MiB", max_backlog_age=600) as worker, Client(worker.port) as reading:
        await reading.subscribe(*names)
        stalled = [await Client(worker.port, receive_buffer=4096).__aenter__() for _ in range(20)]
        for client in stalled:
            await client.subscribe(*names)
        before = _resident()
        most = 0

        def look() -> None:
            nonlocal most
            most = max(most, *(connection.backlog_bytes for connection in worker.gateway.connections))

        burst = [(names[number % topics], json.dumps([number, padding])) for number in range(messages)]
        publishing = asyncio.create_task(asyncio.to_thread(redis.publish_all, burst))
        for number in range(messages):
            snapshot = (await reading.receive())["snapshot"]
            assert snapshot[0] == number
            look()
        await publishing
        await eventually(lambda: worker.metrics.slow_consumers["bytes"] == len(stalled), "the end of those who stall")
        assert most <= 2**20
        assert _resident() - before < 40 * 2**20  # they share what waits for them; a copy for each would be 120 MiB
        assert worker.metrics.internal_errors == 0
        for client in stalled:
            client.writer.transport.abort()


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def test_hundreds_of_stalled_clients_do_not_grow_the_memory(redis: RedisServer) -> None:
    async with serving(redis, max_backlog="1MiB", max_backlog_age=600) as worker, Client(worker.port) as reading:
        await reading.subscribe("memory")
        stalled = [await Client(worker.port, receive_buffer=4096).__aenter__() for _ in range(300)]
        for client in stalled:
            await client.subscribe("memory")
        before, payload, behind = _resident(), json.dumps("x" * 100_000), 0
        # The kernel takes some megabytes for each; then everything waits here, for half a backlog.
        while behind < 5:
            await asyncio.to_thread(redis.publish, "memory", payload)
            assert len(await reading.receive_bytes()) > 100_000
            behind += sum(connection.lagging for connection in worker.gateway.connections) == len(stalled)
        assert sum(connection.backlog_bytes for connection in worker.gateway.connections) > len(stalled) * 400_000
        # What waits is shared. One copy for each stalled client would be 120 MiB.
        assert _resident() - before < 30 * 2**20
        for client in stalled:
            client.writer.transport.abort()


async def test_what_the_fan_out_has_no_room_for_stays_in_redis(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages are so long that what is read at a time has few of them."""
    monkeypatch.setattr(fanout, "MAX_WAITING", 1_000_000)
    monkeypatch.setattr(fanout, "STEP", 1)
    monkeypatch.setattr(fanout, "SLICE", 0.0)
    deliver, waited = fanout.Fanout.deliver, []

    def spied(self: fanout.Fanout, *args: Any) -> None:
        deliver(self, *args)
        waited.append(self._waiting)

    monkeypatch.setattr(fanout.Fanout, "deliver", spied)
    async with serving(redis, max_backlog="64MiB", max_backlog_age=600) as worker, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Client(worker.port)) for _ in range(40)]
        for client in clients:
            await client.subscribe("much")
        messages = [("much", json.dumps([number, "x" * 30_000])) for number in range(300)]
        publishing = asyncio.create_task(asyncio.to_thread(redis.publish_all, messages))
        for number in range(300):
            for client in clients:
                assert (await client.receive())["snapshot"][0] == number
        await publishing
    assert 1_000_000 < max(waited) < 1_000_000 + 2 * 2**18


# In a process of its own.

KEY = "0123456789abcdef" * 4


def connect(daemon: Daemon, topic: str) -> websocket.WebSocket:
    """A subscriber, by a library that shares no code with the server's."""
    client = websocket.create_connection(daemon.url, timeout=PATIENCE)
    client.recv()
    session = json.loads(client.recv())["session"]
    token = jwt.encode({"exp": time.time() + 60}, KEY, algorithm="HS256")
    for action, context in (("authorization", token), ("subscribe", topic)):
        client.send(json.dumps({"action": action, "session": session, "context": context}))
        reply = json.loads(client.recv())["message"]
        if reply not in ("session authenticated", "context subscribed"):
            hang_up(client)
            raise PermissionError(reply)
    return client


def hang_up(client: websocket.WebSocket) -> None:
    """Close the socket without a closing handshake."""
    assert client.sock is not None
    client.sock.close()


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text(KEY)
    return path


@pytest.fixture
def start(start_daemon: Callable[..., Daemon], redis: RedisServer, key_file: Path) -> Callable[..., Daemon]:
    def start(*flags: str) -> Daemon:
        daemon = start_daemon(
            *("--port", "0", "--admin-port", "0", "--redis-url", redis.url, "--jwt-key-file", str(key_file)), *flags
        )
        daemon.wait_until_ready()
        return daemon

    return start


def test_two_replicas_in_processes_of_their_own(redis: RedisServer, start: Callable[..., Daemon]) -> None:
    clients = [connect(start(), "replicas") for _ in range(2)]
    assert redis.publish("replicas", '{"n": 1}') == 2
    for client in clients:
        assert client.recv() == '{"action":"message","topic":"replicas","snapshot":{"n": 1}}'
        client.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_ends_with_status_0(start: Callable[..., Daemon], number: int) -> None:
    daemon = start("--drain-seconds", "0.2")
    clients = [connect(daemon, "drain") for _ in range(5)]
    daemon.signal(number)
    for client in clients:
        opcode, frame = client.recv_data_frame()
        assert (opcode, frame.data[:2]) == (websocket.ABNF.OPCODE_CLOSE, (1012).to_bytes(2, "big"))
        hang_up(client)
    assert daemon.wait() == 0


def test_a_second_signal_stops_at_once(start: Callable[..., Daemon]) -> None:
    daemon = start("--drain-seconds", "600")
    clients = [connect(daemon, "now") for _ in range(3)]
    daemon.signal(signal.SIGTERM)
    daemon.wait_for("draining")
    assert urllib.request.urlopen(f"{daemon.admin}/healthz").status == 200
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0
    for client in clients:
        hang_up(client)


def test_sighup_takes_new_settings_and_keeps_the_old_ones_if_one_is_wrong(
    start: Callable[..., Daemon], key_file: Path, tmp_path: Path
) -> None:
    config = tmp_path / "wsd.toml"
    config.write_text("")
    daemon = start("--drain-seconds", "0", "--config", str(config))
    key_file.write_text("short")
    config.write_text("max_topics = 0")
    daemon.signal(signal.SIGHUP)
    said = [daemon.wait_for("reload failed"), daemon.wait_for("reload failed")]
    assert any("max_topics: 0" in line for line in said) and any("jwt_key_file" in line for line in said)
    hang_up(connect(daemon, "old-key"))
    key_file.write_text("another key, which no token here is signed with, of sixty-four bytes or more")
    config.write_text('max_topics = 7\nlog_level = "debug"\nadmin_host = "127.0.0.2"')
    daemon.signal(signal.SIGHUP)
    assert "admin_host" in daemon.wait_for("needs a restart")
    line = daemon.wait_for("reloaded")
    assert "new are jwt_key, max_topics, log_level; changed, which needs a restart: admin_host" in line
    exposed = urllib.request.urlopen(f"{daemon.admin}/metrics").read().decode()
    assert 'wsd_reloads_total{result="done"} 1.0' in exposed
    assert 'wsd_reloads_total{result="failed"} 1.0' in exposed
    with pytest.raises(PermissionError):
        connect(daemon, "new-key")
    daemon.signal(signal.SIGHUP)
    line = daemon.wait_for("reloaded")
    assert "no setting has changed; changed, which needs a restart: admin_host" in line
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0
    log = "".join(daemon.log)
    assert "short" not in log
    assert KEY not in log
    assert "another key" not in log


def test_the_log_never_shows_a_token_or_breaks_a_line(start: Callable[..., Daemon]) -> None:
    daemon = start("--drain-seconds", "0", "--log-level", "debug")
    client = websocket.create_connection(daemon.url, timeout=PATIENCE)
    client.recv()
    session = json.loads(client.recv())["session"]
    secret = jwt.encode({"exp": 1, "sub": "x\nFORGED"}, KEY, algorithm="HS256")
    for context in (secret, "a.b.c", "\n\x1b[31mFORGED"):
        client.send(json.dumps({"action": "authorization", "session": session, "context": context}))
        assert json.loads(client.recv())["message"] == "session unauthorized"
        client.send(json.dumps({"action": "subscribe\nFORGED", "session": session, "context": context}))
        assert json.loads(client.recv())["code"] == "unknown_action"
    hang_up(client)
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0
    log = "".join(daemon.log)
    assert "session unauthorized" in log or "unauthorized" in log
    assert secret not in log
    assert secret.split(".")[2] not in log
    assert not any(line.startswith("FORGED") for line in daemon.log)
    assert "\x1b" not in log


async def test_a_client_that_was_closed_cannot_speak(redis: RedisServer) -> None:
    async with serving(redis, max_violations=1) as worker, Client(worker.port) as client:
        client.send("rubbish")
        await client.receive()
        with pytest.raises(Closed):
            client.send({"action": "ping"})
            await client.receive()


def test_signals_that_others_take_for_a_reload_end_nothing(start: Callable[..., Daemon]) -> None:
    daemon = start("--drain-seconds", "0")
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        daemon.signal(number)
        daemon.wait_for(f"{number.name} means nothing")
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0


EARLY = """
import os, signal, sys
from wsd import cli
whole = cli.import_quietly
early = os.environ.pop("EARLY", "")  # workers, which run this program too, have it no more
def signalled(name):
    os.kill(os.getpid(), signal.Signals[early])  # before the libraries are imported
    cli.import_quietly = whole
    return whole(name)
if early:
    cli.import_quietly = signalled
sys.exit(cli.main())
"""


class EarlyDaemon(Daemon):
    """Gets the signal that the variable EARLY names in the first moment of its life."""

    program = (sys.executable, "-c", EARLY)


@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1", "SIGUSR2"])
def test_a_signal_that_comes_before_the_handlers_is_done_behind_them(name: str, redis: RedisServer) -> None:
    flags = ("--auth", "none", "--port", "0", "--admin-port", "0", "--drain-seconds", "0", "--redis-url", redis.url)
    daemon = EarlyDaemon(*flags, EARLY=name)
    try:
        said = "reloaded: " if name == "SIGHUP" else f"{name} means nothing"
        if not any(said in line for line in list(daemon.log)):
            daemon.wait_for(said)
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
    finally:
        daemon.kill()


def test_sigterm_in_the_first_moment_ends_it_at_once() -> None:
    done = subprocess.run(
        [sys.executable, "-c", EARLY, "serve"],
        env=plain_environment(EARLY="SIGTERM"),
        capture_output=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == -signal.SIGTERM


def test_at_debug_level_a_session_can_be_followed(start: Callable[..., Daemon]) -> None:
    daemon = start("--drain-seconds", "0", "--log-level", "debug", "--log-format", "json")
    hang_up(connect(daemon, "followed-\u00e9"))
    daemon.wait_for("gone")
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0
    entries = [json.loads(line) for line in daemon.log]
    life = [entry for entry in entries if entry["logger"] == "wsd.clients.connection"]
    said = [entry["message"].split(": ", 1)[1] for entry in life]
    topic = r"'followed-\xe9'"
    assert said == [
        *("connected", "authorized", f"asks for the topic {topic}", f"listens to the topic {topic}"),
        *(f"leaves the topic {topic}", "the connection is gone"),
    ]
    assert len({(entry["peer"], entry["session"]) for entry in life}) == 1
    assert life[2]["topic"] == "followed-\u00e9"
    assert any(entry.get("link", "").startswith("Redis") for entry in entries)
