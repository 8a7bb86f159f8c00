"""Several commands together, from a token to a message; and the end of each by Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import jwt
import pytest

from bench.processes import free_port
from tests.lib.pipe import redis_subscriber
from tests.lib.programs import SECRET, WSD, Command, Daemon, refused, tailing, wsd
from tests.lib.servers import RedisServer

StartDaemon = Callable[..., Daemon]


def test_from_publish_to_tail_with_a_token(
    redis: RedisServer, start_daemon: StartDaemon, key_file: Path, topic: str
) -> None:
    flags = ("--jwt-key-file", str(key_file), "--jwt-audience=clients", "--jwt-issuer=us")
    daemon = start_daemon(
        *("--port=0", "--admin-port=0", "--channel-prefix=app:", "--redis-url", redis.url, *flags),
        WSD_REQUIRE_TOPICS_CLAIM="true",
    )
    signed = wsd("token", *flags, "--subject=alice", "--topics", f"{topic},other.*", "--expires=5m")
    assert (signed.returncode, signed.stderr) == (0, b"")
    token = signed.stdout.decode().removesuffix("\n")
    claims = jwt.decode(token, SECRET, algorithms=["HS256"], audience="clients", issuer="us")
    assert claims["sub"] == "alice"
    assert claims["topics"] == [topic, "other.*"]
    assert claims["exp"] - claims["iat"] == 300

    def send(payload: str) -> str:
        done = wsd("publish", topic, payload, "--redis-url", redis.url, "--channel-prefix", "app:")
        assert (done.returncode, done.stderr) == (0, b"")
        return done.stdout.decode()

    assert send("too early") == f"0 subscribers: nobody listens to the channel app:{topic}\n"
    payload = '{"digits": 1.10e+1, "b":[], "a":"\\u00e9",\n "a":"é"}'
    with tailing(topic, "--count=2", "--url", daemon.url, WSD_TOKEN=token) as client:
        assert send(payload) == "1 subscriber\n"
        assert client.out.next() == payload.replace("\n", " ").encode()
        send("not JSON")
        assert client.out.next() == b'"not JSON"'
        assert client.end() == 0

    # What the token doesn't permit, no token, and a wrong one.
    (line,) = refused(1, "tail", "elsewhere", "--url", daemon.url, WSD_TOKEN=token)
    assert line.startswith("elsewhere: ") and line.endswith("(forbidden_topic)")
    (line,) = refused(1, "tail", topic, "--url", daemon.url)
    assert "--token-file" in line and "WSD_TOKEN" in line
    (line,) = refused(1, "tail", topic, "--url", daemon.url, WSD_TOKEN=token[:-4])
    assert "refused the token" in line

    # From a file; and signed by itself, with what the settings hold.
    file = key_file.with_name("token")
    file.write_text(signed.stdout.decode())
    for more in (("--token-file", str(file)), flags):
        with tailing(topic, "--count=1", "--url", daemon.url, *more) as client:
            send("1")
            assert client.out.next() == b"1"
            assert client.end() == 0


@pytest.mark.parametrize("command", ["publish", "tail"])
def test_ctrl_c_shows_no_traceback(command: str, redis: RedisServer, topic: str) -> None:
    args = {"publish": ["--redis-url", redis.url], "tail": ["--url", f"ws://127.0.0.1:{free_port()}"]}[command]
    with Command([*WSD, command, topic, *args]) as program:
        if command == "tail":
            program.err.wait_for("reconnecting in")
            assert program.end(signal.SIGINT) == 0
        else:
            with redis_subscriber(redis, topic) as messages:
                program.stdin.write(b"x\n")
                program.stdin.flush()
                assert next(messages) == b"x"
            assert program.end(signal.SIGINT) == 130
