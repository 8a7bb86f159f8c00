"""wsd, which is what all of this is about."""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Collection
from urllib.request import urlopen

from bench.processes import free_port
from bench.servers.process import RedisServer, ServerError
from bench.servers.server import KEY, Server

__all__ = ["FourWorkers", "TwoWorkers", "WsdServer"]

_SAMPLE = rb"^%b(\{.*\})? ([0-9.e+]+)$"
"""A line of wsd's /metrics."""


class WsdServer(Server):
    """wsd, one worker, with the settings that it comes with; every client has a token."""

    name = "wsd"
    title = "wsd"
    python = True
    workers: int = 1
    drain_seconds: int = 0  # that its clients have to leave, or to go over to another worker

    def __init__(self, redis: RedisServer, cores: Collection[int] = ()) -> None:
        super().__init__(redis, cores)
        self.admin_port = free_port()
        self._reloads = {"done": 0, "failed": 0}  # before the reload that was begun last, by result

    @classmethod
    def absent(cls) -> str:
        """See :meth:`Server.absent`."""
        return ""

    def command(self) -> list[str]:
        """See :meth:`Process.command`."""
        key = self._directory / "key"
        key.write_text(KEY)
        flags = {
            "port": self.port,
            "admin-port": self.admin_port,
            "redis-url": f"redis://127.0.0.1:{self.redis.port}",
            "jwt-key-file": key,
            "drain-seconds": self.drain_seconds,
        }
        if self.workers > 1:  # a checkout that is measured against this one may not know the flag
            flags["workers"] = self.workers
        line = [sys.executable, "-m", "wsd", "serve"]
        return line + [part for name, value in flags.items() for part in (f"--{name}", str(value))]

    def ready(self) -> bool:
        """Whether it is connected to Redis, too."""
        try:
            with socket.create_connection(("127.0.0.1", self.admin_port), timeout=1) as admin:
                admin.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
                return b" 200 " in admin.recv(1024)
        except OSError:
            return False

    def reload(self) -> None:
        """See :meth:`Process.reload`."""
        self._reloads = {result: self._reloads_so_far(result) for result in self._reloads}
        super().reload()

    def reloaded(self) -> bool:
        """See :meth:`Process.reloaded`.

        Raises:
            ServerError: if the reload has failed.
        """
        if not super().reloaded():
            return False
        if self._reloads_so_far("failed") > self._reloads["failed"]:
            raise ServerError(f"the reload has failed: {self.log()[-2000:]}")
        return self._reloads_so_far("done") > self._reloads["done"]

    def _reloads_so_far(self, result: str) -> int:
        return self._counted(b"wsd_reloads_total", b'result="%b"' % result.encode()) or 0

    def tasks(self) -> int | None:
        """See :meth:`Server.tasks`: those of all workers."""
        return self._counted(b"wsd_tasks")

    def moved(self) -> int | None:
        """See :meth:`Server.moved`."""
        return self._counted(b"wsd_moves_total", b'result="in"')

    def _counted(self, name: bytes, label: bytes = b"") -> int | None:
        """A number of the metrics, added up over what differs in labels; None if there is none.

        Args:
            name: of the samples.
            label: that they must have.
        """
        try:
            with urlopen(f"http://127.0.0.1:{self.admin_port}/metrics", timeout=5) as answer:
                text = answer.read()
        except OSError:
            return None
        found = [float(value) for labels, value in re.findall(_SAMPLE % name, text, re.MULTILINE) if label in labels]
        return int(sum(found)) if found else None


class TwoWorkers(WsdServer):
    """wsd with two workers."""

    name = "wsd-2"
    title = "wsd, 2 workers"
    everywhere = False
    workers = 2


class FourWorkers(TwoWorkers):
    """wsd with four workers."""

    name = "wsd-4"
    title = "wsd, 4 workers"
    workers = 4
