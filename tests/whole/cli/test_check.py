"""``wsd check``: what it prints, what it finds wrong, and what it finds out about Redis."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from bench.processes import free_port, plain_environment
from tests import ROOT
from tests.lib.programs import SECRET, WSD, Daemon, refused, trying, wsd
from tests.lib.servers import RedisServer, Sentinel
from tests.lib.topologies import ClusterOfThree
from wsd.config import Settings

StartDaemon = Callable[..., Daemon]


def test_check_prints_every_setting_and_no_secret(key_file: Path) -> None:
    done = wsd(
        *("check", "--port", "4000"),
        WSD_REDIS_URL="redis://alice:hunter2@redis.example:7000/0",
        WSD_JWT_KEY=SECRET,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode()
    shown = {line.split()[0]: line.split()[1:] for line in text.splitlines()}
    assert shown["port"] == ["4000", "--port"]
    assert shown["redis_url"] == ["redis://***@redis.example:7000/0", "WSD_REDIS_URL"]
    assert shown["jwt_key"] == ["***", "WSD_JWT_KEY"]
    assert shown["jwt_issuer"] == ["default"]
    assert [line.split()[0] for line in text.splitlines()] == list(Settings.model_fields)
    assert "hunter2" not in text and "alice" not in text and SECRET not in text
    places = {line.rindex("  ") for line in text.splitlines()}
    assert len(places) == 1, "the places are not aligned"


def test_check_tries_redis(own_redis: RedisServer) -> None:
    status, line = trying(own_redis.url)
    found = (
        r"redis \S+ \(standalone, master\); logged in as default; channels \*: subscribed, published and received in"
    )
    assert status == 0 and re.search(found, line), line
    for user, permitted in (("sue", "+@connection +@pubsub"), ("bob", "+@connection +subscribe +unsubscribe")):
        own_redis("ACL", "SETUSER", user, "on", ">hunter2", "resetchannels", "&app:*", *permitted.split())
    place = f"127.0.0.1:{own_redis.port}"
    status, line = trying(f"redis://sue:hunter2@{place}", "--channel-prefix=app:")
    assert status == 0 and "logged in as sue; channels app:*: subscribed, published and received" in line
    for url, prefix, words in (
        (f"redis://sue:hunter2@{place}", "else:", "Redis refuses the user sue to subscribe else:*"),
        (f"redis://bob:hunter2@{place}", "app:", "+publish"),
        (f"redis://bob:hunter3@{place}", "app:", "refuses the user or the password"),
        (f"redis+cluster://{place}", "app:", "it is no node of a cluster"),
        (f"redis+sentinel://sue:hunter2@{place}/m", "app:", "no Sentinel tells where m is"),
        (f"redis://127.0.0.1:{free_port()}", "app:", "can't connect to Redis"),
    ):
        status, line = trying(url, "--channel-prefix", prefix)
        assert status == 1 and line.startswith("wsd: connect: ") and words in line, line
    # It leaves nothing behind, and has published to nobody else.
    assert own_redis("PUBSUB", "CHANNELS") == []


def test_check_tries_a_cluster(nodes: ClusterOfThree) -> None:
    status, line = trying(nodes.url(nodes.masters[0].port))
    assert status == 0 and "(cluster, master)" in line and "subscribed, published and received" in line
    status, line = trying(nodes.url(nodes.masters[0].port), "--pubsub=classic")
    assert status == 0 and "subscribed, published and received" in line


def test_check_tries_the_master_of_a_sentinel(watch: Callable[..., Sentinel], own_redis: RedisServer) -> None:
    own_redis("ACL", "SETUSER", "sue", "on", ">hunter2", "resetchannels", "&*", "+@connection", "+@pubsub")
    watcher = watch(own_redis, "user bob on >hunter3 &* +@all")
    query = "?sentinel_username=bob&sentinel_password=hunter3"
    status, line = trying(watcher.url_for("mymaster", query, "sue:hunter2@"))
    assert status == 0 and f"127.0.0.1:{own_redis.port}" in line and "logged in as sue" in line


def test_check_gives_a_frozen_redis_up(own_redis: RedisServer) -> None:
    own_redis.freeze()
    status, line = trying(own_redis.url, "--redis-heartbeat=3600")
    own_redis.thaw()
    assert status == 1 and "no answer to HELLO within 5 s" in line


def test_standard_output_that_cannot_be_written_to() -> None:
    with open("/dev/full", "wb") as full:
        command = [*WSD, "check", "--auth", "none"]
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, env=plain_environment(), cwd=ROOT, check=False
        )
    assert (done.returncode, done.stderr) == (1, b"wsd: can't write to standard output: No space left on device\n")


def test_what_is_no_redis_is_said_in_words(start_daemon: StartDaemon, redis: RedisServer) -> None:
    daemon = start_daemon("--port=0", "--admin-port=0", "--auth=none", "--redis-url", redis.url)
    for port in (daemon.port, daemon.admin_port, redis.port):
        url = f"rediss://127.0.0.1:{port}"
        (line,) = refused(1, "publish", "chat", "x", "--redis-url", url)
        assert "redis:// is without TLS" in line
        status, line = trying(url)
        assert status == 1 and "TLS" in line
    for port in (daemon.port, daemon.admin_port):
        (line,) = refused(1, "publish", "chat", "x", "--redis-url", f"redis://127.0.0.1:{port}")
        assert "what answers is no Redis" in line
        status, line = trying(f"redis://127.0.0.1:{port}")
        assert status == 1 and "can't connect to Redis at" in line
