"""Tests of the commands: the real program, in processes of its own, against a real Redis.

What needs a server that misbehaves, or many cases of one thing, is tested in this process.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import queue
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import IO, Any, Self

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.uri import parse_uri

from tests import ROOT
from tests.lib.certificates import certificate
from tests.lib.servers import PATIENCE, Daemon, RedisServer, free_port
from tests.whole.test_sockets import needs_ipv6
from wsd.cli import main
from wsd.cli.dev.hints import hints, program
from wsd.cli.publish import publisher
from wsd.cli.publish import run as publish_module
from wsd.cli.publish.run import payloads
from wsd.cli.tail import causes
from wsd.cli.tail import client as tail
from wsd.cli.tail.tokens import token_source
from wsd.config import Settings, flag_fields
from wsd.errors import CommandError
from wsd.protocol.codes import Close, ErrorCode, Reaction, Remedy
from wsd.protocol.messages import message_head
from wsd.protocol.payload import embed

SECRET = "correct-horse-battery-staple-0123456789"

COMMANDS = ("serve", "dev", "check", "token", "publish", "tail")

StartDaemon = Callable[..., Daemon]


# Running the program


def environment(**more: str) -> dict[str, str]:
    """The environment without settings, and with these."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WSD_", "CREDENTIALS_"))}
    return kept | more


def wsd(*args: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command that ends by itself."""
    return feed(b"", *args, **env)


def feed(stdin: bytes, *args: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    """The same, with something on its standard input."""
    command = [sys.executable, "-m", "wsd", *args]
    done = subprocess.run(
        command, input=stdin, capture_output=True, env=environment(**env), cwd=ROOT, timeout=PATIENCE, check=False
    )
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return done


def refused(status: int, *args: str, **env: str) -> list[str]:
    """Run a command that fails with this status; return its lines on standard error."""
    done = wsd(*args, **env)
    assert (done.returncode, done.stdout) == (status, b""), done
    lines = done.stderr.decode().splitlines()
    assert all(line.startswith("wsd: ") for line in lines), lines
    return [line.removeprefix("wsd: ") for line in lines]


class Program:
    """A command that runs until it is told to stop. What it prints is read by threads."""

    def __init__(self, command: list[str] | str, **env: str) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(**env),
            cwd=ROOT,
            shell=isinstance(command, str),
            start_new_session=True,  # a process group of its own, as a shell gives it
        )
        assert self.process.stdin and self.process.stdout and self.process.stderr
        self.stdin = self.process.stdin
        self.out = Lines(self.process.stdout)
        self.err = Lines(self.process.stderr)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.stdin.close()
        self.out.join()
        self.err.join()

    def wait(self, number: int | None = None) -> int:
        """Send a signal to its process group, as a terminal does, and wait for its end; return the exit status."""
        if number is not None:
            os.killpg(self.process.pid, number)
        status = self.process.wait(PATIENCE)
        self.out.join()
        self.err.join()
        assert "Traceback" not in self.err.text
        return status


class Lines:
    """The lines of a stream, as they come."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._read: list[bytes] = []  # all that came
        self._thread = threading.Thread(target=self._run, args=(stream,))
        self._thread.start()

    def _run(self, stream: IO[bytes]) -> None:
        with stream:
            for line in stream:
                self._read.append(line)
                self._queue.put(line)
        self._queue.put(None)

    def join(self) -> None:
        """Wait for the end of the stream."""
        self._thread.join()

    @property
    def text(self) -> str:
        """All that came."""
        return b"".join(self._read).decode(errors="replace")

    def next(self) -> bytes:
        """The next line, without its end."""
        try:
            line = self._queue.get(timeout=PATIENCE)
        except queue.Empty:
            raise AssertionError(f"no line within {PATIENCE:g} s; before:\n{self.text}") from None
        assert line is not None, f"the stream ended:\n{self.text}"
        return line.removesuffix(b"\n")

    def wait_for(self, words: str) -> str:
        """The next line that has the words."""
        while True:
            line = self.next().decode(errors="replace")
            if words in line:
                return line


def tailing(*args: str, **env: str) -> Program:
    """Run ``wsd tail`` and wait until it is subscribed."""
    program = Program([sys.executable, "-m", "wsd", "tail", *args], **env)
    try:
        program.err.wait_for("subscribed to")
    except BaseException:
        program.__exit__()
        raise
    return program


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text(SECRET + "\n")
    return path


@pytest.fixture
def topic() -> str:
    """A topic that no other test uses."""
    return f"topic-{secrets.token_hex(4)}"


# Help, version, wrong arguments


@pytest.mark.parametrize("flag", ["--version", "-V", "-v"])
def test_version(flag: str) -> None:
    done = wsd(flag)
    assert (done.returncode, done.stdout) == (0, b"wsd 0.1.0\n")


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_is_a_command_too(command: str | None) -> None:
    name = [command] if command else []
    asked = wsd("help", *name)
    assert (asked.returncode, asked.stderr, asked.stdout) == (0, b"", wsd(*name, "--help").stdout)


@pytest.mark.parametrize("columns", [60, 80, 200])
@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_is_readable(command: str | None, columns: int) -> None:
    done = wsd(*([command] if command else []), "--help", COLUMNS=str(columns))
    assert done.returncode == 0
    lines = done.stdout.decode().splitlines()
    # Examples, and words that can be copied, may be longer than a narrow terminal; all else has room.
    prose = [line for line in lines if not re.match("  [^ -]", line) and len(line.split()) > 1]
    assert max(map(len, prose)) <= min(columns, 100)
    assert max(map(len, lines)) <= max(columns, 80)
    # Nothing that can be copied is broken.
    words = set(done.stdout.decode().split())
    wide = set(wsd(*([command] if command else []), "--help", COLUMNS="1000").stdout.decode().split())
    assert {word for word in words if "/" in word or "--" in word} == {
        word for word in wide if "/" in word or "--" in word
    }
    if command:
        assert "examples:" in lines
    else:
        assert all(any(line.split()[:1] == [name] for line in lines) for name in COMMANDS)


def test_help_names_every_flag_with_its_default() -> None:
    help = " ".join(wsd("serve", "--help").stdout.decode().split())
    for name in flag_fields():
        assert f"--{name.replace('_', '-')} " in help
    assert "default: 1MiB" in help
    assert "--gap-notices true|false " in help and "--log-level debug|info|warning|error " in help
    assert "--jwt-key " not in help


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "which command?"),
        (["sevre"], "'sevre': no such command; did you mean serve?"),
        (["help", "pubish"], "'pubish': no such command; did you mean publish?"),
        (["xyz"], "'xyz': no such command; one of serve, dev,"),
        (["--port", "3", "serve"], "--port: the command comes first"),
        (["-"], "-: the command comes first"),
        ([""], "which command?"),
        (["serve", "--prot", "3"], "--prot: no such flag; did you mean --port?"),
        (["serve", "--jwt-key", SECRET], "--jwt-key: a key can't be a flag"),
        (["tail", "chat", f"--jwt-key={SECRET}"], "give --jwt-key-file FILE"),
        (["serve", "--jwt-kye", SECRET], "--jwt-kye: no such flag; did you mean --jwt-key-file?"),
        (["serve", "--ping", "3"], "--ping: no such flag"),  # no abbreviations
        (["publish", "chat", "hello", "world"], "one argument too many: 'world'"),
        (["publish"], "TOPIC"),
        (["publish", "a b", "x"], "white space"),
        (["publish", "__keyspace@0__:x", "x"], "underscores"),
        (["publish", "\udcff", "x"], "not UTF-8"),
        (["publish", "chat", "x", "--redis-url", "redis+sentinel://h"], "the name of the master"),
        (["publish", "chat", "x", "--redis-url", "redis+sentinel://h/m?sentinel_password=x"], "in --redis-url"),
        (["publish", "chat", "x", "--pubsub", "shard"], "'shard' in --pubsub; allowed: auto, classic or sharded"),
        (["tail"], "TOPIC"),
        (["tail", "a\tb"], r"'a\tb': a topic can't contain white space"),
        (["tail", "chat", "--count", "0"], "'0' is not a number from 1"),
        (["tail", "chat", "--timeout", "0"], "'0' is not a number of seconds above 0"),
        (["tail", "chat", "--timeout", "nan"], "'nan' is not a number of seconds above 0"),
        (["tail", "chat", "--url", "http://x"], "expected ws://HOST:PORT"),
        (["tail", "chat", "--url", "ws://x:port"], "expected ws://HOST:PORT"),
        (["tail", "chat", "--url", "ws://a..b"], "expected ws://HOST:PORT"),
        (["tail", "chat", "--url", "ws://%zz"], "expected ws://HOST:PORT"),
        (["tail", "chat", "--url", "ws://a b"], "white space"),
        (["tail", "chat", "--url", "ws://a\n"], "a control character"),
        (["tail", "chat", "--url", "ws://a:0"], "port 0"),
        (["tail", "chat", "--url", ""], "expected ws://HOST:PORT"),
        (["tail", "chat", "--url", "ws://[::1"], "expected ws://HOST:PORT"),
        (["tail", "chat", "--url", "localhost:3000"], "did you mean ws://localhost:3000?"),
        (["tail", "chat", "--port", "0"], "--url"),
        (["token", "--expires", "1"], "'1' is not a number and s, m, h or d"),
        (["token", "--expires", "0s"], "'0s' is not"),
        (["token", "--topics", ","], "names no topic"),
    ],
)
def test_wrong_arguments(
    args: list[str], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", environment())
    assert main(args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("wsd: ") and err.endswith("\n") and err.count("\n") == 1
    assert words in err
    assert SECRET not in err


# check


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


def test_check_masks_what_is_secret_of_sentinels() -> None:
    url = "redis+sentinel://alice:hunter2@h1,h2/mymaster?sentinel_username=bob&sentinel_password=hunter3"
    text = wsd("check", "--auth=none", "--pubsub=Classic", WSD_REDIS_URL=url).stdout.decode()
    assert re.search(
        r"^redis_url +redis\+sentinel://\*\*\*@h1,h2/mymaster\?\*\*\*&\*\*\*  WSD_REDIS_URL$", text, re.MULTILINE
    )
    assert re.search("^pubsub +classic +--pubsub$", text, re.MULTILINE)


def test_check_says_where_each_value_comes_from(tmp_path: Path) -> None:
    (tmp_path / "wsd.toml").write_text("port = 4001\nmax_topics = 3\n")
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "jwt_key").write_text(SECRET)
    (credentials / "max_topics").write_text("4")
    env = {"CREDENTIALS_DIRECTORY": str(credentials), "WSD_CONFIG": f"{tmp_path}/wsd.toml", "WSD_PORT": "4002"}
    text = wsd("check", "--host", "::1", **env).stdout.decode()
    shown = {line.split()[0]: line.split()[1:] for line in text.splitlines()}
    assert shown["host"] == ["::1", "--host"]
    assert shown["port"] == ["4002", "WSD_PORT"]
    assert shown["max_topics"] == ["3", f"{tmp_path}/wsd.toml"]
    assert shown["jwt_key_file"] == [f"{credentials}/jwt_key", "credential", "jwt_key"]
    assert shown["log_level"] == ["info", "default"]
    assert SECRET not in text


def trying(url: str, *args: str) -> tuple[int, str]:
    """Run ``wsd check --connect``; return its status, and the line that says what it found or what is wrong."""
    done = wsd("check", "--auth=none", "--connect", *args, WSD_REDIS_URL=url)
    said = done.stderr if done.returncode else done.stdout
    assert "hunter" not in (done.stdout + done.stderr).decode()
    return done.returncode, said.decode().splitlines()[-1]


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


def test_check_tries_a_cluster(nodes: Nodes) -> None:
    status, line = trying(nodes.url(nodes.masters[0].port))
    assert status == 0 and "(cluster, master)" in line and "subscribed, published and received" in line
    status, line = trying(nodes.url(nodes.masters[0].port), "--pubsub=classic")
    assert status == 0 and "subscribed, published and received" in line


def test_check_tries_the_master_of_a_sentinel(watch: Callable[..., Watcher], own_redis: RedisServer) -> None:
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


def test_check_says_what_is_dangerous() -> None:
    done = wsd("check", "--auth", "none", "--host", "0.0.0.0")
    assert done.returncode == 0
    assert done.stderr.startswith(b"wsd: warning: auth=none on 0.0.0.0")


def test_check_reads_the_config_file(tmp_path: Path) -> None:
    config = tmp_path / "wsd.toml"
    config.write_text('auth = "none"\nport = 4001\n')
    assert b"4001" in wsd("check", "--config", str(config)).stdout
    assert b"4001" in wsd("check", WSD_CONFIG=str(config)).stdout
    assert refused(2, "check", "--config", str(tmp_path / "none.toml"))


@pytest.mark.parametrize("command", ["check", "serve", "dev"])
def test_every_mistake_is_a_line_and_no_line_holds_a_secret(command: str) -> None:
    lines = refused(
        *(2, command, "--port", "70000", "--ping-interval", "soon"),
        WSD_REDIS_URL="http://:hunter2@x",
        WSD_JWT_KEY=SECRET,
        WSD_JWT_KEY_FILE="/nonexistent",
        WSD_AUHT="none",
    )
    assert {"port", "ping_interval", "redis_url", "WSD_AUHT"} <= {line.split(":")[0] for line in lines}
    assert not any("hunter2" in line or SECRET in line for line in lines)


def test_a_certificate_that_cannot_be_read_is_a_mistake() -> None:
    lines = refused(2, "serve", WSD_AUTH="none", WSD_REDIS_URL="rediss://x?ssl_ca_certs=/nonexistent")
    assert len(lines) == 1 and lines[0].startswith("redis_url: ")


def test_the_token_variable_is_no_setting_and_no_mistake() -> None:
    assert wsd("check", WSD_AUTH="none", WSD_TOKEN="x").returncode == 0


def test_standard_output_that_cannot_be_written_to() -> None:
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "wsd", "check", "--auth", "none"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=environment(), cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (1, b"wsd: can't write to standard output: No space left on device\n")


# serve


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_drains_and_exits_with_0(number: signal.Signals, redis: RedisServer, start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--port=0", "--admin-port=0", "--auth=none", "--redis-url", redis.url)
    with tailing("chat", "--url", daemon.url) as client:
        daemon.signal(number)
        assert daemon.wait() == 0
        client.err.wait_for("closed the connection with 1012")
    log = "".join(daemon.log)
    assert "draining" in log
    assert "Traceback" not in log


def test_serve_says_which_port_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        lines = refused_last(1, "serve", "--auth=none", "--port", port, "--admin-port=0")
        assert lines.startswith("wsd: can't listen on 127.0.0.1 port ") and port in lines
        done = wsd("serve", "--auth=none", "--port=0", "--admin-port", port)
        assert done.returncode == 1
        assert b"stopped" not in done.stderr  # it has not started
        (line,) = (line for line in done.stderr.decode().splitlines() if line.startswith("wsd: "))
        assert line == (
            f"wsd: can't listen on 127.0.0.1 port {port} (admin_host, admin_port): the port is taken"
            f" (`ss -ltnp 'sport = :{port}'` says by whom); choose another admin_port"
        )


def test_serve_says_which_host_is_wrong() -> None:
    for flag, host, words in (
        ("--host", "203.0.113.1", "no such address"),
        ("--admin-host", "127.0.0.1,no-such-host.invalid", "has no address"),
    ):
        line = refused_last(1, "serve", "--auth=none", "--port=0", "--admin-port=0", flag, host)
        assert line.startswith("wsd: can't listen on ") and words in line
        assert flag.removeprefix("--").replace("-", "_") in line
    for command in ("serve", "check"):
        (line,) = refused(2, command, "--auth=none", "--host", "127.0.0.1,a..b")
        assert line.startswith("host: ") and "'a..b'" in line


@needs_ipv6
def test_serve_on_several_addresses(start_daemon: StartDaemon) -> None:
    hosts = ["127.0.0.1", "127.0.0.2", "::1"]
    daemon = start_daemon(
        *("--auth=none", "--port=0", "--admin-port=0", "--drain-seconds=0"),
        *("--host", ",".join(hosts), "--admin-host", "::"),
    )
    for host in hosts:
        for port in (daemon.port, daemon.admin_port):
            socket.create_connection((host, port), PATIENCE).close()
    (line,) = (line for line in daemon.log if "listens on" in line)
    places = f"ws://127.0.0.1:{daemon.port} and ws://127.0.0.2:{daemon.port} and ws://[::1]:{daemon.port}"
    assert f"listens on {places} for clients and on http://[::]:{daemon.admin_port} for admin" in line
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0


def refused_last(status: int, *args: str, **env: str) -> str:
    """Run a daemon that fails with this status; return its last line, which follows its log."""
    done = wsd(*args, **env)
    assert (done.returncode, done.stdout) == (status, b"")
    return done.stderr.decode().splitlines()[-1]


def test_serve_says_what_is_dangerous(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--auth=none", "--host=0.0.0.0", "--port=0", "--admin-port=0")
    assert any("WARNING" in line and "auth=none on 0.0.0.0" in line for line in daemon.log)
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0


def test_serve_without_a_key_says_how_to_make_one() -> None:
    (line,) = refused(2, "serve")
    assert line.startswith("jwt_key: ") and "openssl rand" in line


# From publish through serve to tail


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
        assert client.wait() == 0

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
            assert client.wait() == 0


def test_tail_of_several_topics(redis: RedisServer, start_daemon: StartDaemon, topic: str) -> None:
    daemon = start_daemon("--port=0", "--admin-port=0", "--auth=none", "--redis-url", redis.url)
    with tailing(topic, f"{topic}é", topic, "--url", daemon.url) as client:
        redis.publish(f"{topic}é", "1")
        assert client.out.next() == f"{topic}é\t1".encode()
        redis.publish(topic, b"\xff")
        assert client.out.next() == topic.encode() + b'\t"/w=="'
        assert client.wait(signal.SIGINT) == 0


def test_publish_from_standard_input(redis: RedisServer, start_daemon: StartDaemon, topic: str) -> None:
    daemon = start_daemon("--port=0", "--admin-port=0", "--auth=none", "--redis-url", redis.url)
    payloads = [b"{}", b"", b"\x00\xff\r", b"caf\xc3\xa9", b"x" * 200_000, *(b"%d" % i for i in range(3000)), b"end"]
    with tailing(topic, "--count", str(len(payloads)), "--url", daemon.url) as client:
        done = feed(b"\n".join(payloads), "publish", topic, "--redis-url", redis.url)
        assert (done.returncode, done.stdout) == (0, b"%d payloads, 1 subscriber\n" % len(payloads))
        assert client.wait() == 0
        received = client.out.text.splitlines()
    assert received[:4] == ["{}", '""', json.dumps(base64.b64encode(b"\x00\xff\r").decode()), '"café"']
    assert received[4:] == [f'"{"x" * 200_000}"', *map(str, range(3000)), '"end"']


def test_publish_says_that_standard_input_cannot_be_read(redis: RedisServer) -> None:
    command = [sys.executable, "-m", "wsd", "publish", "chat", "--redis-url", redis.url]
    with open(os.devnull, "wb") as unreadable:
        done = subprocess.run(command, stdin=unreadable, capture_output=True, env=environment(), cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (1, b"wsd: can't read standard input: Bad file descriptor\n")


def test_publish_does_not_hold_back_lines(redis: RedisServer, topic: str) -> None:
    with redis_subscriber(redis, topic) as messages:
        command = [sys.executable, "-m", "wsd", "publish", topic, "--redis-url", redis.url]
        with Program(command) as program:
            for line in (b"first\n", b"second\n"):
                program.stdin.write(line)
                program.stdin.flush()
                assert next(messages) == line.strip()
            program.stdin.close()
            assert program.wait() == 0
            assert program.out.text == "2 payloads, 1 subscriber\n"


class redis_subscriber:
    """A subscriber of a channel that is no daemon; gives an iterator over what it receives."""

    def __init__(self, server: RedisServer, channel: str, command: str = "SUBSCRIBE") -> None:
        self._connection = socket.create_connection(("127.0.0.1", server.port), PATIENCE)
        self._file = self._connection.makefile("rb")
        self._connection.sendall(f"{command} {channel}\r\n".encode())
        assert len([self._file.readline() for _ in range(6)]) == 6

    def __enter__(self) -> Iterator[bytes]:
        return self._messages()

    def __exit__(self, *exc: object) -> None:
        self._file.close()
        self._connection.close()

    def _messages(self) -> Iterator[bytes]:
        while True:
            yield [self._file.readline() for _ in range(7)][6].removesuffix(b"\r\n")


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


# publish, with TLS, with Sentinel and on a Cluster


Publish = Callable[..., tuple[int, str]]


@pytest.fixture
def publish_here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Publish:
    """Runs ``wsd publish`` in this process, which is faster; returns the status, and what it prints."""

    def run(url: str, *args: str) -> tuple[int, str]:
        monkeypatch.setattr(os, "environ", environment(WSD_REDIS_URL=url))
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


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Wait for what servers agree on among themselves, and no event tells."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE:g} s: {what}"
        time.sleep(0.01)


def has_sharded_channels(server: RedisServer) -> bool:
    """Say whether a server is of Redis 7.0 or later."""
    return int(server("INFO", "server")["redis_version"].split(".")[0]) >= 7


def needs_sharded_channels(server: RedisServer) -> None:
    """Skip a test where the redis-server is too old for it."""
    if not has_sharded_channels(server):
        pytest.skip("sharded channels need Redis 7.0")


class Watcher(RedisServer):
    """A Sentinel on its own, that watches a server under the name ``mymaster``.

    Args:
        server: the server.
        lines: of its configuration.
    """

    def __init__(self, server: RedisServer, *lines: str) -> None:
        super().__init__(f"sentinel monitor mymaster 127.0.0.1 {server.port} 1", *lines)

    def start(self, *more: str, until: str = "") -> None:
        """Start it, and wait until it listens."""
        config = self.directory / "sentinel.conf"
        config.write_text("\n".join([f"port {self.port}", "bind 127.0.0.1", *self._options, *more, until]))
        command = [self.executable(), str(config), "--sentinel"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=self.directory)
        wait_until(self._listens, "the Sentinel listens")

    def _listens(self) -> bool:
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port)).close()
            return True
        return False

    def watch(self, server: RedisServer) -> None:
        """Say that this server is the master now."""
        self("SENTINEL", "REMOVE", "mymaster")
        self("SENTINEL", "MONITOR", "mymaster", "127.0.0.1", server.port, 1)

    def url_for(self, name: str, query: str = "", login: str = "") -> str:
        """The redis_url of a master."""
        return f"redis+sentinel://{login}127.0.0.1:{self.port}/{name}{query}"


@pytest.fixture
def watch() -> Iterator[Callable[..., Watcher]]:
    """Makes Sentinels."""
    with ExitStack() as stack:

        def make(server: RedisServer, *lines: str) -> Watcher:
            watcher = Watcher(server, *lines)
            stack.callback(watcher.remove)
            return watcher

        yield make


def test_publish_asks_sentinel_for_the_master(
    watch: Callable[..., Watcher], own_redis: RedisServer, publish_here: Publish, topic: str
) -> None:
    watcher = watch(own_redis)
    url = f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{watcher.port}/mymaster/0"
    with redis_subscriber(own_redis, topic) as messages:
        assert publish_here(url, topic, "x") == (0, "1 subscriber")
        assert next(messages) == b"x"


def test_publish_follows_the_master(
    watch: Callable[..., Watcher], make_redis: Callable[..., RedisServer], topic: str
) -> None:
    old, new = make_redis(), make_redis()
    watcher = watch(old)
    command = [sys.executable, "-m", "wsd", "publish", topic, "--redis-url", watcher.url_for("mymaster")]
    with redis_subscriber(old, topic) as before, redis_subscriber(new, topic) as after, Program(command) as program:
        program.stdin.write(b"1\n")
        program.stdin.flush()
        assert next(before) == b"1"
        watcher.watch(new)
        old("CLIENT", "KILL", "TYPE", "normal")  # as Sentinel does at a failover
        program.stdin.write(b"2\n")
        program.stdin.close()
        assert next(after) == b"2"
        assert program.wait() == 0


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
    watch: Callable[..., Watcher], make_redis: Callable[..., RedisServer], publish_here: Publish, topic: str
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
    make_redis: Callable[..., RedisServer], watch: Callable[..., Watcher], publish_here: Publish
) -> None:
    watcher = watch(make_redis("--rename-command", "AUTH", ""))
    for login in ("sentinel_password=hunter2", "password=hunter2"):
        status, line = publish_here(watcher.url_for("mymaster", f"?{login}"), "chat", "x")
        assert status == 1 and "hunter2" not in line


def test_publish_on_sharded_channels_of_one_server(redis: RedisServer, publish_here: Publish, topic: str) -> None:
    needs_sharded_channels(redis)
    with redis_subscriber(redis, topic, "SSUBSCRIBE") as messages:
        assert publish_here(redis.url, topic, "x", "--pubsub", "sharded") == (0, "1 subscriber")
        assert next(messages) == b"x"


def test_publish_to_a_redis_without_sharded_channels(
    redis: RedisServer, make_redis: Callable[..., RedisServer], publish_here: Publish
) -> None:
    old = make_redis(*("--rename-command", "SPUBLISH", "") * has_sharded_channels(redis))
    status, line = publish_here(old.url, "chat", "private words", "--pubsub", "sharded")
    assert (status, line) == (1, f"wsd: can't publish at {old.url}: sharded channels need Redis 7.0")


class Nodes:
    """A Redis Cluster of three masters."""

    def __init__(self) -> None:
        with ExitStack() as stack:
            self.masters: list[RedisServer] = []
            for number, (first, last) in enumerate(((0, 5460), (5461, 10922), (10923, 16383)), start=1):
                bus = free_port()
                node = RedisServer("--cluster-enabled", "yes", "--cluster-port", str(bus))
                stack.callback(node.remove)
                node("CLUSTER", "SET-CONFIG-EPOCH", number)
                node("CLUSTER", "ADDSLOTSRANGE", first, last)
                for other in self.masters:  # they would find each other, later
                    other("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
                self.masters.append(node)
            self._wait()
            self._stack = stack.pop_all()

    def _wait(self) -> None:
        wait_until(lambda: all(self._is_complete(node) for node in self.masters), "the cluster has formed")

    @staticmethod
    def _is_complete(node: RedisServer) -> bool:
        info: bytes = node("CLUSTER", "INFO")
        return b"cluster_state:ok" in info and b"cluster_known_nodes:3" in info

    def remove(self) -> None:
        """End it."""
        self._stack.close()

    def owner(self, channel: str) -> RedisServer:
        """The node that has a channel's slot."""
        slot = self.masters[0]("CLUSTER", "KEYSLOT", channel)
        for first, last, (_, port, *_), *_ in self.masters[0]("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(node for node in self.masters if node.port == port)
        raise AssertionError(f"nobody has the slot {slot}")

    def move(self, channel: str, target: RedisServer) -> None:
        """Give the slot of a channel to another node, as resharding does at its end."""
        slot = target("CLUSTER", "KEYSLOT", channel)
        identity = target("CLUSTER", "MYID")
        # Without it the target does not raise its epoch, and what the others say next may undo the move.
        target("CLUSTER", "SETSLOT", slot, "IMPORTING", self.owner(channel)("CLUSTER", "MYID"))
        for node in [target, *(node for node in self.masters if node is not target)]:
            node("CLUSTER", "SETSLOT", slot, "NODE", identity)

    def url(self, *seeds: int) -> str:
        """Its redis_url."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{seed}" for seed in seeds)


@pytest.fixture(scope="module")
def nodes(redis: RedisServer) -> Iterator[Nodes]:
    needs_sharded_channels(redis)
    cluster = Nodes()
    yield cluster
    cluster.remove()


def test_publish_goes_to_the_node_that_has_the_slot(nodes: Nodes, publish_here: Publish, topic: str) -> None:
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


def test_publish_of_classic_channels_says_what_is_not_counted(nodes: Nodes, publish_here: Publish, topic: str) -> None:
    first, second, _ = nodes.masters
    with redis_subscriber(second, topic) as messages:
        for seed, count in ((first, "0 subscribers"), (second, "1 subscriber")):
            status, line = publish_here(nodes.url(seed.port, first.port), topic, "x", "--pubsub", "classic")
            words = f"{count} at 127.0.0.1:{seed.port}; the other nodes' subscribers are not counted"
            assert (status, line) == (0, words)
            assert next(messages) == b"x"


def test_publish_follows_the_slot(nodes: Nodes, topic: str) -> None:
    owner = nodes.owner(topic)
    other = next(node for node in nodes.masters if node is not owner)
    command = [sys.executable, "-m", "wsd", "publish", topic, "--redis-url", nodes.url(other.port)]
    with Program(command) as program:
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
            assert program.wait() == 0
            assert program.out.text == "1499 payloads, 1 subscriber\n"


def test_publish_needs_no_permission_in_a_cluster_but_its_command(
    nodes: Nodes, publish_here: Publish, topic: str
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
    nodes: Nodes, publish_here: Publish, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        mute, dead = listener.getsockname()[1], free_port()
        monkeypatch.setattr(publisher, "TIMEOUT", 3.0)
        assert publish_here(nodes.url(mute, dead, nodes.masters[0].port), topic, "x")[0] == 0
        monkeypatch.setattr(publisher, "TIMEOUT", 0.1)
        status, line = publish_here(nodes.url(mute, dead), topic, "x")
    assert status == 1
    assert line.startswith(f"wsd: can't publish at the cluster at 127.0.0.1:{mute}, 127.0.0.1:{dead}: Error 111")


def test_publish_says_that_a_server_is_a_node_of_a_cluster(nodes: Nodes, publish_here: Publish, topic: str) -> None:
    other = next(node for node in nodes.masters if node is not nodes.owner(topic))
    status, line = publish_here(other.url, topic, "x", "--pubsub", "sharded")
    assert status == 1 and line.endswith("it is a node of a Cluster; use redis+cluster://")


@given(st.lists(st.binary(max_size=12).map(lambda line: line.replace(b"\n", b"")), max_size=6), st.booleans())
def test_payloads_are_the_lines(lines: list[bytes], final_newline: bool) -> None:
    text = b"\n".join(lines) + (b"\n" if final_newline and lines else b"")
    if not final_newline and lines and not lines[-1]:
        lines = lines[:-1]  # nothing follows the last line end
    reading, writing = os.pipe()
    try:
        os.write(writing, text)
        os.close(writing)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(publish_module, "CHUNK", 5)
            assert [payload for batch in payloads(reading) for payload in batch] == lines
    finally:
        os.close(reading)


@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    st.one_of(
        st.binary(),
        st.text().map(lambda text: json.dumps(text).encode()),
        st.sampled_from(
            [b'"\\ud800"', b"1e999", b'{"encoding":"base64"}', b'{"snapshot":1}', b"[" * 2000 + b"]" * 2000]
        ),
    ),
)
def test_what_is_cut_out_is_what_was_published(topic: str, payload: bytes) -> None:
    found = tail.cut(embed(message_head(topic), payload))
    assert found is not None
    assert found[0] == topic
    try:
        json.loads(payload.decode(), parse_constant=int)  # NaN is no JSON
    except UnicodeDecodeError:
        assert base64.b64decode(json.loads(found[1])) == payload
    except RecursionError:
        assert found[1] == payload
    except ValueError:
        assert json.loads(found[1]).encode() == payload
    else:
        assert found[1] == payload


# tail and what happens to its connection


def test_tail_reconnects_when_the_server_is_back(redis: RedisServer, start_daemon: StartDaemon, topic: str) -> None:
    flags = ("--admin-port=0", "--auth=none", "--drain-seconds=0", "--redis-url", redis.url, "--port")
    port = free_port()
    first = start_daemon(*flags, str(port))
    with tailing(topic, "--port", str(port)) as client:
        first.signal(signal.SIGTERM)
        assert first.wait() == 0
        assert "1012" in client.err.wait_for("reconnecting in")
        client.err.wait_for("Connection refused; reconnecting in")
        second = start_daemon(*flags, str(port))
        client.err.wait_for("subscribed to")
        redis.publish(topic, "1")
        assert client.out.next() == b"1"
        second.kill()
        client.err.wait_for("lost the connection; reconnecting in")


def test_tail_says_when_messages_may_have_been_missed(
    own_redis: RedisServer, start_daemon: StartDaemon, topic: str
) -> None:
    daemon = start_daemon("--port=0", "--admin-port=0", "--auth=none", "--redis-url", own_redis.url)
    with tailing(topic, "--url", daemon.url) as client:
        own_redis.stop()
        daemon.wait_for("lost the link")
        own_redis.start()
        assert client.err.wait_for(topic) == f"wsd: {topic}: messages may have been missed"
        own_redis.publish(topic, "1")
        assert client.out.next() == b"1"


def test_tail_ends_when_nobody_reads_it(redis: RedisServer, start_daemon: StartDaemon, topic: str) -> None:
    daemon = start_daemon("--port=0", "--admin-port=0", "--auth=none", "--redis-url", redis.url)
    command = f"{shlex.quote(sys.executable)} -m wsd tail {topic} --url {daemon.url} | head -n 1"
    with Program(command) as client:
        client.err.wait_for("subscribed to")
        redis.publish(topic, "1")
        assert client.out.next() == b"1"
        # It ends by itself, without a second message to find out by.
        assert client.wait() == 0
        assert client.err.text.count("\n") == 1


def test_tail_stops_at_what_is_no_wsd(start_daemon: StartDaemon, redis: RedisServer) -> None:
    daemon = start_daemon("--port=0", "--admin-port=0", "--auth=none")
    (line,) = refused(1, "tail", "chat", "--url", f"ws://user:hunter2@127.0.0.1:{daemon.admin_port}/?key=hunter3")
    assert "an HTTP server that does not speak WebSocket answers at" in line and "404" in line and "hunter" not in line
    # Redis closes without a word when it sees HTTP.
    *_, line = refused(1, "tail", "chat", "--url", f"ws://127.0.0.1:{redis.port}", "--timeout=6")
    assert "closed the connection without an answer" in line and line.endswith("within 6 s")


@pytest.mark.parametrize(
    ("scheme", "answer", "words"),
    [
        ("ws", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "an HTTP server that does not speak WebSocket"),
        ("ws", b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", "400 Bad Request"),
        ("ws", b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", "refused the connection with 401"),
        ("ws", b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "does not speak WebSocket"),
        ("ws", b"SSH-2.0-OpenSSH_9.2\r\n", "does not speak HTTP"),
        ("wss", b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak TLS: use ws://127.0.0.1:"),
        ("wss", b"-ERR unknown command\r\n", "does not speak TLS: use ws://127.0.0.1:"),
    ],
)
async def test_tail_says_in_words_what_answers(scheme: str, answer: bytes, words: str, written: list[bytes]) -> None:
    async with answering(answer) as port:
        with pytest.raises(CommandError, match=re.escape(words)):
            await client(f"{scheme}://127.0.0.1:{port}", written).run()


@pytest.mark.parametrize(
    ("scheme", "answer", "words"),
    [
        ("ws", b"", "closed the connection without an answer; with TLS it is wss://127.0.0.1:"),
        # What OpenSSL says to a GET: the alert of a TLS server.
        ("ws", b"\x15\x03\x01\x00\x02\x02\x46", "without an answer; with TLS it is wss://127.0.0.1:"),
        ("wss", b"", "closed the connection during the TLS handshake; without TLS it is ws://127.0.0.1:"),
        ("ws", b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", "refused the connection with 502 Bad Gateway"),
        ("ws", b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n", "refused the connection with 429"),
    ],
)
async def test_tail_tries_again_what_a_restart_may_mend(
    scheme: str, answer: bytes, words: str, written: list[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    async with answering(answer) as port:
        following = asyncio.create_task(client(f"{scheme}://127.0.0.1:{port}", written).run())
        err = ""
        while err.count("reconnecting in") < 2:
            assert not following.done()
            await asyncio.sleep(0.01)
            err += capsys.readouterr().err
        following.cancel()
        await asyncio.wait([following])
    assert words in err


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[int]:
    """Answer to the first bytes of each connection with these, and close; give the port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65_536)
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


def test_tail_of_a_large_payload(redis: RedisServer, start_daemon: StartDaemon, topic: str) -> None:
    daemon = start_daemon("--port=0", "--admin-port=0", "--auth=none", "--redis-url", redis.url)
    payload = json.dumps("x" * 5 * 1024 * 1024)
    with tailing(topic, "--count=1", "--url", daemon.url) as client:
        redis.publish(topic, payload)
        assert client.wait() == 0
        assert client.out.text == payload + "\n"


def test_tail_ends_after_a_time(redis: RedisServer, start_daemon: StartDaemon, topic: str) -> None:
    daemon = start_daemon("--port=0", "--admin-port=0", "--auth=none", "--redis-url", redis.url)
    tail = [sys.executable, "-m", "wsd", "tail", topic, "--timeout=6", "--url"]
    with (
        Program([*tail, daemon.url]) as endless,
        Program([*tail, daemon.url, "--count=3"]) as waiting,
        Program([*tail, f"ws://127.0.0.1:{free_port()}"]) as lost,
    ):
        assert endless.wait() == 0
        assert endless.err.text.count("\n") == 1
        assert waiting.wait() == 1
        assert waiting.err.text.endswith("\nwsd: 0 of 3 messages came within 6 s\n")
        assert lost.wait() == 1
        assert re.search(r"\nwsd: not subscribed \(.*Connection refused\) within 6 s\n$", lost.err.text)


@pytest.mark.parametrize(
    "messages",
    [
        ('{"action":"session","message":"session unauthorized"}',),
        ('{"action":"error","code":"forbidden_topic","message":"no"}',),
        ("what is this?",),
        (
            '{"action":"subscribe","message":"context subscribed"}',
            '{"action":"message","topic":"chat","snapshot":1}',
        ),
    ],
)
async def test_tail_closes_with_1000_however_it_ends(messages: tuple[str, ...], written: list[bytes]) -> None:
    codes: asyncio.Queue[int] = asyncio.Queue()

    async def behave(connection: ServerConnection) -> None:
        for message in messages:
            await connection.send(message)
        await connection.wait_closed()
        assert connection.close_code is not None
        codes.put_nowait(connection.close_code)

    async with FakeServer(behave) as server:
        with suppress(CommandError):
            await client(server.url, written, token=lambda: "t").run()
        async with asyncio.timeout(PATIENCE):
            assert await codes.get() == 1000


class FakeServer:
    """A server that greets, and then does what the test says."""

    def __init__(self, *behaviours: Callable[[ServerConnection], Any]) -> None:
        self._behaviours = list(behaviours)  # of one connection after the other
        self.refusals: list[Response] = []  # of handshakes, before any of those
        self.received: list[dict[str, str]] = []
        self._server: Server

    async def __aenter__(self) -> Self:
        self._server = await serve(self._serve, "127.0.0.1", 0, process_request=self._admit, compression=None)
        self.url = f"ws://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        return self.refusals.pop(0) if self.refusals else None

    async def _serve(self, connection: ServerConnection) -> None:
        await connection.send('{"action":"connect","message":"connection established"}')
        await connection.send('{"action":"session","message":"waiting for create session","session":"s"}')
        self.received.append(json.loads(await connection.recv()))
        await self._behaviours.pop(0)(connection)


async def subscribed_and_publish(connection: ServerConnection) -> None:
    """Do what a daemon does."""
    await connection.send('{"action":"subscribe","message":"context subscribed"}')
    await connection.send('{"action":"message","topic":"chat","snapshot":1}')
    await connection.wait_closed()


def closing(code: int) -> Callable[[ServerConnection], Any]:
    """Close."""

    async def close(connection: ServerConnection) -> None:
        await connection.send('{"action":"subscribe","message":"context subscribed"}')
        await connection.close(code, "because")

    return close


def sending(message: str) -> Callable[[ServerConnection], Any]:
    """Send a message."""

    async def send(connection: ServerConnection) -> None:
        await connection.send(message)
        await connection.wait_closed()

    return send


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What a client in this process prints. It does not wait before it reconnects."""
    monkeypatch.setattr(tail, "BACKOFF_FIRST", 0.0)
    return []


def client(
    url: str, written: list[bytes], topics: tuple[str, ...] = ("chat",), token: Callable[[], str | None] = lambda: None
) -> tail.Tail:
    """A client that ends after one message."""
    return tail.Tail(url, topics, token=token, count=1, write=written.append)


@pytest.mark.parametrize(
    "code", [1000, 1001, 1013, *(close for close in Close if close.reaction is Reaction.RECONNECT)]
)
async def test_tail_reconnects_after_these_codes(
    code: int, written: list[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    async with FakeServer(closing(code), subscribed_and_publish) as server:
        await client(server.url, written).run()
    assert written == [b"1"]
    assert f"closed the connection with {code}: because; reconnecting in" in capsys.readouterr().err
    assert [request["action"] for request in server.received] == ["subscribe", "subscribe"]


@pytest.mark.parametrize("code", [close for close in Close if close.reaction is Reaction.STOP])
async def test_tail_stops_after_these_codes(code: int, written: list[bytes]) -> None:
    async with FakeServer(closing(code)) as server:
        with pytest.raises(CommandError, match=f"{code}: because"):
            await client(server.url, written).run()


async def test_tail_needs_a_new_token_after_4003(written: list[bytes]) -> None:
    async with FakeServer(closing(4003)) as server:
        with pytest.raises(CommandError, match="a new token is needed"):
            await client(server.url, written, token=lambda: "old").run()
    tokens = ["old", "new", "new"]
    async with FakeServer(closing(4003), subscribed_and_publish) as server:
        await client(server.url, written, token=lambda: tokens.pop(0)).run()
    assert [request["context"] for request in server.received] == ["old", "new"]


LATER = [code for code in ErrorCode if code.remedy is Remedy.WAIT]


@pytest.mark.parametrize("code", LATER)
async def test_tail_tries_again_what_may_work_later(
    code: str, written: list[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    refusal = json.dumps({"action": "error", "code": code, "message": "later\x1b[2J"})
    async with FakeServer(sending(refusal), subscribed_and_publish) as server:
        await client(server.url, written).run()
    assert written == [b"1"]
    assert r"chat: later\x1b[2J; reconnecting in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("message", "words"),
    [
        *(
            (json.dumps({"action": "error", "code": code, "message": "enough"}), rf"chat: enough \({code}\)")
            for code in (*ErrorCode, "of_the_future")
            if code not in LATER
        ),
        ('{"action":"session","message":"session unauthorized"}', "asks for a token"),
        ("hello", "does not speak the protocol"),
        ("[]", "does not speak the protocol"),
    ],
)
async def test_tail_stops_when_it_is_refused(message: str, words: str, written: list[bytes]) -> None:
    async with FakeServer(sending(message)) as server:
        with pytest.raises(CommandError, match=words):
            await client(server.url, written).run()


async def test_tail_waits_as_long_as_a_full_server_asks(
    written: list[bytes], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(causes, "MAX_RETRY_AFTER", 0.0)
    async with FakeServer(subscribed_and_publish) as server:
        for text in ("full\n", "<html>"):
            refusal = Response(HTTPStatus.SERVICE_UNAVAILABLE, "", refusal_headers("3600"), text.encode())
            server.refusals.append(refusal)
        await client(server.url, written).run()
    assert written == [b"1"]
    err = capsys.readouterr().err
    assert "refused the connection with 503: full; reconnecting in 0.0 s" in err
    assert "<html>" not in err


async def test_tail_stops_when_its_origin_is_refused(written: list[bytes]) -> None:
    async with FakeServer() as server:
        server.refusals.append(Response(HTTPStatus.FORBIDDEN, "", refusal_headers(), b"no"))
        with pytest.raises(CommandError, match="403: no"):
            await client(server.url, written).run()


def refusal_headers(retry_after: str = "") -> Headers:
    """The headers of a refused handshake."""
    headers = Headers({"Connection": "close"})
    if retry_after:
        headers["Retry-After"] = retry_after
    return headers


def test_tail_sends_the_machine_s_own_signature_nowhere_else(key_file: Path) -> None:
    settings = Settings(jwt_key_file=key_file)
    here, elsewhere = parse_uri("ws://localhost:1"), parse_uri("wss://ws.example.org")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "environ", environment())
        assert token_source(None, settings, elsewhere, ["chat"])() is None
        token = token_source(None, settings, here, ["chat"])()
    assert token is not None
    assert jwt.decode(token, SECRET, algorithms=["HS256"])["topics"] == ["chat"]


# token


def test_token_for_every_hmac_algorithm_and_by_default_for_an_hour(key_file: Path) -> None:
    key_file.write_bytes(b"k" * 64)
    for algorithm in ("HS256", "HS384", "HS512"):
        done = wsd("token", "--jwt-key-file", str(key_file), "--jwt-algorithms", algorithm)
        claims = jwt.decode(done.stdout.decode().strip(), b"k" * 64, algorithms=[algorithm])
        assert set(claims) == {"iat", "exp"}
        assert claims["exp"] - claims["iat"] == 3600


def test_token_with_a_private_key(tmp_path: Path) -> None:
    key, other = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    public, private, encrypted = tmp_path / "public.pem", tmp_path / "private.pem", tmp_path / "encrypted.pem"
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    encrypted.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")))
    done = wsd("token", "--jwt-algorithms", "RS256,ES256", "--private-key-file", str(private))
    assert done.returncode == 0, done.stderr
    jwt.decode(done.stdout.decode().strip(), public.read_bytes(), algorithms=["ES256"])

    flags = ("token", "--jwt-algorithms", "ES256", "--jwt-key-file", str(public))
    assert wsd(*flags, "--private-key-file", str(private)).returncode == 0
    (line,) = refused(1, *flags)
    assert "--private-key-file" in line
    for file, words in ((public, "no PEM private key"), (encrypted, "encrypted"), (tmp_path / "none", "can't read")):
        (line,) = refused(1, *flags, "--private-key-file", str(file))
        assert words in line
    (line,) = refused(1, "token", "--private-key-file", str(private))
    assert "HS256" in line
    both = tmp_path / "both"
    both.write_bytes(private.read_bytes() * 2)
    (line,) = refused(1, *flags, "--private-key-file", str(both))
    assert "holds 2 private keys" in line
    private.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (line,) = refused(1, *flags, "--private-key-file", str(private))
    assert "would refuse the token" in line


def test_token_is_refused_where_it_would_be_useless(key_file: Path) -> None:
    (line,) = refused(1, "token", WSD_AUTH="none")
    assert "auth is none" in line
    (line,) = refused(2, "token")
    assert line.startswith("jwt_key: not given")
    (line,) = refused(2, "token", "--topics", "chat,a b", WSD_JWT_KEY=SECRET)
    assert "'a b'" in line
    (line,) = refused(1, "token", WSD_JWT_KEY=SECRET, WSD_REQUIRE_TOPICS_CLAIM="true")
    assert "topics" in line and SECRET not in line


# dev


class Dev(Program):
    """``wsd dev``, started, with what it tells to type."""

    def __init__(self, *args: str, **env: str) -> None:
        super().__init__([sys.executable, "-m", "wsd", "dev", *args], **env)
        self.commands: list[str] = []
        while True:
            line = self.out.next().decode()
            if line.startswith("    "):
                self.commands.append(line.strip())
            elif "Ctrl-C" in line:
                break

    @property
    def redis_port(self) -> int:
        """Where Redis listens."""
        match = re.search(r"at redis://127\.0\.0\.1:(\d+)\.", self.out.text)
        assert match, self.out.text
        return int(match[1])


def wait_until_refused(port: int) -> None:
    """Wait until nobody listens on a port: the end of a process closes its sockets in no order that one can rely on."""
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
                assert connection.recv(1) == b""  # ends when what listens does
        except ConnectionRefusedError:
            return
        except ConnectionResetError:
            continue


def occupy(stack: ExitStack, *ports: int) -> None:
    """Take ports, unless somebody has them already."""
    for port in ports:
        with suppress(OSError):
            stack.enter_context(socket.create_server(("127.0.0.1", port)))


@pytest.mark.parametrize("taken", [True, False])
def test_what_dev_tells_to_type_works_as_it_stands(taken: bool) -> None:
    with ExitStack() as stack:
        if taken:
            occupy(stack, 3000, 3001, 6379)
        dev = stack.enter_context(Dev(*(("--channel-prefix", "app:") if taken else ())))
        if taken:
            assert dev.err.text.count("is taken; using a free one") == 2
            assert dev.redis_port != 6379
            assert "port 6379 is taken, perhaps by another Redis, which wsd dev leaves alone" in dev.err.text
            assert f"--redis-url redis://127.0.0.1:{dev.redis_port}" in dev.commands[1]
            assert "without --redis-url it would publish at port 6379, which is another server's" in dev.out.text
        tail_command, publish_command, redis_command = dev.commands
        client = stack.enter_context(Program(tail_command))
        client.err.wait_for("subscribed to")
        with Program(publish_command) as publisher:
            assert publisher.wait() == 0
            assert publisher.out.text == "1 subscriber\n"
        assert client.out.next() == b'{"hello":"world"}'
        if shutil.which("redis-cli"):
            assert subprocess.check_output(redis_command, shell=True) == b"1\n"
            assert client.out.next() == b'{"hello":"world"}'
        # Ctrl-C in its terminal.
        assert dev.wait(signal.SIGINT) == 0
        assert "draining" in dev.err.text
        assert "lost the link" not in dev.err.text, "its Redis ended before it"
        client.err.wait_for("1012")
        wait_until_refused(dev.redis_port)


def test_the_redis_of_dev_ends_with_it_even_if_it_is_killed() -> None:
    with Dev("--port=0", "--admin-port=0") as dev:
        with socket.create_connection(("127.0.0.1", dev.redis_port), PATIENCE) as connection:
            connection.sendall(b"*1\r\n$4\r\nPING\r\n")
            assert connection.recv(100) == b"+PONG\r\n"
            assert dev.wait(signal.SIGKILL) == -signal.SIGKILL
            assert connection.recv(100) == b""
        wait_until_refused(dev.redis_port)


def test_dev_ends_with_its_terminal() -> None:
    with Dev("--port=0", "--admin-port=0") as dev:
        # It confirms a subscription, and takes no PUBLISH on the same connection.
        status, line = trying(f"redis://127.0.0.1:{dev.redis_port}")
        assert status == 0 and line.endswith("channels *: subscribed")
        assert dev.wait(signal.SIGHUP) == 0


def test_dev_with_a_redis_that_is_given(redis: RedisServer, topic: str) -> None:
    # What makes another daemon listen to the network with a key must not do so to one without authentication.
    env = {"WSD_REDIS_URL": redis.url, "WSD_HOST": "0.0.0.0", "WSD_JWT_KEY": SECRET, "WSD_AUTH": "jwt"}
    with Dev("--port=0", "--admin-port=0", **env) as dev:
        assert dev.redis_port == redis.port
        assert any(f"--redis-url {redis.url}" in command for command in dev.commands)
        assert "0.0.0.0" not in dev.out.text + dev.err.text
        with Program(dev.commands[0]) as client:
            client.err.wait_for("subscribed to chat")
            assert trying(redis.url)[0] == 0
            assert wsd("publish", "chat", "1", WSD_REDIS_URL=redis.url).returncode == 0
            assert client.out.next() == b"1"
        assert dev.wait(signal.SIGTERM) == 0


def test_dev_says_so_when_a_port_that_was_given_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        line = refused_last(1, "dev", "--port", port, "--admin-port=0")
    assert line.startswith("wsd: can't listen on 127.0.0.1 port ")


def test_dev_without_fakeredis_says_what_installs_it(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['fakeredis'] = None\n")
    line = refused_last(1, "dev", "--port=0", "--admin-port=0", PYTHONPATH=str(tmp_path))
    assert "`pip install '.[dev]'` there" in line and "WSD_REDIS_URL" in line and "--redis-url" in line


OPEN: dict[str, Any] = {"auth": "none"}


@pytest.mark.parametrize(
    ("options", "port", "commands"),
    [
        (
            {},
            3000,
            [
                "wsd tail chat",
                """wsd publish chat '{"hello":"world"}'""",
                """redis-cli -h 127.0.0.1 -p 6379 PUBLISH chat '{"hello":"world"}'""",
            ],
        ),
        (
            {"host": "::", "redis_url": "unix:///run/r.sock", "channel_prefix": "app:"},
            3000,
            [
                "wsd tail chat --url 'ws://[::1]:3000'",
                """wsd publish chat '{"hello":"world"}' --channel-prefix app: --redis-url unix:///run/r.sock""",
                """redis-cli -s /run/r.sock PUBLISH app:chat '{"hello":"world"}'""",
            ],
        ),
        (
            {"redis_url": "redis://:hunter2@r.example:1"},
            4000,
            ["wsd tail chat --url ws://127.0.0.1:4000", """wsd publish chat '{"hello":"world"}'"""],
        ),
        (
            {"redis_url": "redis+sentinel://r1,r2:5/mymaster", "pubsub": "sharded"},
            3000,
            [
                "wsd tail chat",
                """wsd publish chat '{"hello":"world"}' --pubsub sharded --redis-url redis+sentinel://r1,r2:5/mymaster""",
            ],
        ),
        (
            {"redis_url": "redis+sentinel://r.example/m?sentinel_password=hunter2"},
            3000,
            ["wsd tail chat", """wsd publish chat '{"hello":"world"}'"""],
        ),
        (
            {"redis_url": "redis+cluster://r1:7000,r2", "channel_prefix": "a:"},
            3000,
            [
                "wsd tail chat",
                """wsd publish chat '{"hello":"world"}' --channel-prefix a: --redis-url redis+cluster://r1:7000,r2""",
                """redis-cli -c -h r1 -p 7000 SPUBLISH a:chat '{"hello":"world"}'""",
            ],
        ),
        (
            {"redis_url": "redis+cluster://r.example", "pubsub": "classic"},
            3000,
            [
                "wsd tail chat",
                """wsd publish chat '{"hello":"world"}' --pubsub classic --redis-url redis+cluster://r.example""",
                """redis-cli -h r.example -p 6379 PUBLISH chat '{"hello":"world"}'""",
            ],
        ),
        (
            {"pubsub": "sharded"},
            3000,
            [
                "wsd tail chat",
                """wsd publish chat '{"hello":"world"}' --pubsub sharded""",
                """redis-cli -h 127.0.0.1 -p 6379 SPUBLISH chat '{"hello":"world"}'""",
            ],
        ),
    ],
)
def test_hints(options: dict[str, Any], port: int, commands: list[str]) -> None:
    text = hints(Settings(**OPEN | options), port, "wsd", embedded=False)
    assert [line.strip() for line in text.splitlines() if line.startswith("    ")] == commands
    assert "hunter2" not in text


def test_how_the_program_is_run_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / ".venv" / "bin" / "wsd"
    script.parent.mkdir(parents=True)
    script.touch(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [".venv/bin/wsd"])
    assert program() == ".venv/bin/wsd"
    monkeypatch.chdir(script.parent.parent)
    monkeypatch.setattr(sys, "argv", [str(script)])
    assert program() == "bin/wsd"
    monkeypatch.setenv("PATH", str(script.parent), prepend=os.pathsep)
    assert program() == "wsd"
    monkeypatch.setattr(sys, "argv", ["/x/wsd/__main__.py"])
    monkeypatch.setattr(sys, "executable", str(script.with_name("python3")))
    assert program() == "bin/python3 -m wsd"


# Ctrl-C


@pytest.mark.parametrize("command", ["publish", "tail"])
def test_ctrl_c_shows_no_traceback(command: str, redis: RedisServer, topic: str) -> None:
    args = {"publish": ["--redis-url", redis.url], "tail": ["--url", f"ws://127.0.0.1:{free_port()}"]}[command]
    with Program([sys.executable, "-m", "wsd", command, topic, *args]) as program:
        if command == "tail":
            program.err.wait_for("reconnecting in")
            assert program.wait(signal.SIGINT) == 0
        else:
            with redis_subscriber(redis, topic) as messages:
                program.stdin.write(b"x\n")
                program.stdin.flush()
                assert next(messages) == b"x"
            assert program.wait(signal.SIGINT) == 130
