"""Servers of others that are their own brokers, so nothing of theirs passes through Redis."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from pathlib import Path

from bench.processes import free_port
from bench.servers.process import RedisServer
from bench.servers.server import Server

__all__ = ["NatsServer", "NchanServer"]

NCHAN_MODULES = ("/usr/lib/nginx/modules/ngx_nchan_module.so", "/usr/share/nginx/modules/ngx_nchan_module.so")
"""Where distributions put it."""


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
