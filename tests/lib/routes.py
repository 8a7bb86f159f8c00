"""Where numbered messages are published: at one Redis, at the master of Sentinels, or at the owners of slots.

A route never waits for a server that is away, and says what has become of each message.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import hiredis
from redis.crc import key_slot

from tests.lib.pipe import Pipe, ask
from tests.lib.topologies import newest_master, slot_owners

__all__ = ["Message", "Route", "Server", "ToMaster", "ToOwners"]

Message = tuple[str, bytes]
"""Channel and payload."""

PATIENCE = 0.3
"""Seconds that an answer to PUBLISH is waited for before a master is taken for frozen."""

SHUNNED = 0.5
"""Seconds for which such a node is left alone."""

ASK = 0.05
"""Seconds between two questions who the master is, or who the owners are while a node is away."""

MOVED = "moved"
"""What becomes of a message that is published at the wrong node: it is published again."""


class Route(Protocol):
    """Where to publish."""

    def publish(self, batch: Sequence[Message]) -> list[bool | None]:
        """Publish; say of each message whether Redis has accepted it, None if nobody knows."""

    def close(self) -> None:
        """Close the connections."""


class Server:
    """One Redis that stays where it is. A frozen one is waited for."""

    def __init__(self, port: int, login: Sequence[str] = ()) -> None:
        self._port = port
        self._login = login
        self._pipe: Pipe | None = None

    def publish(self, batch: Sequence[Message]) -> list[bool | None]:
        """Publish; say of each message whether Redis has accepted it, None if nobody knows."""
        try:
            pipe = self._pipe = self._pipe or Pipe(self._port, self._login)
        except OSError:
            return [False] * len(batch)
        fates = list(map(fate, pipe.run([("PUBLISH", *message) for message in batch])))
        if fates != [True] * len(batch):
            self.close()  # for the next to log in anew
        return fates

    def close(self) -> None:
        """Close the connection."""
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None


def fate(reply: object) -> bool | None:
    """Whether a reply to PUBLISH says that the message was accepted."""
    return None if reply is None else isinstance(reply, int)


class ToOwners:
    """Publishes each message at the master of its slot.

    Args:
        ports: those of the nodes.
    """

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = ports
        self._owners = slot_owners(ports)
        self._pipes: dict[int, Pipe] = {}
        self._shunned: dict[int, float] = {}  # ports of nodes that are away, and until when
        self._asked_at = 0.0

    def publish(self, batch: Sequence[Message]) -> list[bool | None]:
        """Publish; say of each message whether Redis has accepted it, None if nobody knows."""
        self._refresh()
        fates = self._publish(batch)
        moved = [message for message in batch if fates[message] is MOVED]
        fates |= self._publish(moved)
        return [None if fates[message] is None else fates[message] is True for message in batch]

    def _publish(self, batch: Iterable[Message]) -> dict[Message, object]:
        shares: dict[int, list[Message]] = {}
        for message in batch:
            shares.setdefault(self._owners[key_slot(message[0].encode())], []).append(message)
        fates: dict[Message, object] = {}
        for port, share in shares.items():
            fates |= self._publish_at(port, share)
        return fates

    def _publish_at(self, port: int, share: Sequence[Message]) -> Mapping[Message, object]:
        if self._is_shunned(port):
            return dict.fromkeys(share, False)
        try:
            pipe = self._pipes.get(port) or self._pipes.setdefault(port, Pipe(port, patience=PATIENCE))
        except OSError:
            self._shun(port)
            return dict.fromkeys(share, False)
        replies = pipe.run([("SPUBLISH", *message) for message in share])
        if None in replies:
            self._shun(port)
        return {message: self._read(reply) for message, reply in zip(share, replies, strict=True)}

    def _read(self, reply: object) -> object:
        if isinstance(reply, hiredis.ReplyError) and str(reply).startswith("MOVED "):
            _, slot, place = str(reply).split(" ")
            self._owners[int(slot)] = int(place.rsplit(":", 1)[1])
            return MOVED
        return fate(reply)

    def _shun(self, port: int) -> None:
        self._shunned[port] = time.monotonic() + SHUNNED
        if (pipe := self._pipes.pop(port, None)) is not None:
            pipe.close()

    def _is_shunned(self, port: int) -> bool:
        return self._shunned.get(port, 0.0) > time.monotonic()

    def _refresh(self) -> None:
        """While a node is away, ask another one who owns what."""
        now = time.monotonic()
        if now - self._asked_at < ASK or not any(map(self._is_shunned, self._ports)):
            return
        self._asked_at = now
        port = next((port for port in self._ports if not self._is_shunned(port)), 0)
        try:
            ranges = ask(port, "CLUSTER", "SLOTS", patience=PATIENCE)
        except (hiredis.HiredisError, OSError):
            self._shun(port)
            return
        for first, last, master, *_ in ranges:
            self._owners[first : last + 1] = [int(master[1])] * (last + 1 - first)

    def close(self) -> None:
        """Close the connections."""
        for pipe in self._pipes.values():
            pipe.close()


class ToMaster:
    """Publishes at the master that the Sentinels name.

    Args:
        sentinels: their ports.
    """

    def __init__(self, sentinels: Sequence[int]) -> None:
        self._sentinels = sentinels
        self._port = 0
        self._asked_at = 0.0
        self._pipe: Pipe | None = None

    def publish(self, batch: Sequence[Message]) -> list[bool | None]:
        """Publish; say of each message whether Redis has accepted it, None if nobody knows."""
        self._follow()
        try:
            pipe = self._pipe = self._pipe or Pipe(self._port, patience=PATIENCE)
        except OSError:
            return [False] * len(batch)
        fates = list(map(fate, pipe.run([("PUBLISH", *message) for message in batch])))
        if None in fates:
            self.close()
        return fates

    def _follow(self) -> None:
        now = time.monotonic()
        if now - self._asked_at < ASK:
            return
        self._asked_at = now
        try:
            port = newest_master(self._sentinels)
        except AssertionError:
            return  # no Sentinel answers: all stays as it is
        if port != self._port:
            self.close()
            self._port = port

    def close(self) -> None:
        """Close the connection."""
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
