"""The daemon goes on whatever becomes of its standard error: a full pipe, a stopped terminal, a full disk."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import websocket

from bench.processes import Program, free_port
from tests.lib.servers import RedisServer
from tests.lib.waiting import PATIENCE
from wsd.logs.outlet import MAX_BYTES, MAX_LINES, Outlet

F_SETPIPE_SZ = 1031  # fcntl(2); Python has the name since 3.10 on Linux only


class Logging(Program):
    """``wsd serve`` in a process of its own, with a standard error of the test's choice."""

    def __init__(self, stderr: int | None, *flags: str, shell: str = "") -> None:
        self.port, self.admin_port = free_port(), free_port()
        command = [sys.executable, "-m", "wsd", "serve", "--auth", "none", "--drain-seconds", "0", *flags]
        command += ["--port", str(self.port), "--admin-port", str(self.admin_port)]
        if shell:
            command = ["sh", "-c", f'exec "$@" {shell}', "sh", *command]
        super().__init__(command, stderr=stderr)

    def get(self, path: str) -> str:
        """Ask the admin port."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}{path}", timeout=PATIENCE) as answer:
            return str(answer.read().decode())

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            assert time.monotonic() < deadline and self.status is None
            try:
                if self.get("/readyz").startswith("ready"):
                    return
            except OSError:
                time.sleep(0.02)

    def connect(self) -> tuple[websocket.WebSocket, str]:
        """Connect a client; return it and its session."""
        client = websocket.create_connection(f"ws://127.0.0.1:{self.port}", timeout=PATIENCE)
        client.recv()
        return client, json.loads(client.recv())["session"]

    def cause_lines(self, number: int) -> None:
        """Cause lines of the log: each request breaks another rule of the protocol, which its reason names."""
        for _ in range(number):
            client, _ = self.connect()
            for request in ("rubbish", '{"action":"nothing"}', '{"action":"subscribe","session":"x","context":"y"}'):
                client.send(request)
                client.recv()
            client.close()

    def metric(self, name: str) -> float:
        (line,) = [line for line in self.get("/metrics").splitlines() if line.startswith(f"{name} ")]
        return float(line.split(" ")[1])

    def end(self) -> int:
        self.signal(signal.SIGTERM)
        return self.wait(PATIENCE)


@pytest.fixture
def start(redis: RedisServer) -> Iterator[Callable[..., Logging]]:
    started: list[Logging] = []

    def start(stderr: int | None, *flags: str, shell: str = "") -> Logging:
        started.append(Logging(stderr, "--redis-url", redis.url, *flags, shell=shell))
        started[-1].wait_until_ready()
        return started[-1]

    yield start
    for daemon in started:
        daemon.kill()


def goes_on(daemon: Logging, redis: RedisServer) -> None:
    """Messages are delivered and health is told, while clients cause lines."""
    client, session = daemon.connect()
    client.send(json.dumps({"action": "subscribe", "session": session, "context": "goes-on"}))
    assert "context subscribed" in str(client.recv())
    daemon.cause_lines(10)
    assert daemon.get("/healthz") == "ok\n"
    redis.publish("goes-on", "1")
    assert '"snapshot":1' in str(client.recv())
    client.close()


def small_pipe() -> tuple[int, int]:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, F_SETPIPE_SZ, 4096)
    return reading, writing


def fill(writing: int) -> int:
    """Fill a pipe, so that the next write waits; return how many bytes that took."""
    os.set_blocking(writing, False)
    size = 0
    try:
        while True:
            size += os.write(writing, b"." * 64)
    except BlockingIOError:
        os.set_blocking(writing, True)
    return size


def test_a_full_pipe_stops_nothing_and_its_lines_come_when_somebody_reads(
    start: Callable[..., Logging], redis: RedisServer
) -> None:
    reading, writing = small_pipe()
    size = fill(writing)
    daemon = start(writing)
    os.close(writing)
    goes_on(daemon, redis)
    log: list[bytes] = []

    def read() -> None:
        while data := os.read(reading, 65536):
            log.append(data)

    reader = threading.Thread(target=read)
    reader.start()
    assert daemon.end() == 0
    reader.join(PATIENCE)
    os.close(reading)
    lines = b"".join(log)[size:].decode().splitlines()
    assert " listens on " in lines[0]
    assert any("refused a request" in line for line in lines)
    assert lines[-1].endswith("stopped")


@pytest.mark.parametrize("blocking", [True, False])
def test_a_pipe_that_nobody_reads_does_not_hold_up_the_end(
    blocking: bool, start: Callable[..., Logging], redis: RedisServer
) -> None:
    reading, writing = small_pipe()
    fill(writing)
    os.set_blocking(writing, blocking)
    daemon = start(writing)
    goes_on(daemon, redis)
    started = time.monotonic()
    assert daemon.end() == 0
    assert time.monotonic() - started < PATIENCE
    os.close(reading)
    os.close(writing)


def test_a_failed_start_ends_although_nobody_reads_why() -> None:
    reading, writing = small_pipe()
    fill(writing)
    daemon = Logging(writing, "--host", "203.0.113.1")  # TEST-NET-3: no address of this machine
    assert daemon.wait(PATIENCE) == 1
    os.close(reading)
    os.close(writing)


def test_a_stopped_terminal_stops_nothing(start: Callable[..., Logging], redis: RedisServer) -> None:
    master, slave = pty.openpty()
    termios.tcflow(slave, termios.TCOOFF)  # what Ctrl-S does
    daemon = start(slave)
    goes_on(daemon, redis)
    assert daemon.end() == 0
    os.close(slave)
    os.close(master)


def test_a_full_disk_stops_nothing_and_is_counted(start: Callable[..., Logging], redis: RedisServer) -> None:
    with open("/dev/full", "w") as full:
        daemon = start(full.fileno())
        goes_on(daemon, redis)
        assert daemon.metric("wsd_log_lines_lost_total") == 0  # they wait for room
        assert daemon.end() == 0


def test_a_reader_that_has_left_stops_nothing(start: Callable[..., Logging], redis: RedisServer) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    daemon = start(writing)
    os.close(writing)
    goes_on(daemon, redis)
    assert daemon.end() == 0


# The outlet alone.


def loss(number: int, reason: str) -> bytes:
    return f"{number} lost: {reason}\n".encode()


def read_all(reading: int) -> list[str]:
    data = b""
    while chunk := os.read(reading, 65536):
        data += chunk
    os.close(reading)
    return data.decode().splitlines()


@pytest.mark.parametrize(("size", "fits"), [(1, MAX_LINES), (8192, MAX_BYTES // 8192)])
def test_what_does_not_fit_is_counted_and_said_where_the_hole_is(size: int, fits: int) -> None:
    reading, writing = small_pipe()
    outlet = Outlet(writing, loss)
    line = b"x" * (size - 1) + b"\n"
    filled = fill(writing)
    for _ in range(2 * fits):
        outlet.put(line)
    lost = outlet.lost
    assert fits - 2 <= lost <= fits
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(read_all(reading)))
    reader.start()
    assert outlet.drain(PATIENCE)
    outlet.put(b"after\n")
    assert outlet.drain(PATIENCE)
    outlet.close()
    os.close(writing)
    reader.join(PATIENCE)
    lines[0] = lines[0][filled:]
    assert lines == [line[:-1].decode()] * (2 * fits - lost) + [f"{lost} lost: nobody read it fast enough", "after"]
    assert outlet.lost == lost


def test_lines_that_failed_are_written_when_the_disk_has_room_again(tmp_path: Path) -> None:
    """What stands for a disk with room again: the descriptor becomes that of a file, under the writing thread."""
    descriptor = os.open("/dev/full", os.O_WRONLY)
    outlet = Outlet(descriptor, loss)
    outlet.put(b"one\n")
    outlet.put(b"two\n")
    while not outlet._problem:
        time.sleep(0.001)
    path = tmp_path / "log"
    with path.open("wb") as file:
        os.dup2(file.fileno(), descriptor)
    assert outlet.drain(PATIENCE)
    outlet.close()
    assert path.read_bytes() == b"one\ntwo\n"
    os.close(descriptor)


def test_lines_given_up_at_the_end_are_counted() -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    outlet = Outlet(descriptor, loss)
    outlet.put(b"one\n")
    outlet.put(b"two\n")
    assert outlet.drain(PATIENCE)
    assert outlet.lost == 2
    outlet.close()


def test_a_closed_descriptor_ends_neither_thread_nor_daemon(start: Callable[..., Logging], redis: RedisServer) -> None:
    daemon = start(None, shell="2>&-")
    goes_on(daemon, redis)
    daemon.signal(signal.SIGTERM)
    daemon.wait(PATIENCE)


@pytest.mark.parametrize(
    ("flags", "environment", "file", "words"),
    [
        (["--port", "x", "--log-format", "json"], {}, "", "port: 'x'"),
        (["--port=x", "--log-format=json"], {}, "", "port: 'x'"),
        (["--prot", "3"], {"WSD_LOG_FORMAT": "JSON"}, "", "--prot: no such flag"),
        ([], {"WSD_PORT": "x", "WSD_LOG_FORMAT": "json"}, "", "port: 'x'"),
        ([], {}, 'log_format = "json"\nnosuch = 1', "nosuch"),
    ],
)
def test_mistakes_in_the_settings_are_json_where_the_log_is(
    flags: list[str], environment: dict[str, str], file: str, words: str, tmp_path: Path
) -> None:
    config = tmp_path / "wsd.toml"
    config.write_text(file)
    done = subprocess.run(
        [sys.executable, "-m", "wsd", "serve", "--auth", "none", "--config", str(config), *flags],
        env={name: value for name, value in os.environ.items() if not name.startswith("WSD_")} | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 2
    (entry,) = [json.loads(line) for line in done.stderr.splitlines()]
    assert (entry["level"], entry["logger"]) == ("error", "wsd")
    assert words in entry["message"]


def test_mistakes_in_the_settings_are_said_to_nobody_without_waiting() -> None:
    reading, writing = small_pipe()
    fill(writing)
    daemon = Logging(writing, "--ping-interval", "x")
    assert daemon.wait(PATIENCE) == 2
    os.close(reading)
    os.close(writing)


BUG = """
import sys
import uvloop
from wsd import cli
def run(*arguments):
    raise ZeroDivisionError("a bug")
uvloop.new_event_loop = run
sys.exit(cli.main())
"""


def test_an_uncaught_exception_is_one_json_object() -> None:
    command = [sys.executable, "-c", BUG, "serve", "--auth=none", "--log-format=json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 1
    entry = [json.loads(line) for line in done.stderr.splitlines()][-1]
    assert entry["level"] == "critical"
    assert entry["traceback"].endswith("ZeroDivisionError: a bug")


def test_start_up_errors_come_in_order_behind_the_log(redis: RedisServer) -> None:
    reading, writing = os.pipe()
    daemon = Logging(writing, "--host", "203.0.113.1", "--redis-url", redis.url, "--log-format", "json")
    os.close(writing)
    assert daemon.wait(PATIENCE) == 1
    entries = [json.loads(line) for line in read_all(reading)]
    assert [entry["level"] for entry in entries][-1] == "error"
    assert "203.0.113.1" in entries[-1]["message"]
