"""Deployments of Redis that can be harmed: a master with replicas and Sentinels, and a cluster.

Both take seconds to start and are meant to be used again: `settle` makes one whole after a fault.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import hiredis
from redis.crc import key_slot

from bench.processes import free_port, redis_executable
from tests.lib.pipe import ask
from tests.lib.servers import RedisServer, Sentinel
from tests.lib.waiting import PATIENCE, until

__all__ = [
    "SLOTS",
    "ClusterOfSix",
    "ClusterOfThree",
    "SentinelTrio",
    "newest_master",
    "redis_cli",
    "slot_owners",
]

SLOTS = 16_384

MASTER = "mymaster"
"""What the Sentinels call the master."""

DOWN_AFTER = 1000
"""Milliseconds without an answer until a Sentinel takes a server for down."""

FAILOVER_TIMEOUT = 3000
"""Milliseconds; a failover that went wrong is tried again after twice as long."""

NODE_TIMEOUT = 1500
"""Milliseconds without an answer until a node takes another for down."""

SETTLE = 120.0
"""Seconds that a deployment has to become whole again."""

SOON = 1.0
"""Seconds that whoever knows only their ports gives servers of which some may be frozen. On a busy machine one that is
well can take longer: it must not matter to a test what a single one says."""

BUS = 10_000
"""How far above its port a node of a cluster listens for other nodes."""


def redis_cli(*arguments: str | int) -> str:
    """Run redis-cli; return what it prints."""
    program = shutil.which("redis-cli") or str(Path(redis_executable()).with_name("redis-cli"))
    done = subprocess.run(
        [program, *map(str, arguments)], capture_output=True, text=True, timeout=2 * SETTLE, check=False
    )
    assert done.returncode == 0, f"redis-cli {arguments}: {done.stdout}{done.stderr}"
    return done.stdout


class Watcher(Sentinel):
    """A Sentinel that watches one master.

    Args:
        master: its port.
    """

    def __init__(self, master: int) -> None:
        super().__init__(
            f"sentinel monitor {MASTER} 127.0.0.1 {master} 2",
            f"sentinel auth-user {MASTER} {SENTINEL_USER}",
            f"sentinel auth-pass {MASTER} {SENTINEL_USER}",
            f"sentinel down-after-milliseconds {MASTER} {DOWN_AFTER}",
            f"sentinel failover-timeout {MASTER} {FAILOVER_TIMEOUT}",
        )

    def __call__(self, *command: str | bytes | int) -> Any:
        """Run one command."""
        return ask(self.port, *command)


def newest_master(sentinels: Iterable[int]) -> int:
    """The port of the master, as the latest election has it: one Sentinel knows it before the others do.

    Args:
        sentinels: the ports of the Sentinels; some may be away.
    """
    said = []
    for port in sentinels:
        with suppress(hiredis.HiredisError, OSError):
            said.append(_master(port))
    assert said, "no Sentinel answers"
    return max(said)[1]


def _master(sentinel: int) -> tuple[int, int]:
    """Which election made the master, as a number that grows, and the master's port."""
    fields = dict(_pairs(ask(sentinel, "SENTINEL", "MASTER", MASTER)))
    port = int(ask(sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)[1])
    # A failover that is under way is told by the address, and not yet by the fields.
    return int(fields["config-epoch"]) + (port != int(fields["port"])), port


def _pairs(flat: Any) -> Iterable[tuple[str, str]]:
    return flat.items() if isinstance(flat, dict) else zip(flat[0::2], flat[1::2], strict=True)


SENTINEL_USER = "sentinel"
"""The user, and password, as which the Sentinels log in: without its permissions a server is down to them alone."""


class Replicated(RedisServer):
    """A master or a replica."""

    def __init__(self, *options: str) -> None:
        super().__init__(
            *("--repl-diskless-sync-delay", "0", "--repl-timeout", "5"),
            *("--user", SENTINEL_USER, "on", f">{SENTINEL_USER}", "allcommands", "allchannels", "allkeys"),
            *options,
        )

    def role(self) -> str:
        """master or slave."""
        return str(ask(self.port, "ROLE")[0])

    def follows(self, master: int) -> bool:
        """Whether it is a replica of a master and up to date."""
        role = ask(self.port, "ROLE")
        return bool(role[0] == "slave" and int(role[2]) == master and role[3] == "connected")


class SentinelTrio:
    """A master, two replicas and three Sentinels; a context manager that ends what it has started."""

    name = MASTER

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.servers: list[Replicated] = []
            self.sentinels: list[Watcher] = []
            for _ in range(3):
                follow = ("--replicaof", "127.0.0.1", str(self.servers[0].port)) if self.servers else ()
                self.servers.append(Replicated(*follow))
                stack.callback(self.servers[-1].remove)
            for _ in range(3):
                self.sentinels.append(Watcher(self.servers[0].port))
                stack.callback(self.sentinels[-1].remove)
            self._first = self.servers[0].port
            self.settle()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        """Its redis_url."""
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/{self.name}"

    def master_port(self) -> int:
        """The port of the master."""
        return newest_master(sentinel.port for sentinel in self.sentinels)

    def master(self) -> Replicated:
        """The master."""
        port = self.master_port()
        return next(server for server in self.servers if server.port == port)

    def fail_over(self) -> None:
        """Let a Sentinel choose another master although there is one."""
        self.sentinels[-1]("SENTINEL", "FAILOVER", MASTER)

    def blind(self, server: Replicated) -> None:
        """Let a server be down to the Sentinels, and to nobody else."""
        server("ACL", "SETUSER", SENTINEL_USER, "-@all")

    def settle(self) -> None:
        """Make it whole: start or thaw what is down, and wait until all know of each other."""
        for sentinel in self.sentinels:
            if sentinel.process.status is not None:
                sentinel.start()
        until(self.master_port, "a master", SETTLE)
        for server in self.servers:
            if server.process.status is not None:
                self._restart(server)
            server.thaw()
        for server in self.servers:
            server("ACL", "SETUSER", SENTINEL_USER, "allcommands")
        self.hasten()
        until(self._whole, "a master with two replicas and three Sentinels that agree", SETTLE)
        self._set_periods(10_000, 2000)

    def hasten(self) -> None:
        """Let Sentinels look and tell five times a second, until they are settled again."""
        self._set_periods(200, 200)

    def _set_periods(self, info: int, publish: int) -> None:
        """Set how often Sentinels ask servers for their state and tell each other theirs, in milliseconds.

        At the defaults it takes them twenty seconds to make a replica of a former master. Redis 6 can't change them.
        """
        for sentinel in self.sentinels:
            with suppress(hiredis.ReplyError):
                sentinel("SENTINEL", "DEBUG", "INFO-PERIOD", info, "PUBLISH-PERIOD", publish)

    def _restart(self, server: Replicated) -> None:
        """Start a server that was ended, as a replica of the present master."""
        server.start("--replicaof", "127.0.0.1", str(self.master_port()))

    def _whole(self) -> bool:
        master = self.master_port()
        return all(self._sees_all(sentinel, master) for sentinel in self.sentinels) and all(
            server.role() == "master" if server.port == master else server.follows(master) for server in self.servers
        )

    def _sees_all(self, sentinel: Watcher, master: int) -> bool:
        fields = dict(_pairs(sentinel("SENTINEL", "MASTER", MASTER)))
        replicas = [dict(_pairs(replica)) for replica in sentinel("SENTINEL", "REPLICAS", MASTER)]
        return (
            (int(fields["port"]), fields["flags"], fields["num-other-sentinels"]) == (master, "master", "2")
            and len(replicas) == 2
            and all(replica["flags"] == "slave" and replica["master-port"] == str(master) for replica in replicas)
            and all(replica["master-link-status"] == "ok" for replica in replicas)
        )


class Node(RedisServer):
    """A node of a cluster."""

    def __init__(self) -> None:
        super().__init__(
            *("--cluster-enabled", "yes", "--cluster-node-timeout", str(NODE_TIMEOUT)),
            *("--cluster-replica-validity-factor", "0", "--cluster-allow-replica-migration", "no"),
            *("--repl-diskless-sync-delay", "0", "--repl-timeout", "5"),
            port=free_port(bus=BUS),
        )
        self.id = str(ask(self.port, "CLUSTER", "MYID"))

    def tell(self, *command: str | int) -> Any:
        """Run one command."""
        return ask(self.port, *command)

    def nodes(self) -> list[list[str]]:
        """What it knows of all nodes: the fields of each line of CLUSTER NODES."""
        return _nodes(self.port, PATIENCE)


class ClusterOfSix:
    """Three masters with a replica each; a context manager that ends what it has started."""

    def __enter__(self) -> Self:
        self._failed_over_at = 0.0
        with ExitStack() as stack:
            self.nodes: list[Node] = []
            for _ in range(6):
                self.nodes.append(Node())
                stack.callback(self.nodes[-1].remove)
            places = [f"127.0.0.1:{node.port}" for node in self.nodes]
            redis_cli("--cluster", "create", *places, "--cluster-replicas", 1, "--cluster-yes")
            self.settle()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        """Its redis_url, with three of its nodes."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes[::2])

    def owners(self) -> list[int]:
        """The port of the master of each slot."""
        return slot_owners([node.port for node in self.nodes if not node.frozen], PATIENCE)

    def owner(self, channel: str) -> Node:
        """The master of a channel's slot."""
        return self.at(self.owners()[key_slot(channel.encode())])

    def at(self, port: int) -> Node:
        """The node that listens on a port."""
        return next(node for node in self.nodes if node.port == port)

    def masters(self) -> list[Node]:
        """The masters that have slots."""
        return [self.at(port) for port in sorted(set(self.owners()) - {0})]

    def replica_of(self, master: Node) -> Node:
        """The replica of a master."""
        ids = [fields[0] for fields in master.nodes() if fields[3] == master.id]
        return next(node for node in self.nodes if node.id in ids)

    def fail_over(self, master: Node) -> None:
        """Let a master's replica take its place, with its consent."""
        self._failed_over_at = time.monotonic()
        self.replica_of(master).tell("CLUSTER", "FAILOVER")

    def move_slots(self, slots: Iterable[int], target: Node) -> None:
        """Move slots without keys, one after the other, as redis-cli does."""
        owners = self.owners()
        for slot in slots:
            source = self.at(owners[slot])
            if source is target:
                continue
            target.tell("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
            source.tell("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
            for node in (target, source):
                node.tell("CLUSTER", "SETSLOT", slot, "NODE", target.id)

    def reshard(self, source: Node, target: Node, slots: int) -> None:
        """Let redis-cli move a number of slots."""
        redis_cli(
            *("--cluster", "reshard", f"127.0.0.1:{source.port}", "--cluster-yes"),
            *("--cluster-from", source.id, "--cluster-to", target.id, "--cluster-slots", slots),
        )

    def settle(self) -> None:
        """Make it whole: start or thaw what is down, and wait until all nodes say that all is well.

        And until another failover can succeed: nobody votes for two of the same shard within two node timeouts.
        """
        time.sleep(max(self._failed_over_at + 2.5 * NODE_TIMEOUT / 1000 - time.monotonic(), 0))
        for node in self.nodes:
            if node.process.status is not None:
                node.start()
            node.thaw()
        until(self._whole, "a cluster of three masters with a replica each", SETTLE)

    def _whole(self) -> bool:
        views = [self._view(node) for node in self.nodes]
        return None not in views and len(set(map(str, views))) == 1

    def _view(self, node: Node) -> Sequence[object] | None:
        """Who serves what as a node sees it, if it sees nothing wrong."""
        if "cluster_state:ok" not in str(node.tell("CLUSTER", "INFO")):
            return None
        lines = node.nodes()
        if any(fields[7] != "connected" or "fail" in fields[2] or "handshake" in fields[2] for fields in lines):
            return None
        if node.tell("ROLE")[0] == "slave" and node.tell("ROLE")[3] != "connected":
            return None
        masters = [fields[0] for fields in lines if "master" in fields[2]]
        followed = [fields[3] for fields in lines if "slave" in fields[2]]
        if len(masters) != 3 or sorted(masters) != sorted(followed):
            return None
        return sorted((fields[0], fields[3], fields[8:]) for fields in lines)


def slot_owners(ports: Iterable[int], patience: float = SOON) -> list[int]:
    """The port of the master of each slot, as the newest of the claims that the living nodes know of.

    Args:
        ports: those of the nodes; some may be away.
        patience: seconds until a node that does not answer is passed over.
    """
    owners, epochs = [0] * SLOTS, [-1] * SLOTS
    for node in ports:
        with suppress(hiredis.HiredisError, OSError):
            for port, epoch, slots in _claims(_nodes(node, patience)):
                for slot in slots:
                    if epoch > epochs[slot]:
                        owners[slot], epochs[slot] = port, epoch
    return owners


def _nodes(port: int, patience: float) -> list[list[str]]:
    return [line.split(" ") for line in str(ask(port, "CLUSTER", "NODES", patience=patience)).splitlines()]


def _claims(lines: Iterable[Sequence[str]]) -> Iterable[tuple[int, int, list[int]]]:
    """From the lines of CLUSTER NODES: port, epoch and slots of each master.

    https://redis.io/docs/latest/commands/cluster-nodes/
    """
    for fields in lines:
        if "master" in fields[2]:
            port = int(fields[1].split("@")[0].rsplit(":", 1)[1])
            ranges = [part.split("-") for part in fields[8:] if not part.startswith("[")]
            yield port, int(fields[6]), [slot for part in ranges for slot in range(int(part[0]), int(part[-1]) + 1)]


class ClusterOfThree:
    """A Redis Cluster of three masters."""

    def __init__(self) -> None:
        with ExitStack() as stack:
            self.masters: list[RedisServer] = []
            for number, (first, last) in enumerate(((0, 5460), (5461, 10922), (10923, 16383)), start=1):
                bus = free_port()
                node = RedisServer("--cluster-enabled", "yes", "--cluster-port", str(bus))
                stack.callback(node.remove)
                node("CLUSTER", "SET-CONFIG-EPOCH", number)
                node("CLUSTER", "ADDSLOTSRANGE", first, last)
                for other in self.masters:  # they would find each other, later
                    other("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
                self.masters.append(node)
            self._wait()
            self._stack = stack.pop_all()

    def _wait(self) -> None:
        until(lambda: all(self._is_complete(node) for node in self.masters), "the cluster has formed")

    @staticmethod
    def _is_complete(node: RedisServer) -> bool:
        info: bytes = node("CLUSTER", "INFO")
        return b"cluster_state:ok" in info and b"cluster_known_nodes:3" in info

    def remove(self) -> None:
        """End it."""
        self._stack.close()

    def owner(self, channel: str) -> RedisServer:
        """The node that has a channel's slot."""
        slot = self.masters[0]("CLUSTER", "KEYSLOT", channel)
        for first, last, (_, port, *_), *_ in self.masters[0]("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(node for node in self.masters if node.port == port)
        raise AssertionError(f"nobody has the slot {slot}")

    def move(self, channel: str, target: RedisServer) -> None:
        """Give the slot of a channel to another node, as resharding does at its end."""
        slot = target("CLUSTER", "KEYSLOT", channel)
        identity = target("CLUSTER", "MYID")
        # Without it the target does not raise its epoch, and what the others say next may undo the move.
        target("CLUSTER", "SETSLOT", slot, "IMPORTING", self.owner(channel)("CLUSTER", "MYID"))
        for node in [target, *(node for node in self.masters if node is not target)]:
            node("CLUSTER", "SETSLOT", slot, "NODE", identity)

    def url(self, *seeds: int) -> str:
        """Its redis_url."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{seed}" for seed in seeds)
