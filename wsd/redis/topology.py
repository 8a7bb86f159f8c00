"""The topology of a Redis Cluster: which node serves which slots.

Nodes may disagree for a while, and a node that the others have lost goes on telling the old topology. So several nodes
are asked at once, and for each slot the newest claim is taken, as the nodes do among themselves: each master has a
*config epoch*, which grows with every failover and with every slot that it imports. And a node knows best what it
serves itself: before Redis 7.2, one that has not heard of a slot's move may tell of the former master for good.

Sources: https://redis.io/docs/latest/commands/cluster-slots/, https://redis.io/docs/latest/commands/cluster-nodes/, and
https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#hash-slots-configuration-propagation
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import NamedTuple

import hiredis

from wsd.deployment import Address
from wsd.errors import LinkError
from wsd.redis.place import Place, told_number, told_place
from wsd.redis.slots import SLOTS
from wsd.redis.wire import CLASSIC, Reply, Wire, connect, public

__all__ = ["REFRESH_INTERVAL", "Nodes", "Place", "Topology"]

REFRESH_INTERVAL = 30.0
"""Seconds at most between two looks at a topology that nobody doubts."""

ASKED = 5
"""Nodes that are asked at a time."""

DOUBTERS = 2
"""How many of those may be nodes at which something seemed wrong. Such a node knows first that it has lost a slot,
provided that it still answers."""

GRACE = 0.3
"""Seconds that the others have to answer after the first: a node that is dead takes much longer."""


@dataclass(frozen=True, slots=True)
class Topology:
    """Who serves what."""

    ranges: tuple[tuple[int, int, Place], ...]  # first slot, last slot, master
    replicas: frozenset[Place]
    ok: bool  # whether the cluster says that it works
    problem: str = ""  # why some of the nodes that it names can't be reached, for people

    @property
    def because(self) -> str:
        """The problem in brackets, to stand behind what it causes; ``""`` if there is none."""
        return f" ({self.problem})" if self.problem else ""

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


class _Claim(NamedTuple):
    """That a master serves some slots."""

    epoch: int
    first: int
    last: int
    master: Place | None  # None: it can't be reached by what is told of it
    id: bytes  # of the master


class _View(NamedTuple):
    """What one node says."""

    claims: frozenset[_Claim]
    replicas: frozenset[Place]
    ok: bool
    problem: str  # what is wrong with a place that it tells
    id: bytes  # its own; b"" if the user may not ask
    epoch: int  # its own, or its master's


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

    async def ask(self, doubters: Sequence[Place] = ()) -> Topology:
        """Ask several nodes for the topology.

        Args:
            doubters: nodes at which something seemed wrong: some of them are asked first of all.

        Raises:
            LinkError: if none answers.
        """
        asked = [self.address(place) for place in self._choose(doubters)]
        tasks = [asyncio.create_task(self._ask_one(address)) for address in asked]
        try:
            views = await _first_answers(tasks)
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        if not views:
            reasons = [
                f"{address}: {str(result) or type(result).__name__}"
                for address, result in zip(asked, results, strict=True)
            ]
            raise LinkError(f"no node of the cluster tells its topology ({'; '.join(reasons)})")
        topology = _merge(views)
        self._known = dict.fromkeys([*topology.masters, *topology.replicas])
        return topology

    def _choose(self, doubters: Sequence[Place]) -> list[Place]:
        first = doubters[:DOUBTERS]
        others = {*self._known, *((seed.host, seed.port) for seed in self._seeds)} - set(first)
        return [*first, *random.sample(sorted(others), min(ASKED - len(first), len(others)))]

    async def _ask_one(self, address: Address) -> _View:
        wire, _ = await connect(address, partial(Wire, CLASSIC, _ignore_message, _ignore_change), self._timeout)
        try:
            async with asyncio.timeout(self._timeout):
                slots, info, nodes = await asyncio.gather(
                    wire.ask("CLUSTER", "SLOTS"), wire.ask("CLUSTER", "INFO"), wire.ask("CLUSTER", "NODES")
                )
        except TimeoutError:
            raise LinkError(f"no answer within {self._timeout:g} s") from None
        finally:
            wire.fail("not needed any more")
        return _parse(slots, info, nodes, address)


async def _first_answers(tasks: Sequence[asyncio.Task[_View]]) -> list[_View]:
    """Wait until one node has answered, and then for `GRACE`; return the answers."""
    answers: list[_View] = []
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


def _merge(views: Sequence[_View]) -> Topology:
    """Take the newest claim to each slot; of two that are equally new, the one that more nodes tell.

    What a node says of one that has been asked itself counts only if it is newer than what that one knows.
    """
    known = {view.id: view.epoch for view in views if view.id}
    told = Counter(
        claim for view in views for claim in view.claims if claim.id == view.id or claim.epoch > known.get(claim.id, -1)
    )
    owners: list[Place | None] = [None] * SLOTS
    for claim in sorted(told, key=lambda claim: (claim.epoch, told[claim])):
        owners[claim.first : claim.last + 1] = [claim.master] * (claim.last + 1 - claim.first)
    ranges, start = [], 0
    for place, slots in groupby(owners):
        end = start + len(list(slots))
        if place is not None:
            ranges.append((start, end - 1, place))
        start = end
    nodes = {place for view in views for place in (*view.replicas, *(claim.master for claim in view.claims))}
    replicas = frozenset(place for place in nodes - set(owners) if place is not None)
    ok = sum(view.ok for view in views) * 2 > len(views)
    problem = next((view.problem for view in views if view.problem), "")
    return Topology(tuple(ranges), replicas, ok, problem)


def _parse(slots: Reply, info: Reply, nodes: Reply, asked: Address) -> _View:
    for reply in (slots, info):
        if isinstance(reply, hiredis.ReplyError):
            if "cluster support disabled" in str(reply):
                raise LinkError("it is no node of a cluster: use redis:// in redis_url")
            raise LinkError(f"it answered CLUSTER with {public(reply)}")
    if not isinstance(slots, list) or not isinstance(info, bytes):
        raise LinkError(f"it answered CLUSTER SLOTS with {public(slots)} and CLUSTER INFO with {public(info)}")
    id, epochs = _epochs(nodes)
    claims: set[_Claim] = set()
    replicas: set[Place] = set()
    problems: list[str] = []
    covered = 0
    for entry in slots:
        if not isinstance(entry, list) or len(entry) < 3:
            raise LinkError(f"it answered CLUSTER SLOTS with {public(entry)}")
        first, last, master, *others = entry
        if not (type(first) is type(last) is int and 0 <= first <= last < SLOTS):
            raise LinkError(f"it answered CLUSTER SLOTS with slots from {public(first)} to {public(last)}")
        covered += last + 1 - first
        if covered > SLOTS:
            raise LinkError("it answered CLUSTER SLOTS with slots that have two masters")
        owner = master[2] if isinstance(master, list) and len(master) > 2 else b""
        owner = owner if isinstance(owner, bytes) else b""
        claims.add(_Claim(epochs.get(owner, 0), first, last, _place(master, asked, problems), owner))
        replicas.update(place for node in others if (place := _place(node, asked, problems)) is not None)
    ok, problem = b"cluster_state:ok" in info, problems[0] if problems else ""
    return _View(frozenset(claims), frozenset(replicas), ok, problem, id, epochs.get(id, 0))


def _epochs(nodes: Reply) -> tuple[bytes, dict[bytes, int]]:
    """The id of the node that says it, and the config epoch of each node by its id.

    Nothing if the user may not ask, and then the majority decides.
    """
    lines = nodes.splitlines() if isinstance(nodes, bytes) else ()
    fields = [words for line in lines if len(words := line.split(b" ")) > 6]
    id = next((words[0] for words in fields if b"myself" in words[2].split(b",")), b"")
    return id, {words[0]: told_number(words[6]) or 0 for words in fields}


def _place(node: Reply, asked: Address, problems: list[str]) -> Place | None:
    """Where a node is; None, with a problem, if no node can be there. The other nodes can still be used.

    https://redis.io/docs/latest/commands/cluster-slots/#nested-result-array
    """
    if not isinstance(node, list) or len(node) < 2:
        problems.append(f"it tells of a node {public(node)}, which says not where it is")
        return None
    host, port = node[:2]
    if host == b"?":
        # It is to be named by host name (cluster-preferred-endpoint-type) and has none (cluster-announce-hostname).
        host = _known_ip(node[3] if len(node) > 3 else None)
        if host is None:
            problems.append(
                "it tells of a node without a host name or an address; set cluster-announce-hostname there, or"
                " cluster-preferred-endpoint-type ip"
            )
            return None
    try:
        # Without a host it means the one that was asked.
        return told_place(host or asked.host, port)
    except LinkError as exc:
        problems.append(str(exc))
        return None


def _known_ip(metadata: Reply) -> Reply:
    """The address of a node among what else is told of it: names and values, as a map or in turn."""
    if isinstance(metadata, list) and all(isinstance(word, bytes) for word in metadata):
        metadata = dict(zip(metadata[0::2], metadata[1::2], strict=False))
    ip = metadata.get(b"ip") if isinstance(metadata, dict) else None
    return ip or None


def _ignore_message(channel: bytes, payload: bytes) -> None:
    """Nothing is subscribed."""


def _ignore_change(channel: bytes, subscribed: bool, asked: bool) -> None:
    """Nothing is subscribed."""
