"""The commands with standard streams that the parent has closed: real programs, started by a shell."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import redis as redis_py

from bench.processes import free_port, plain_environment
from tests import ROOT
from tests.lib.programs import Daemon, feed
from tests.lib.servers import RedisServer
from tests.lib.waiting import PATIENCE

CLOSINGS = ("<&-", ">&-", "2>&-", "<&- >&- 2>&-")
SAYS_WHY = b"wsd: can't write to standard output: it is closed, or open for reading only\n"

closing = pytest.mark.parametrize("closed", CLOSINGS)


def start(closed: str, *args: str) -> subprocess.Popen[bytes]:
    """Start a command with some of its standard streams closed."""
    return subprocess.Popen(
        ["/bin/sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "wsd", *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=plain_environment(),
        cwd=ROOT,
    )


def outcome(process: subprocess.Popen[bytes]) -> tuple[int, bytes, bytes]:
    """Wait for the end; return the status, and what came on standard output and standard error."""
    try:
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert b"Traceback" not in err and b"Exception ignored" not in err, err.decode()
    return process.returncode, out, err


def check_result(closed: str, result: tuple[int, bytes, bytes], expected: bytes) -> None:
    """A command prints its result, or fails and says why it can't."""
    status, out, err = result
    if ">&-" in closed.split():
        assert (status, out) == (1, b"")
        assert err == (b"" if "2>&-" in closed else SAYS_WHY)
    else:
        assert status == 0
        assert expected in out


@closing
@pytest.mark.parametrize("command", ["serve", "dev"])
def test_a_daemon_lives_and_ends_as_ever(command: str, closed: str, redis: RedisServer) -> None:
    port = free_port()
    flags = ("--auth=none", "--port=0", f"--admin-port={port}", f"--redis-url={redis.url}", "--drain-seconds=0")
    process = start(closed, command, *flags)
    try:
        deadline = time.monotonic() + PATIENCE
        while (answer := ask(port)) != b"ok\n":
            assert process.poll() is None and time.monotonic() < deadline, answer
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
    except BaseException:
        process.kill()
        raise
    status, out, err = outcome(process)
    assert status == 0, err.decode()
    assert (b"stopped" in err) is ("2>&-" not in closed)
    if command == "dev":
        assert (b"wsd publish" in out) is (">&-" not in closed.split())


def ask(port: int) -> bytes:
    with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=PATIENCE) as response:
        return bytes(response.read())
    return b""


@closing
@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("check", "--auth=none"), b"max_topics"),
        (("--help",), b"commands"),
        (("serve", "--help"), b"--max-topics"),
        (("--version",), b"wsd "),
    ],
    ids=["check", "help", "help of a command", "version"],
)
def test_what_only_prints(closed: str, args: tuple[str, ...], expected: bytes) -> None:
    check_result(closed, outcome(start(closed, *args)), expected)


@closing
def test_token(closed: str, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("correct-horse-battery-staple-0123456789")
    check_result(closed, outcome(start(closed, "token", f"--jwt-key-file={key}")), b"ey")


@closing
def test_publish_does_nothing_that_it_could_not_tell(closed: str, redis: RedisServer) -> None:
    with redis_py.Redis(port=redis.port) as client, client.pubsub() as subscriber:
        subscriber.subscribe("streams")
        assert subscriber.get_message(timeout=PATIENCE)["type"] == "subscribe"
        result = outcome(start(closed, "publish", "streams", "first", f"--redis-url={redis.url}"))
        check_result(closed, result, b"1 subscriber\n")
        redis.publish("streams", "second")
        message = subscriber.get_message(timeout=PATIENCE)
        assert message["data"] == (b"second" if ">&-" in closed.split() else b"first")


@closing
def test_tail(closed: str, redis: RedisServer, start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon("--auth=none", "--port=0", "--admin-port=0", f"--redis-url={redis.url}")
    process = start(closed, "tail", "streams-tail", "--count=1", f"--url={daemon.url}")
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and not redis.publish("streams-tail", "7") and time.monotonic() < deadline:
        time.sleep(0.02)
    check_result(closed, outcome(process), b"7\n")


@pytest.mark.parametrize("args", [("check", "--auth=none"), ("--help",), ("--version",)])
def test_a_standard_output_that_is_full(args: tuple[str, ...]) -> None:
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "wsd", *args]
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, env=plain_environment(), cwd=ROOT, check=False
        )
    assert (done.returncode, done.stderr) == (1, b"wsd: can't write to standard output: No space left on device\n")


def test_the_numbers_of_closed_streams_are_not_taken_by_others() -> None:
    """A socket with the number 1 would get what is printed; it never comes to that, whatever is opened first."""
    code = (
        "import os, socket, sys; from wsd.cli import main; sys.argv[1:] = ['--version']; main();"
        "opened = [socket.socket().fileno(), os.open('/', os.O_RDONLY)]; assert min(opened) > 2, opened;"
        "print('said', file=sys.stderr)"
    )
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {CLOSINGS[-1]}', "sh", sys.executable, "-c", code],
        env=plain_environment(),
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0


def test_publish_from_a_closed_standard_input_says_that_it_published_nothing(redis: RedisServer) -> None:
    status, out, _ = outcome(start("<&-", "publish", "streams", f"--redis-url={redis.url}"))
    assert (status, out) == (0, feed(b"", "publish", "streams", f"--redis-url={redis.url}").stdout)
    assert out.startswith(b"0 payloads")
