"""``wsd publish``, with TLS, with Sentinel and on a Cluster."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.processes import free_port, plain_environment
from tests import ROOT
from tests.lib.certificates import certificate
from tests.lib.marks import needs_sharding
from tests.lib.pipe import redis_subscriber
from tests.lib.programs import WSD, Command, Daemon, feed, refused, tailing, wsd
from tests.lib.servers import RedisServer, Sentinel, redis_version
from tests.lib.topologies import ClusterOfThree
from wsd.cli import main
from wsd.cli.publish import publisher

StartDaemon = Callable[..., Daemon]


def test_publish_from_standard_input(redis: RedisServer, start_daemon: StartDaemon, topic: str) -> None:
    daemon = start_daemon("--port=0", "--admin-port=0", "--auth=none", "--redis-url", redis.url)
    payloads = [b"{}", b"", b"\x00\xff\r", b"caf\xc3\xa9", b"x" * 200_000, *(b"%d" % i for i in range(3000)), b"end"]
    with tailing(topic, "--count", str(len(payloads)), "--url", daemon.url) as client:
        done = feed(b"\n".join(payloads), "publish", topic, "--redis-url", redis.url)
        assert (done.returncode, done.stdout) == (0, b"%d payloads, 1 subscriber\n" % len(payloads))
        assert client.end() == 0
        received = client.out.text.splitlines()
    assert received[:4] == ["{}", '""', json.dumps(base64.b64encode(b"\x00\xff\r").decode()), '"café"']
    assert received[4:] == [f'"{"x" * 200_000}"', *map(str, range(3000)), '"end"']


def test_publish_says_that_standard_input_cannot_be_read(redis: RedisServer) -> None:
    command = [*WSD, "publish", "chat", "--redis-url", redis.url]
    with open(os.devnull, "wb") as unreadable:
        done = subprocess.run(
            command, stdin=unreadable, capture_output=True, env=plain_environment(), cwd=ROOT, check=False
        )
    assert (done.returncode, done.stderr) == (1, b"wsd: can't read standard input: Bad file descriptor\n")


def test_publish_does_not_hold_back_lines(redis: RedisServer, topic: str) -> None:
    with redis_subscriber(redis, topic) as messages:
        command = [*WSD, "publish", topic, "--redis-url", redis.url]
        with Command(command) as program:
            for line in (b"first\n", b"second\n"):
                program.stdin.write(line)
                program.stdin.flush()
                assert next(messages) == line.strip()
            program.stdin.close()
            assert program.end() == 0
            assert program.out.text == "2 payloads, 1 subscriber\n"


def test_publish_when_redis_is_away_or_refuses(make_redis: Callable[..., RedisServer]) -> None:
    (line,) = refused(1, "publish", "chat", "x", WSD_REDIS_URL=f"redis://:hunter2@127.0.0.1:{free_port()}")
    assert line.startswith("can't publish at redis://127.0.0.1:") and "hunter2" not in line
    server = make_redis("--requirepass", "hunter2")
    for url in (f"redis://:wrong-one@127.0.0.1:{server.port}", server.url):
        (line,) = refused(1, "publish", "chat", "x", WSD_REDIS_URL=url)
        assert "hunter2" not in line and "wrong-one" not in line
    done = wsd("publish", "chat", "x", WSD_REDIS_URL=f"redis://:hunter2@127.0.0.1:{server.port}")
    assert done.returncode == 0
    (line,) = refused(2, "publish", "chat", "x", "--redis-url", "redis://:hunter2@127.0.0.1")
    assert "hunter2" not in line and "WSD_REDIS_URL" in line


def test_publish_needs_no_more_permission_than_publish(own_redis: RedisServer) -> None:
    own_redis("ACL", "SETUSER", "bob", "on", ">pw", "resetchannels", "&allowed", "+publish")
    url = f"redis://bob:pw@127.0.0.1:{own_redis.port}"
    assert wsd("publish", "allowed", "x", WSD_REDIS_URL=url).returncode == 0
    (line,) = refused(1, "publish", "denied", "private words", WSD_REDIS_URL=url)
    assert "permission" in line and "private words" not in line


Publish = Callable[..., tuple[int, str]]


@pytest.fixture
def publish_here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Publish:
    """Runs ``wsd publish`` in this process, which is faster; returns the status, and what it prints."""

    def run(url: str, *args: str) -> tuple[int, str]:
        monkeypatch.setattr(os, "environ", plain_environment(WSD_REDIS_URL=url))
        status = main(["publish", *args])
        out, err = capsys.readouterr()
        assert not (out and err)
        return status, (out or err).removesuffix("\n")

    return run


def test_publish_with_tls(
    make_redis: Callable[..., RedisServer], publish_here: Publish, topic: str, tmp_path: Path
) -> None:
    cert, key = certificate(tmp_path)
    port = free_port()
    try:
        server = make_redis(
            *("--tls-port", str(port), "--tls-cert-file", cert, "--tls-key-file", key, "--tls-auth-clients", "no")
        )
    except AssertionError:
        pytest.skip("this redis-server is built without TLS")
    server("ACL", "SETUSER", "bob", "on", ">hunter2", "resetchannels", f"&{topic}", "+publish")
    url = f"rediss://127.0.0.1:{port}?ssl_ca_certs={cert}"
    # Redis sends tickets that redis-py must not see, sooner or later after the handshake.
    for several in (url, url.replace("//", "//bob:hunter2@"), url.replace("rediss", "rediss+cluster"), url, url):
        status, line = publish_here(several, topic, "x", "--pubsub", "classic")
        assert (status, line[:13]) == (0, "0 subscribers"), line
    status, line = publish_here(url.partition("?")[0], topic, "x")
    assert status == 1 and "certificate verify failed" in line


def test_publish_asks_sentinel_for_the_master(
    watch: Callable[..., Sentinel], own_redis: RedisServer, publish_here: Publish, topic: str
) -> None:
    watcher = watch(own_redis)
    url = f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{watcher.port}/mymaster/0"
    with redis_subscriber(own_redis, topic) as messages:
        assert publish_here(url, topic, "x") == (0, "1 subscriber")
        assert next(messages) == b"x"


def test_publish_follows_the_master(
    watch: Callable[..., Sentinel], make_redis: Callable[..., RedisServer], topic: str
) -> None:
    old, new = make_redis(), make_redis()
    watcher = watch(old)
    command = [*WSD, "publish", topic, "--redis-url", watcher.url_for("mymaster")]
    with redis_subscriber(old, topic) as before, redis_subscriber(new, topic) as after, Command(command) as program:
        program.stdin.write(b"1\n")
        program.stdin.flush()
        assert next(before) == b"1"
        watcher.watch(new)
        old("CLIENT", "KILL", "TYPE", "normal")  # as Sentinel does at a failover
        program.stdin.write(b"2\n")
        program.stdin.close()
        assert next(after) == b"2"
        assert program.end() == 0


def test_publish_when_no_sentinel_answers(publish_here: Publish, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        mute, dead = (f"127.0.0.1:{port}" for port in (listener.getsockname()[1], free_port()))
        status, line = publish_here(f"redis+sentinel://{mute},{dead}/mymaster", "chat", "x")
    assert status == 1
    assert line.startswith(
        f"wsd: can't publish at the master mymaster of Sentinel at {mute}, {dead}:"
        f" no Sentinel says where mymaster is: {mute}: Timeout"
    )
    assert f"; {dead}: Error 111" in line


def test_publish_with_the_passwords_of_sentinel_and_master(
    watch: Callable[..., Sentinel], make_redis: Callable[..., RedisServer], publish_here: Publish, topic: str
) -> None:
    watcher = watch(
        make_redis("--requirepass", "hunter2"), "requirepass hunter3", "sentinel auth-pass mymaster hunter2"
    )
    query = "?sentinel_password=hunter3"
    assert publish_here(watcher.url_for("mymaster", query, ":hunter2@"), topic, "x")[0] == 0
    for name, options, login, words in (
        ("other", query, ":hunter2@", "does not know it"),
        ("mymaster", "", ":hunter2@", "no Sentinel says where mymaster is: 127.0.0.1:"),
        ("mymaster", "?sentinel_password=hunter4", ":hunter2@", "no Sentinel says where mymaster is: 127.0.0.1:"),
        ("mymaster", query, ":hunter4@", "can't publish at the master mymaster of Sentinel"),
        ("mymaster", query, "", "can't publish at the master mymaster of Sentinel"),
    ):
        status, line = publish_here(watcher.url_for(name, options, login), topic, "x")
        assert status == 1 and words in line and "hunter" not in line


def test_publish_masks_a_password_that_the_answer_repeats(
    make_redis: Callable[..., RedisServer], watch: Callable[..., Sentinel], publish_here: Publish
) -> None:
    watcher = watch(make_redis("--rename-command", "AUTH", ""))
    for login in ("sentinel_password=hunter2", "password=hunter2"):
        status, line = publish_here(watcher.url_for("mymaster", f"?{login}"), "chat", "x")
        assert status == 1 and "hunter2" not in line


@needs_sharding
def test_publish_on_sharded_channels_of_one_server(redis: RedisServer, publish_here: Publish, topic: str) -> None:
    with redis_subscriber(redis, topic, "SSUBSCRIBE") as messages:
        assert publish_here(redis.url, topic, "x", "--pubsub", "sharded") == (0, "1 subscriber")
        assert next(messages) == b"x"


def test_publish_to_a_redis_without_sharded_channels(
    redis: RedisServer, make_redis: Callable[..., RedisServer], publish_here: Publish
) -> None:
    old = make_redis(*(("--rename-command", "SPUBLISH", "") if redis_version() >= (7,) else ()))
    status, line = publish_here(old.url, "chat", "private words", "--pubsub", "sharded")
    assert (status, line) == (1, f"wsd: can't publish at {old.url}: sharded channels need Redis 7.0")


def test_publish_goes_to_the_node_that_has_the_slot(nodes: ClusterOfThree, publish_here: Publish, topic: str) -> None:
    owners = set()
    for number in range(12):
        channel = f"{topic}-{number}"
        owner = nodes.owner(channel)
        owners.add(owner.port)
        with redis_subscriber(owner, channel, "SSUBSCRIBE") as messages:
            for seed in nodes.masters:
                assert publish_here(nodes.url(seed.port), channel, str(seed.port)) == (0, "1 subscriber")
                assert next(messages) == str(seed.port).encode()
    assert len(owners) > 1
    status, line = publish_here(nodes.url(nodes.masters[0].port), topic, "x")
    assert (status, line) == (0, f"0 subscribers: nobody listens to the shard channel {topic}")


def test_publish_of_classic_channels_says_what_is_not_counted(
    nodes: ClusterOfThree, publish_here: Publish, topic: str
) -> None:
    first, second, _ = nodes.masters
    with redis_subscriber(second, topic) as messages:
        for seed, count in ((first, "0 subscribers"), (second, "1 subscriber")):
            status, line = publish_here(nodes.url(seed.port, first.port), topic, "x", "--pubsub", "classic")
            words = f"{count} at 127.0.0.1:{seed.port}; the other nodes' subscribers are not counted"
            assert (status, line) == (0, words)
            assert next(messages) == b"x"


def test_publish_follows_the_slot(nodes: ClusterOfThree, topic: str) -> None:
    owner = nodes.owner(topic)
    other = next(node for node in nodes.masters if node is not owner)
    command = [*WSD, "publish", topic, "--redis-url", nodes.url(other.port)]
    with Command(command) as program:
        with redis_subscriber(owner, topic, "SSUBSCRIBE") as before:
            for line in (b"1", b"2"):
                program.stdin.write(line + b"\n")
                program.stdin.flush()
                assert next(before) == line
        nodes.move(topic, other)
        with redis_subscriber(other, topic, "SSUBSCRIBE") as after:
            program.stdin.write(b"\n".join(b"%d" % number for number in range(3, 1500)))
            program.stdin.close()
            assert [next(after) for _ in range(3, 1500)] == [b"%d" % number for number in range(3, 1500)]
            assert program.end() == 0
            assert program.out.text == "1499 payloads, 1 subscriber\n"


def test_publish_needs_no_permission_in_a_cluster_but_its_command(
    nodes: ClusterOfThree, publish_here: Publish, topic: str
) -> None:
    for node in nodes.masters:
        node("ACL", "SETUSER", "bob", "reset", "on", ">hunter2", f"&{topic}", "+spublish")
    url = nodes.url(nodes.masters[0].port).replace("//", "//bob:hunter2@")
    assert publish_here(url, topic, "x")[0] == 0
    status, line = publish_here(url, "denied", "private words")
    assert status == 1 and "permission" in line and "private words" not in line
    status, line = publish_here(url.replace("hunter2", "hunter3"), topic, "x")
    assert status == 1 and "hunter3" not in line


def test_publish_when_nodes_of_a_cluster_are_away(
    nodes: ClusterOfThree, publish_here: Publish, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        mute, dead = listener.getsockname()[1], free_port()
        monkeypatch.setattr(publisher, "TIMEOUT", 3.0)
        assert publish_here(nodes.url(mute, dead, nodes.masters[0].port), topic, "x")[0] == 0
        monkeypatch.setattr(publisher, "TIMEOUT", 0.1)
        status, line = publish_here(nodes.url(mute, dead), topic, "x")
    assert status == 1
    assert line.startswith(f"wsd: can't publish at the cluster at 127.0.0.1:{mute}, 127.0.0.1:{dead}: Error 111")


def test_publish_says_that_a_server_is_a_node_of_a_cluster(
    nodes: ClusterOfThree, publish_here: Publish, topic: str
) -> None:
    other = next(node for node in nodes.masters if node is not nodes.owner(topic))
    status, line = publish_here(other.url, topic, "x", "--pubsub", "sharded")
    assert status == 1 and line.endswith("it is a node of a Cluster; use redis+cluster://")
