"""The topology of a Redis Cluster: which node serves which slots.

Nodes may disagree for a while, and one that the others have lost believes in what was. So several are asked at once,
and what most of them say is taken.

Source: https://redis.io/docs/latest/commands/cluster-slots/
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import hiredis

from wsd.errors import LinkError
from wsd.redis.address import Address
from wsd.redis.slots import SLOTS
from wsd.redis.wire import CLASSIC, Reply, Wire, connect, public

__all__ = ["Nodes", "Place", "Topology"]

ASKED = 5
"""Nodes that are asked at a time."""

GRACE = 0.3
"""Seconds that the others have to answer after the first: a node that is dead takes much longer."""

Place = tuple[str, int]
"""Host and port of a node."""


@dataclass(frozen=True, slots=True)
class Topology:
    """Who serves what."""

    ranges: tuple[tuple[int, int, Place], ...]  # first slot, last slot, master
    replicas: frozenset[Place]
    ok: bool  # whether the cluster says that it works

    @property
    def masters(self) -> list[Place]:
        """The masters that have slots."""
        return sorted({place for _, _, place in self.ranges})

    def owners(self) -> list[Place | None]:
        """The master of each slot; None where there is none."""
        owners: list[Place | None] = [None] * SLOTS
        for first, last, place in self.ranges:
            owners[first : last + 1] = [place] * (last + 1 - first)
        return owners


class Nodes:
    """The nodes of a cluster that are known.

    Args:
        seeds: the nodes of the redis_url; all others are asked for by their login.
        timeout: seconds that a node may take to answer.
    """

    def __init__(self, seeds: Sequence[Address], timeout: float) -> None:
        self._seeds = seeds
        self._timeout = timeout
        self._known: dict[Place, None] = {}

    def address(self, place: Place) -> Address:
        """How to connect to a node."""
        return self._seeds[0].at(*place)

    async def ask(self) -> Topology:
        """Ask several nodes for the topology.

        Raises:
            LinkError: if none answers.
        """
        places = list(dict.fromkeys([*self._known, *((seed.host, seed.port) for seed in self._seeds)]))
        asked = [self.address(place) for place in random.sample(places, min(ASKED, len(places)))]
        tasks = [asyncio.create_task(self._ask_one(address)) for address in asked]
        try:
            answers = await _first_answers(tasks)
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        if not answers:
            reasons = [
                f"{address}: {str(result) or type(result).__name__}"
                for address, result in zip(asked, results, strict=True)
            ]
            raise LinkError(f"no node of the cluster tells its topology ({'; '.join(reasons)})")
        topology = Counter(answers).most_common(1)[0][0]
        self._known = dict.fromkeys([*topology.masters, *topology.replicas])
        return topology

    async def _ask_one(self, address: Address) -> Topology:
        wire, _ = await connect(address, partial(Wire, CLASSIC, _ignore_message, _ignore_change), self._timeout)
        try:
            async with asyncio.timeout(self._timeout):
                slots, info = await asyncio.gather(wire.ask("CLUSTER", "SLOTS"), wire.ask("CLUSTER", "INFO"))
        except TimeoutError:
            raise LinkError(f"no answer within {self._timeout:g} s") from None
        finally:
            wire.fail("not needed any more")
        return _parse(slots, info, address)


async def _first_answers(tasks: Sequence[asyncio.Task[Topology]]) -> list[Topology]:
    """Wait until one has answered, and a moment longer for the others."""
    answers: list[Topology] = []
    waiting = set(tasks)
    while waiting:
        timeout = GRACE if answers else None
        done, waiting = await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            break
        for task in done:
            if (exc := task.exception()) is None:
                answers.append(task.result())
            elif not isinstance(exc, OSError | LinkError):
                raise exc
    return answers


def _parse(slots: Reply, info: Reply, asked: Address) -> Topology:
    for reply in (slots, info):
        if isinstance(reply, hiredis.ReplyError):
            if "cluster support disabled" in str(reply):
                raise LinkError("it is no node of a cluster: use redis:// in redis_url")
            raise LinkError(f"it answered CLUSTER with {public(reply)}")
    ranges, replicas = [], set()
    try:
        for first, last, *nodes in slots:
            master, *others = (_place(node, asked) for node in nodes)
            ranges.append((first, last, master))
            replicas.update(others)
        ok = b"cluster_state:ok" in info
    except (TypeError, ValueError, AttributeError, IndexError):
        raise LinkError(f"it answered CLUSTER SLOTS with {public(slots)}") from None
    return Topology(tuple(sorted(ranges)), frozenset(replicas), ok)


def _place(node: Sequence[Reply], asked: Address) -> Place:
    # Without a host it means the one that was asked.
    return (node[0].decode() if node[0] else asked.host), int(node[1])


def _ignore_message(channel: bytes, payload: bytes) -> None:
    """Nothing is subscribed."""


def _ignore_change(channel: bytes, subscribed: bool, asked: bool) -> None:
    """Nothing is subscribed."""
