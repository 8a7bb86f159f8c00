"""Which server a link should be connected to: one that stays, or any master of a Cluster. Sentinel's: `sentinel`."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from wsd.backoff import spread
from wsd.deployment import Address, place_text
from wsd.errors import LinkError
from wsd.redis.topology import REFRESH_INTERVAL, Nodes, Place

__all__ = ["AnyNode", "Fixed", "Guide"]


class Guide(Protocol):
    """Knows which server a link should be connected to."""

    master_only: bool  # whether a server that isn't, or is no longer, a master must be left
    note: str  # what is in doubt about where the server is, for people

    async def locate(self) -> Address:
        """Say which server to connect to now.

        Raises:
            LinkError: if that can't be found out.
            OSError: if nobody who knows can be reached.
        """

    def arrived(self) -> None:
        """The link is connected there."""

    def abandoned(self) -> None:
        """The link was connected there, and has found it of no use."""

    async def run(self, relocate: Callable[[str], None]) -> None:
        """Watch for changes until cancelled; call ``relocate`` with the reason when the server must be left."""


class Fixed:
    """Leads a link to a server that stays where it is.

    Args:
        address: the server.
        master_only: whether it is left when it is no master.
    """

    note = ""

    def __init__(self, address: Address, *, master_only: bool = False) -> None:
        self.address = address
        self.master_only = master_only

    async def locate(self) -> Address:
        """Return the address."""
        return self.address

    def arrived(self) -> None:
        """It is always there."""

    def abandoned(self) -> None:
        """There is no other."""

    async def run(self, relocate: Callable[[str], None]) -> None:
        """Nothing changes."""


class AnyNode:
    """Leads a link to one of the masters of a Cluster: classic Pub/Sub reaches all nodes.

    All links of a host should be at the same master, because only there is a mark at the same place on all of them
    (`wsd.delivery.marks`), and hosts should spread over the masters. So each host has an order of the masters, by a
    hash of both names (rendezvous hashing), and its links go to the first. A link that can't connect there, or finds it
    of no use, tries the next one; one that was only cut off comes back. For all that, two links of a host may be at
    different masters, because one of them has met with a fault: how many get what is published there tells
    (`wsd.source.Source.publish`). The same goes for one server whose name has several addresses.

    Args:
        nodes: the nodes.
        host: the name of this host.
    """

    master_only = False
    note = ""

    def __init__(self, nodes: Nodes, host: str) -> None:
        self._nodes = nodes
        self._host = host
        self._place: Place | None = None  # where the link was last sent
        self._avoided: set[Place] = set()  # where it has not arrived since it was last connected, or found no use

    async def locate(self) -> Address:
        """Choose the first master in the order of this host that has not failed just now.

        Raises:
            LinkError: if no node tells the topology.
        """
        topology = await self._nodes.ask()
        if not topology.masters:
            raise LinkError(f"the cluster has no master with slots that can be reached{topology.because}")
        if self._avoided.issuperset(topology.masters):
            self._avoided.clear()
        self._place = max((place for place in topology.masters if place not in self._avoided), key=self._rank)
        self._avoided.add(self._place)  # until the link has arrived
        return self._nodes.address(self._place)

    def _rank(self, place: Place) -> bytes:
        return hashlib.sha256(f"{self._host} {place_text(*place)}".encode()).digest()

    def arrived(self) -> None:
        """The link is connected there, so it may come back."""
        self._avoided.clear()

    def abandoned(self) -> None:
        """Another one has its turn."""
        if self._place is not None:
            self._avoided.add(self._place)

    async def run(self, relocate: Callable[[str], None]) -> None:
        """Leave a node that the others have lost."""
        while True:
            await asyncio.sleep(spread(REFRESH_INTERVAL))
            with suppress(LinkError, OSError):
                topology = await self._nodes.ask()
                if self._place is not None and self._place not in {*topology.masters, *topology.replicas}:
                    relocate("the cluster has lost this node")
