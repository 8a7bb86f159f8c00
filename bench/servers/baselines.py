"""What is written here to be measured against: the floors, the naive servers on Python and on Node, and bare links."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import ClassVar, cast

from bench.servers.server import KEY, Server

__all__ = [
    "LINKS",
    "FloorServer",
    "JoinedFloorServer",
    "LinksServer",
    "NaiveServer",
    "NodeServer",
    "TransportFloorServer",
]

NODE_DIRECTORY = Path(__file__).parent / "node"


class NaiveServer(Server):
    """naive.py."""

    name = "naive"
    title = "naive (websockets, redis-py, broadcast)"
    python = True

    @classmethod
    def absent(cls) -> str:
        """See :meth:`Server.absent`."""
        return ""

    def command(self) -> list[str]:
        """See :meth:`Process.command`."""
        return [sys.executable, "-m", "bench.servers.naive", str(self.port), str(self.redis.port), KEY]


class FloorServer(Server):
    """floor.py."""

    name = "floor"
    title = "floor (a loop of send)"
    python = True
    dialect = "raw"
    way: ClassVar[str] = "send"

    @classmethod
    def absent(cls) -> str:
        """See :meth:`Server.absent`."""
        return ""

    def command(self) -> list[str]:
        """See :meth:`Process.command`."""
        return [sys.executable, "-m", "bench.servers.floor", str(self.port), str(self.redis.port), self.way]


class JoinedFloorServer(FloorServer):
    """floor.py, joining."""

    name = "floor-joined"
    title = "floor, messages joined"
    way = "joined"


class TransportFloorServer(FloorServer):
    """floor.py on uvloop's transports."""

    name = "floor-transport"
    title = "floor, uvloop's transport.write"
    way = "transport"


class NodeServer(Server):
    """node/server.js."""

    name = "node"
    title = "Node: ws and ioredis"

    @classmethod
    def absent(cls) -> str:
        """See :meth:`Server.absent`."""
        if shutil.which("node") is None:
            return "no node on PATH"
        if not (NODE_DIRECTORY / "node_modules" / "ws").is_dir():
            return "not installed: npm install --prefix bench/servers/node"
        return ""

    def command(self) -> list[str]:
        """See :meth:`Process.command`."""
        return ["node", str(NODE_DIRECTORY / "server.js"), str(self.port), str(self.redis.port), KEY]


class LinksServer(Server):
    """links.py: no server for clients, but what workers are for Redis."""

    dialect = ""
    everywhere = False
    links: ClassVar[int]

    @classmethod
    def absent(cls) -> str:
        """See :meth:`Server.absent`."""
        return ""

    def command(self) -> list[str]:
        """See :meth:`Process.command`."""
        numbers = (self.port, self.redis.port, self.links, self.topics)
        return [sys.executable, "-m", "bench.servers.links", *map(str, numbers)]


def _links(count: int) -> type[LinksServer]:
    words = "1 bare subscriber of Redis" if count == 1 else f"{count} bare subscribers of Redis"
    members = {"name": f"links-{count}", "title": words, "links": count}
    return cast(type[LinksServer], type(f"Links{count}Server", (LinksServer,), members))


LINKS = tuple(map(_links, (1, 2, 4, 8)))
"""As many workers as one message may have."""
