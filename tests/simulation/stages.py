"""Where conversations are played: real servers, and those of the model.

Both are used in the same way, step by step: connect, send, wait until what it causes has arrived, receive.
"""

from __future__ import annotations

import asyncio
import select
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from contextlib import suppress
from random import Random
from typing import Any

import hiredis

from tests.lib.servers import RedisServer
from tests.lib.topologies import ClusterOfSix, SentinelTrio
from tests.lib.waiting import PATIENCE
from tests.simulation.cluster import Cluster, Node
from tests.simulation.loop import SimulatedLoop
from tests.simulation.network import Network
from tests.simulation.redis import Server
from tests.simulation.sentinel import Sentinel, Sentinels

__all__ = [
    "Line",
    "ModelCluster",
    "ModelSentinels",
    "ModelServer",
    "RealCluster",
    "RealSentinels",
    "RealServer",
    "Stage",
]

VIRTUAL_PATIENCE = 120.0
"""Seconds of virtual time until the model is given up."""

STEP = 0.05
"""Seconds of virtual time in which what a command causes has arrived everywhere."""


class Line(ABC):
    """A connection to a server."""

    ended = False  # whether the server has closed it

    @abstractmethod
    def send(self, data: bytes) -> None:
        """Send commands."""

    @abstractmethod
    def receive(self) -> bytes:
        """Take what has arrived; it may be nothing."""

    def stop(self) -> None:  # noqa: B027 - from a socket nobody reads who does not receive
        """Read nothing until :meth:`go_on`."""

    def go_on(self) -> None:  # noqa: B027
        """Read again."""

    @abstractmethod
    def close(self) -> None:
        """Close it."""


class Stage(ABC):
    """Servers, by name."""

    def __init__(self) -> None:
        self.places: dict[str, tuple[str, int]] = {}
        self.ids: dict[str, str] = {}  # of the nodes of a Cluster

    @abstractmethod
    def open(self, server: str) -> Line:
        """Connect to a server.

        Raises:
            OSError: if it is away.
        """

    @abstractmethod
    def wait(self, server: str) -> None:
        """Wait until a server has answered all that was sent to it."""

    @abstractmethod
    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait until something is the case.

        Raises:
            AssertionError: if it never is.
        """

    @abstractmethod
    def close(self) -> None:
        """End it, or what there is of it here."""

    def ask(self, server: str, *words: str) -> Any:
        """Let a server execute a command, on a connection of its own."""
        line, reader = self.open(server), hiredis.Reader(encoding="utf-8", errors="replace")
        replies: list[Any] = []

        def answered() -> bool:
            reader.feed(line.receive())
            replies.append(reader.gets())
            return replies[-1] is not False or line.ended

        line.send(hiredis.pack_command(words))  # type: ignore[arg-type]  # its stub
        self.until(answered, f"{server}'s answer to {words}")
        line.close()
        return replies[-1]


# Real servers.


class _RealLine(Line):
    def __init__(self, place: tuple[str, int]) -> None:
        self._socket = socket.create_connection(place, timeout=PATIENCE)

    def send(self, data: bytes) -> None:
        with suppress(ConnectionError):  # which the next receive() finds
            self._socket.sendall(data)

    def receive(self) -> bytes:
        parts: list[bytes] = []
        while not self.ended and select.select([self._socket], [], [], 0)[0]:
            try:
                parts.append(self._socket.recv(1 << 20))
                self.ended = not parts[-1]
            except ConnectionError:
                self.ended = True
        return b"".join(parts)

    def ping(self) -> None:
        """Wait for the answer to a PING, or an error.

        Raises:
            ConnectionError: if the server has closed the connection.
        """
        self._socket.sendall(b"PING\r\n")
        if not self._socket.recv(65_536):
            raise ConnectionError

    def close(self) -> None:
        self._socket.close()


class _Real(Stage):
    def __init__(self) -> None:
        super().__init__()
        self._controls: dict[str, _RealLine] = {}

    def open(self, server: str) -> Line:
        """See :meth:`Stage.open`."""
        return _RealLine(self.places[server])

    def wait(self, server: str) -> None:
        """See :meth:`Stage.wait`.

        A server reads from all connections that have something for it, and then writes to all of them. So the answer to
        a first PING may come before that to a command which was sent before; a second PING is executed after it.
        """
        for _ in range(2):
            try:
                self._control(server).ping()
            except ConnectionError:  # a server that changes its role closes all connections
                self._controls.pop(server).close()
                self._control(server).ping()

    def _control(self, server: str) -> _RealLine:
        if server not in self._controls:
            self._controls[server] = _RealLine(self.places[server])
        return self._controls[server]

    def until(self, condition: Callable[[], object], what: str) -> None:
        """See :meth:`Stage.until`."""
        deadline = time.monotonic() + PATIENCE
        while True:
            with suppress(ConnectionError):
                if condition():
                    return
            assert time.monotonic() < deadline, f"{what} did not come true"
            time.sleep(0.005)

    def close(self) -> None:
        """Forget the connections."""
        for control in self._controls.values():
            control.close()
        self._controls.clear()


class RealServer(_Real):
    """A redis-server, ``A``.

    Args:
        server: it.
    """

    def __init__(self, server: RedisServer) -> None:
        super().__init__()
        self.places["A"] = ("127.0.0.1", server.port)


class RealSentinels(_Real):
    """A master ``M``, two replicas ``R`` and ``r``, and Sentinels ``S``, ``T`` and ``U``.

    Args:
        trio: they.
    """

    def __init__(self, trio: SentinelTrio) -> None:
        super().__init__()
        trio.settle()
        master = trio.master()
        servers = [master, *(server for server in trio.servers if server is not master)]
        for name, server in zip("MRrSTU", (*servers, *trio.sentinels), strict=True):
            self.places[name] = ("127.0.0.1", server.port)
        self._servers = dict(zip("MRr", servers, strict=True))
        trio.hasten()

    def freeze(self, server: str) -> None:
        """Let a server do nothing."""
        self._servers[server].freeze()

    def thaw(self, server: str) -> None:
        """Let it go on."""
        self._servers[server].thaw()


class RealCluster(_Real):
    """Masters ``A``, ``B`` and ``C``, in the order of their slots, and their replicas ``a``, ``b`` and ``c``.

    Args:
        cluster: it.
    """

    def __init__(self, cluster: ClusterOfSix) -> None:
        super().__init__()
        masters = [cluster.at(port) for port in dict.fromkeys(cluster.owners())]
        nodes = [*masters, *map(cluster.replica_of, masters)]
        self._nodes = dict(zip("ABCabc", nodes, strict=True))
        self._cluster = cluster
        for name, node in self._nodes.items():
            self.places[name] = ("127.0.0.1", node.port)
            self.ids[name] = node.id
        self.settle()

    def freeze(self, server: str) -> None:
        """Let a node do nothing."""
        self._nodes[server].freeze()

    def thaw(self, server: str) -> None:
        """Let it go on."""
        self._nodes[server].thaw()

    def kill(self, server: str) -> None:
        """End a node."""
        self._nodes[server].stop()

    def serve_when_down(self, server: str, whether: str) -> None:
        """Let a node serve sharded channels while the cluster is down, ``yes`` or ``no``."""
        self._nodes[server].tell("CONFIG", "SET", "cluster-allow-pubsubshard-when-down", whether)

    def settle(self) -> None:
        """Make all well, and wait until it is."""
        self._cluster.settle()
        for name, key in (("A", "bar"), ("B", "c"), ("C", "a")):
            # CLUSTER SLOTS names no replica that has not got anything yet.
            with suppress(hiredis.ReplyError):
                self._nodes[name].tell("SET", f"{{{key}}}settled", "1")
        self.until(lambda: all(map(self._tells_replicas, self.places)), "replicas in CLUSTER SLOTS")

    def _tells_replicas(self, server: str) -> bool:
        return all(len(entry) == 4 for entry in self.ask(server, "CLUSTER", "SLOTS"))


# The model.


class _ModelLine(Line, asyncio.Protocol):
    def __init__(self) -> None:
        self._data = bytearray()
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True

    def send(self, data: bytes) -> None:
        self.transport.write(data)

    def receive(self) -> bytes:
        data = bytes(self._data)
        self._data.clear()
        return data

    def stop(self) -> None:
        self.transport.pause_reading()

    def go_on(self) -> None:
        self.transport.resume_reading()

    def close(self) -> None:
        self.transport.close()


class _Model(Stage):
    def __init__(self, seed: int = 1) -> None:
        super().__init__()
        self.loop = SimulatedLoop()
        self.network = Network(self.loop, Random(seed))
        self.servers: dict[str, Server] = {}

    def _start(self, loading: float = 0.0) -> None:
        for name, server in self.servers.items():
            self.places[name] = server.place
            server.start(loading)
        self._run(asyncio.sleep(5.0))

    def _run(self, doing: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(doing)

    def open(self, server: str) -> _ModelLine:
        """See :meth:`Stage.open`."""
        _, line = self._run(self.loop.create_connection(_ModelLine, *self.places[server]))
        assert isinstance(line, _ModelLine)
        return line

    def wait(self, server: str) -> None:
        """See :meth:`Stage.wait`."""
        self._run(asyncio.sleep(STEP))

    def until(self, condition: Callable[[], object], what: str) -> None:
        """See :meth:`Stage.until`."""
        deadline = self.loop.now + VIRTUAL_PATIENCE
        while True:
            with suppress(ConnectionError):
                if condition():
                    return
            assert self.loop.now < deadline, f"{what} did not come true"
            self._run(asyncio.sleep(STEP))

    def freeze(self, server: str) -> None:
        """Let a server do nothing."""
        self.loop.freeze(self.servers[server].process)

    def thaw(self, server: str) -> None:
        """Let it go on."""
        self.loop.thaw(self.servers[server].process)

    def kill(self, server: str) -> None:
        """End a server."""
        self.servers[server].kill()

    def close(self) -> None:
        """End it."""
        self.loop.close()


class ModelServer(_Model):
    """A server of the model, ``A``.

    Args:
        configure: does something to the server before it starts.
        seed: of what happens by chance.
        loading: seconds for which it loads; the first five of them are over when this returns.
    """

    def __init__(
        self, configure: Callable[[Server], object] = lambda server: None, seed: int = 1, loading: float = 0.0
    ) -> None:
        super().__init__(seed)
        self.servers["A"] = Server(self.loop, self.network, "10.0.0.1")
        configure(self.servers["A"])
        self._start(loading)


class ModelSentinels(_Model):
    """The model of what :class:`RealSentinels` has."""

    def __init__(self, seed: int = 1) -> None:
        super().__init__(seed)
        servers = [Server(self.loop, self.network, f"10.0.0.{number}") for number in (1, 2, 3)]
        self.team = Sentinels(servers)
        self.team.sentinels = [Sentinel(self.loop, self.network, f"10.0.2.{number}", self.team) for number in (1, 2, 3)]
        self.servers = dict(zip("MRrSTU", (*servers, *self.team.sentinels), strict=True))
        self._start()


class ModelCluster(_Model):
    """The model of what :class:`RealCluster` has."""

    def __init__(self, seed: int = 1) -> None:
        super().__init__(seed)
        self.cluster = Cluster(self.network.random)
        self.cluster.nodes = [
            Node(self.loop, self.network, f"10.0.0.{number}", 7000, self.cluster) for number in range(1, 7)
        ]
        self.cluster.form(3)
        self.servers = dict(zip("ABCabc", self.cluster.nodes, strict=True))
        self.ids = {name: node.id.decode() for name, node in zip("ABCabc", self.cluster.nodes, strict=True)}
        self._start()

    def serve_when_down(self, server: str, whether: str) -> None:
        """Let a node serve sharded channels while the cluster is down, ``yes`` or ``no``."""
        node = self.servers[server]
        assert isinstance(node, Node)
        node.pubsub_when_down = whether == "yes"

    def join(self, server: str) -> None:
        """Connect a node with the others again."""
        node = self.servers[server]
        assert isinstance(node, Node)
        self.cluster.join(node)

    def settle(self) -> None:
        """Wait until all is well."""
        self.until(self._agree, "a cluster whose nodes agree")

    def _agree(self) -> bool:
        nodes = self.cluster.nodes
        views = [[*node.slots, *map(node._master_of, nodes)] for node in nodes]
        well = all(node.ok and (node.master is None or node.hears_master()) for node in nodes)
        return well and all(view == views[0] for view in views)
