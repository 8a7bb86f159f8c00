"""``wsd dev``, and what it tells to type."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.lib.programs import SECRET, WSD, Command, refused_last, trying, wsd
from tests.lib.servers import RedisServer
from tests.lib.waiting import PATIENCE


class Dev(Command):
    """``wsd dev``, started, with what it tells to type."""

    def __init__(self, *args: str, **env: str) -> None:
        super().__init__([*WSD, "dev", *args], **env)
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
@pytest.mark.usefixtures("usual_ports")
def test_what_dev_tells_to_type_works_as_it_stands(taken: bool) -> None:
    with ExitStack() as stack:
        if taken:
            occupy(stack, 3000, 3001, 6379)
        dev = stack.enter_context(Dev(*(("--channel-prefix", "app:") if taken else ())))
        if taken:
            dev.err.wait_for("port 6379 is taken, perhaps by another Redis, which wsd dev leaves alone")
            assert dev.err.text.count("is taken; using a free one") == 2
            assert dev.redis_port != 6379
            assert f"--redis-url redis://127.0.0.1:{dev.redis_port}" in dev.commands[1]
            assert "without --redis-url it would publish at port 6379, which is another server's" in dev.out.text
        tail_command, publish_command, redis_command = dev.commands
        client = stack.enter_context(Command(tail_command))
        client.err.wait_for("subscribed to")
        with Command(publish_command) as publisher:
            assert publisher.end() == 0
            assert publisher.out.text == "1 subscriber\n"
        assert client.out.next() == b'{"hello":"world"}'
        if shutil.which("redis-cli"):
            assert subprocess.check_output(redis_command, shell=True) == b"1\n"
            assert client.out.next() == b'{"hello":"world"}'
        # Ctrl-C in its terminal.
        assert dev.end(signal.SIGINT) == 0
        assert "draining" in dev.err.text
        assert "lost the link" not in dev.err.text, "its Redis ended before it"
        client.err.wait_for("1012")
        wait_until_refused(dev.redis_port)


def test_the_redis_of_dev_ends_with_it_even_if_it_is_killed() -> None:
    with Dev("--port=0", "--admin-port=0") as dev:
        with socket.create_connection(("127.0.0.1", dev.redis_port), PATIENCE) as connection:
            connection.sendall(b"*1\r\n$4\r\nPING\r\n")
            assert connection.recv(100) == b"+PONG\r\n"
            assert dev.end(signal.SIGKILL) == -signal.SIGKILL
            assert connection.recv(100) == b""
        wait_until_refused(dev.redis_port)


def test_dev_ends_with_its_terminal() -> None:
    with Dev("--port=0", "--admin-port=0") as dev:
        # It confirms a subscription, and takes no PUBLISH on the same connection.
        status, line = trying(f"redis://127.0.0.1:{dev.redis_port}")
        assert status == 0 and line.endswith("channels *: subscribed")
        assert dev.end(signal.SIGHUP) == 0


def test_dev_with_a_redis_that_is_given(redis: RedisServer, topic: str) -> None:
    # What makes another daemon listen to the network with a key must not do so to one without authentication.
    env = {"WSD_REDIS_URL": redis.url, "WSD_HOST": "0.0.0.0", "WSD_JWT_KEY": SECRET, "WSD_AUTH": "jwt"}
    with Dev("--port=0", "--admin-port=0", **env) as dev:
        assert dev.redis_port == redis.port
        assert any(f"--redis-url {redis.url}" in command for command in dev.commands)
        assert "0.0.0.0" not in dev.out.text + dev.err.text
        with Command(dev.commands[0]) as client:
            client.err.wait_for("subscribed to chat")
            assert trying(redis.url)[0] == 0
            assert wsd("publish", "chat", "1", WSD_REDIS_URL=redis.url).returncode == 0
            assert client.out.next() == b"1"
        assert dev.end(signal.SIGTERM) == 0


def test_dev_says_so_when_a_port_that_was_given_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        line = refused_last(1, "dev", "--port", port, "--admin-port=0")
    assert line.startswith("wsd: can't listen on 127.0.0.1 port ")


def test_dev_without_fakeredis_says_what_installs_it(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['fakeredis'] = None\n")
    line = refused_last(1, "dev", "--port=0", "--admin-port=0", PYTHONPATH=str(tmp_path))
    assert "`pip install '.[dev]'` there" in line and "WSD_REDIS_URL" in line and "--redis-url" in line
