"""Which server a link should be connected to: one that stays, or any master of a Cluster. Sentinel's: `sentinel`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from wsd.backoff import spread
from wsd.deployment import Address
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

    async def run(self, relocate: Callable[[str], None]) -> None:
        """Watch for changes until cancelled; call ``relocate`` with the reason when the server must be left."""


class Fixed:
    """Leads a link to a server that stays where it is.

    Args:
        address: the server.
    """

    master_only = False
    note = ""

    def __init__(self, address: Address) -> None:
        self.address = address

    async def locate(self) -> Address:
        """Return the address."""
        return self.address

    def arrived(self) -> None:
        """It is always there."""

    async def run(self, relocate: Callable[[str], None]) -> None:
        """Nothing changes."""


class AnyNode:
    """Leads a link to one of the masters of a Cluster: classic Pub/Sub reaches all nodes.

    Args:
        nodes: the nodes.
    """

    master_only = False
    note = ""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._place: Place | None = None  # where the link was last sent

    async def locate(self) -> Address:
        """Choose another master than last time; replicas of wsd spread over them.

        Raises:
            LinkError: if no node tells the topology.
        """
        topology = await self._nodes.ask()
        masters = topology.masters
        others = [place for place in masters if place != self._place] or masters
        if not others:
            raise LinkError(f"the cluster has no master with slots that can be reached{topology.because}")
        self._place = random.choice(others)
        return self._nodes.address(self._place)

    def arrived(self) -> None:
        """It is any node."""

    async def run(self, relocate: Callable[[str], None]) -> None:
        """Leave a node that the others have lost."""
        while True:
            await asyncio.sleep(spread(REFRESH_INTERVAL))
            with suppress(LinkError, OSError):
                topology = await self._nodes.ask()
                if self._place is not None and self._place not in {*topology.masters, *topology.replicas}:
                    relocate("the cluster has lost this node")
