"""Publishes on one channel with redis-py: at a server, at the master of Sentinels, or at a node of a Cluster."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import redis
from redis import sentinel
from redis.backoff import NoBackoff
from redis.exceptions import MovedError, NoPermissionError
from redis.retry import Retry

from wsd.deployment import Address, Cluster, Deployment, Sentinel, Standalone, addresses, is_sharded
from wsd.errors import CommandError, LinkError
from wsd.redis.place import told_place
from wsd.tls import TLS

__all__ = ["Publisher", "tls_options"]

TIMEOUT = 5.0  # seconds that Redis may take to accept the connection, or to answer; all Sentinels or seeds together

BATCH = 1000  # commands that Redis is sent before its answers are read

NO_TLS = ("WRONG_VERSION_NUMBER", "UNEXPECTED_EOF_WHILE_READING", "PACKET_LENGTH_TOO_LONG", "Timeout")
"""What is said where a server takes the TLS handshake for rubbish. A Redis waits for the end of such a command."""

REDIRECTIONS = 5  # of one batch; each but the first means that the Cluster has just changed


class Publisher:
    """Publishes on one channel, and counts.

    Args:
        deployment: where Redis is.
        pubsub: the setting.
        channel: the channel.
    """

    def __init__(self, deployment: Deployment, pubsub: str, channel: bytes) -> None:
        self._deployment = deployment
        self.published = 0  # payloads
        self._sharded = is_sharded(deployment, pubsub)
        self._channel = channel
        self._node: Address | None = None  # of a Cluster: where payloads are published
        self._client: redis.Redis | None = None  # made at the first payload, because it may need a connection
        self._least = sys.maxsize  # the smallest number of subscribers that any payload reached
        self._most = 0  # the largest

    def publish(self, batch: Sequence[bytes]) -> None:
        """Publish payloads, with as few exchanges with Redis as will do.

        Raises:
            CommandError: if they can't be published.
        """
        try:
            for start in range(0, len(batch), BATCH):
                self._publish(batch[start : start + BATCH])
        # A ValueError is how redis-py says that an answer can't be read.
        except (redis.RedisError, LinkError, OSError, ValueError) as exc:
            after = f"; {self.published} payloads were published before" if self.published else ""
            raise CommandError(f"{_why(exc, self._deployment)}{after}") from None

    def _publish(self, batch: Sequence[bytes], redirections: int = REDIRECTIONS) -> None:
        moved: MovedError | None = None
        refused: list[bytes] = []
        for payload, answer in zip(batch, self._exchange(batch), strict=True):
            if isinstance(answer, MovedError) and self._node is not None and redirections:
                moved = answer
                refused.append(payload)
            elif isinstance(answer, Exception):
                raise answer
            else:
                self._count(answer)
        if moved is not None:
            # A channel has one slot, so what is refused is the end of the batch: the order stays.
            self._follow(moved)
            self._publish(refused, redirections - 1)

    def _exchange(self, batch: Sequence[bytes]) -> list[Any]:
        """Send payloads; return an answer for each, which is a number or an error."""
        if self._client is None:
            self._client = self._connect()
        pipeline = self._client.pipeline(transaction=False)
        publish = pipeline.spublish if self._sharded else pipeline.publish
        for payload in batch:
            publish(self._channel, payload)
        # Raised by the pipeline itself, the error of a command would quote the payload.
        return list(pipeline.execute(raise_on_error=False))

    def _count(self, subscribers: int) -> None:
        self.published += 1
        self._least = min(self._least, subscribers)
        self._most = max(self._most, subscribers)

    def _follow(self, moved: MovedError) -> None:
        """Go on at the node that a Cluster says has the channel's slot."""
        assert self._node is not None and self._client is not None
        # A Cluster that doesn't know a node's name leaves it to us to stay with this one's.
        host = self._node.host if moved.host in ("", "?") else moved.host
        self._client.close()
        self._node = self._node.at(*told_place(host, moved.port))
        self._client = self._server(self._node, TIMEOUT)

    # Where to

    def _connect(self) -> redis.Redis:
        match self._deployment:
            case Standalone(server):
                return self._server(server, TIMEOUT)
            case Sentinel() as watched:
                return self._master(watched)
            case Cluster(seeds):
                self._node = self._answering(seeds)
                return self._server(self._node, TIMEOUT)

    def _server(self, server: Address, timeout: float) -> redis.Redis:
        place = {"unix_socket_path": server.path} if server.path else {"host": server.host, "port": server.port}
        return redis.Redis(**place, **self._options(server, timeout))

    def _master(self, watched: Sentinel) -> redis.Redis:
        asked = watched.sentinels
        # A pool of redis-py's Sentinel asks again whenever it connects anew. So a master that was demoted in the
        # meantime, which would publish to its own subscribers only, is not taken for the master.
        sentinels = _Sentinels(  # type: ignore[no-untyped-call]
            [(server.host, server.port) for server in asked],
            sentinel_kwargs=self._options(asked[0], TIMEOUT / len(asked)),
        )
        options = self._options(watched.master, TIMEOUT)
        master: redis.Redis = sentinels.master_for(watched.name, **options)  # type: ignore[no-untyped-call]
        return master

    def _answering(self, seeds: Sequence[Address]) -> Address:
        """Return the first node that answers; it will say which node has the channel's slot.

        Raises:
            redis.RedisError: what the last one said, if none does.
        """
        *others, last = seeds
        for seed in others:
            with suppress(redis.RedisError):
                self._ask(seed, TIMEOUT / len(seeds))
                return seed
        self._ask(last, TIMEOUT / len(seeds))
        return last

    def _ask(self, seed: Address, timeout: float) -> None:
        with self._server(seed, timeout) as client, suppress(NoPermissionError):  # an answer
            client.ping()

    def _options(self, server: Address, timeout: float) -> dict[str, Any]:
        # One attempt, so that a Redis that is away is said at once. Without HELLO and CLIENT SETINFO (protocol,
        # driver_info) a user who may only PUBLISH can.
        _, username, password = server.login or ("", None, None)
        options: dict[str, Any] = {
            "username": username if server.username else None,
            "password": password,
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
            "driver_info": None,
        }
        if server.tls is not None:
            options |= {"ssl": True, "redis_connect_func": _begin_tls} | tls_options(server.tls)
        return options

    # What became of it

    def report(self, *, many: bool) -> str:
        """Say what was published, and how many got it."""
        got = f"{self._least} to {self._most}" if self._least < self._most else str(self._most)
        line = f"{got} subscriber{'' if got == '1' else 's'}"
        if self._node is not None and not self._sharded:
            line += f" at {self._node.place}; the other nodes' subscribers are not counted"
        elif self.published and not self._most:
            kind = "shard channel" if self._sharded else "channel"
            line += f": nobody listens to the {kind} {self._channel.decode()}"
        if not many:
            return line
        return f"{self.published} payload{'' if self.published == 1 else 's'}, {line}"


def tls_options(tls: TLS) -> dict[str, Any]:
    """What a URL says about TLS, by the names and types of redis-py's arguments."""
    return {name: value == "true" if name == "ssl_check_hostname" else value for name, value in tls.options.items()}


def _begin_tls(connection: redis.Connection) -> None:
    """Log in, and wait for an answer.

    A server sends the tickets of TLS 1.3 right after the handshake. redis-py takes them for data that nobody asked for,
    and refuses the connection, unless an answer that comes behind them has been read.
    """
    connection.on_connect()  # type: ignore[no-untyped-call]
    connection.send_command("PING")  # type: ignore[no-untyped-call]
    with suppress(NoPermissionError):  # an answer
        connection.read_response()


class _Sentinels(sentinel.Sentinel):
    """Several Sentinels, asked in turn, with the question that they are made for and a readable answer."""

    def discover_master(self, service_name: str) -> tuple[str, int]:
        """Return host and port of the master.

        Raises:
            redis.sentinel.MasterNotFoundError: with what each Sentinel said.
        """
        answers = []
        for client in self.sentinels:
            options = client.connection_pool.connection_kwargs
            place = f"{options['host']}:{options['port']}"
            try:
                master = client.sentinel_get_master_addr_by_name(service_name)
            except (redis.RedisError, ValueError) as exc:
                answers.append(f"{place}: {exc}")
            else:
                if isinstance(master, tuple):
                    host, port = master
                    return told_place(host, port)
                answers.append(f"{place} does not know it")
        raise sentinel.MasterNotFoundError(f"no Sentinel says where {service_name} is: {'; '.join(answers)}")


def _why(exc: Exception, deployment: Deployment) -> str:
    """Say in one line why nothing can be published, without a password."""
    text = str(exc) or type(exc).__name__
    if isinstance(exc, MovedError):
        settling = isinstance(deployment, Cluster)
        text = "the slots are on the move; try again" if settling else "it is a node of a Cluster; use redis+cluster://"
    elif text.startswith("unknown command") and "SPUBLISH" in text.partition(",")[0]:
        text = "sharded channels need Redis 7.0"  # its own words go on with the payload
    elif re.search("Connection closed by server|protocol error", text, re.IGNORECASE):
        text = f"what answers is no Redis, or wants TLS (rediss://): {text}"
    elif any(server.tls for server in addresses(deployment)) and any(reason in text for reason in NO_TLS):
        text = f"is there a server with TLS? redis:// is without TLS: {text}"
    # A Redis that does not know AUTH quotes it. The longest first: one password may be a part of another.
    for password in sorted({server.password for server in addresses(deployment)} - {""}, key=len, reverse=True):
        text = text.replace(password, "***")
    return f"can't publish at {deployment}: {text}"
