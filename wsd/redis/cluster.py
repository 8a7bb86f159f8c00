"""A Redis Cluster with sharded Pub/Sub: one link per node. (Classic Pub/Sub takes one link, to any node.)

A sharded channel belongs to a slot, and a slot to a node. Each channel is entrusted to the link of the node that serves
its slot; a link is opened when the first channel needs it. The topology is looked up again on a timer, and at once when
it is in doubt: because a link is lost, because Redis says MOVED or CLUSTERDOWN, or because Redis takes a channel away
(an unrequested ``sunsubscribe``). Then the channels whose slot has moved change links, and those that were delivered
are confirmed there with a gap.

A node that has become a replica takes subscriptions to its master's slots, and confirms them; but for a moment it does
not hear its master yet. So each subscription asks the node first whether it is a master still.

Source: https://redis.io/docs/latest/develop/pubsub/#sharded-pubsub
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress

from wsd.backoff import Backoff, spread
from wsd.errors import LinkError
from wsd.logs import BoundedLogger
from wsd.metrics import Metrics
from wsd.redis.guides import Fixed
from wsd.redis.link import Link
from wsd.redis.slots import key_slot
from wsd.redis.topology import REFRESH_INTERVAL, Nodes, Place, Topology
from wsd.source import Events, LinkStatus

__all__ = ["ShardedCluster"]

BACKOFF_FIRST, BACKOFF_MAX = 0.05, 1.0
"""Seconds: bounds of the growing wait before a topology that is doubted is looked up again. A node takes several
seconds to notice that another is gone, and a look costs some tenths of a millisecond."""

BELIEVED = 0.05
"""Seconds after which a doubt is a new one, so that the topology is looked up at once."""

LOG_INTERVAL = 600.0
"""Seconds between two log lines about nodes that are named and can't be used."""

NAMES = 20_000
"""Names that are tried for a private channel until one belongs to the node: enough for one with 10 slots of 16,384. A
name takes 0.6 µs."""

logger = logging.getLogger(__name__)


class ShardedCluster:
    """Sharded Pub/Sub on all nodes of a cluster.

    Args:
        nodes: the nodes.
        heartbeat: seconds between two looks at the topology while there is no link that would notice a dead Redis.
        metrics: counts.
        events: whom to call.
        make_link: makes the link to a node, from its guide, a function that makes a private channel of this node from
            a name, and one to call when the topology is in doubt.
        name_private: makes a channel that no client can name from a name.
    """

    def __init__(
        self,
        nodes: Nodes,
        *,
        heartbeat: float,
        metrics: Metrics,
        events: Events,
        make_link: Callable[[Fixed, Callable[[str], bytes], Callable[[], None]], Link],
        name_private: Callable[[str], bytes],
    ) -> None:
        self._nodes = nodes
        self._heartbeat = heartbeat
        self._metrics = metrics
        self._events = events
        self._make_link = make_link
        self._name_private = name_private
        self._topology: Topology | None = None
        self._owners: list[Place | None] = []  # of each slot
        self._links: dict[Place, Link] = {}
        self._tasks: dict[Place, asyncio.Task[None]] = {}
        self._homes: dict[bytes, Link] = {}  # the link of each wanted channel
        self._homeless: dict[bytes, bool] = {}  # wanted, in a slot nobody serves: whether messages may be missed
        self._doubted = asyncio.Event()  # set when the topology should be looked up at once
        self._doubters: dict[Place, None] = {}  # the nodes whose links doubt it
        self._log = BoundedLogger(logger, rate=1 / LOG_INTERVAL)
        self._held = False  # whether nothing should be brought for now
        self._problem = "the cluster's topology is not known yet"
        self._logged = ""  # the problem that was logged last

    @property
    def links(self) -> Sequence[LinkStatus]:
        """The links that are open, as they stand now."""
        return [link.status for link in self._links.values()]

    @property
    def problem(self) -> str:
        """Why not everything can be subscribed, for people; ``""`` if it can."""
        if self._problem:
            return self._problem
        for link in self._links.values():
            if link.failing and link.wanted:
                return link.problem
        if self._homeless:
            because = self._topology.because if self._topology is not None else ""
            return f"{len(self._homeless)} channels are in slots that no node serves{because}"
        return ""

    @property
    def up(self) -> bool:
        """Whether the topology is known, and no link that is needed is down."""
        return not self.problem

    @property
    def healed(self) -> bool:
        """Whether it is up, and every channel that was delivered once is delivered again."""
        return self.up and all(link.healed for link in self._links.values() if link.wanted)

    @property
    def wanted(self) -> int:
        """How many channels are wanted."""
        return len(self._homes) + len(self._homeless)

    @property
    def confirmed(self) -> int:
        """How many channels Redis has confirmed, unwanted ones that linger included."""
        return sum(link.confirmed for link in self._links.values())

    def subscribe(self, channel: bytes) -> None:
        """Want a channel; ``on_confirmed`` or ``on_refused`` tells the answer, at the end of this pass or later."""
        self._entrust(channel, missed=False)

    def unsubscribe(self, channel: bytes) -> None:
        """Want a channel no more. It lingers."""
        if channel in self._homeless:
            del self._homeless[channel]
        else:
            self._homes.pop(channel).unsubscribe(channel)

    def missed(self, channel: bytes) -> bool:
        """Someone new may have missed messages; return whether the confirmation that is to come tells of it."""
        if channel in self._homeless:
            self._homeless[channel] = True
            return True
        home = self._homes.get(channel)
        return home is not None and home.missed(channel)

    def stream(self, channel: bytes) -> str:
        """Name the node that delivers a channel; ``""`` if none does."""
        home = self._homes.get(channel)
        return home.stream(channel) if home is not None else ""

    @property
    def streams(self) -> Sequence[str]:
        """The names of the nodes to which there are connections."""
        return [stream for link in self._links.values() for stream in link.streams]

    def private(self, stream: str, name: str) -> bytes:
        """Name a channel that no client can name, in a slot of the node of a stream; nothing if there is none."""
        named = (link.private(stream, name) for link in self._links.values())
        return next(filter(None, named), b"")

    def publish(self, channel: bytes, payload: bytes, on_reply: Callable[[int | str], object]) -> None:
        """Publish at the node that delivers a channel; ``on_reply`` is called once, later."""
        home = self._homes.get(channel)
        if home is not None:
            home.publish(channel, payload, on_reply)
        else:
            reason = self.problem or "no node serves its slot"
            asyncio.get_running_loop().call_soon(on_reply, reason)

    def renew(self, stream: str, reason: str) -> None:
        """Give up the connection of a stream, if there is one, and make another."""
        for link in self._links.values():
            link.renew(stream, reason)

    def hold(self, full: bool) -> None:
        """Bring no more messages until called with False."""
        self._held = full
        for link in self._links.values():
            link.hold(full)

    async def run(self) -> None:
        """Keep the links up, and the topology known, until cancelled."""
        try:
            await self._main_loop()
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _main_loop(self) -> None:
        waits = Backoff(BACKOFF_FIRST, BACKOFF_MAX)
        while True:
            self._doubted.clear()
            if await self._refresh():
                waits.reset()  # slots are moving, perhaps one after the other
            for place, task in self._tasks.items():
                if task.done():
                    task.result()  # a bug; the daemon ends with it
                    raise LinkError(f"the link to {place} has ended")
            if self._settled() and await self._is_believed():
                waits.reset()
            else:
                await asyncio.sleep(next(waits))

    async def _is_believed(self) -> bool:
        """Wait until the topology is doubted, or for the timer; return whether that took a while.

        Nodes that disagree let it be doubted as soon as it is known. They would be asked again and again, as fast as
        they answer.
        """
        believed_at = asyncio.get_running_loop().time()
        with suppress(TimeoutError):
            async with asyncio.timeout(spread(REFRESH_INTERVAL if self._links else self._heartbeat)):
                await self._doubted.wait()
        return asyncio.get_running_loop().time() - believed_at >= BELIEVED

    def _settled(self) -> bool:
        return not self.problem and not any(link.astray for link in self._links.values())

    # Who serves what.

    async def _refresh(self) -> bool:
        """Look the topology up; return whether it is another one."""
        doubters, self._doubters = list(self._doubters), {}
        try:
            topology = await self._nodes.ask(doubters)
        except (LinkError, OSError) as exc:
            self._tell_problem(str(exc))
            return False
        self._tell_problem("" if topology.ok else "the cluster is down: its nodes say that cluster_state is not ok")
        is_new = self._topology is None or topology.ranges != self._topology.ranges
        if is_new:
            self._adopt(topology)
        self._topology = topology
        if topology.problem:
            self._log.warning("announced", "the cluster names a node that can't be used: %s", topology.problem)
        if topology.ok:
            for link in self._links.values():
                link.retry()
        self._close_unneeded()
        return is_new

    def _tell_problem(self, problem: str) -> None:
        self._problem = problem
        kind = problem.partition("(")[0]  # what is in brackets differs from time to time
        if kind != self._logged:
            self._logged = kind
            if problem:
                logger.warning("%s; trying again", problem)
            else:
                logger.info("the cluster works and tells its topology")

    def _adopt(self, topology: Topology) -> None:
        """Let the channels whose slot has moved change links."""
        self._owners = topology.owners()
        moved = {
            channel: link.release(channel)
            for channel, link in self._homes.items()
            if self._links.get(self._owners[key_slot(channel)] or _NOWHERE) is not link
        }
        for channel in moved:
            del self._homes[channel]
        homeless, self._homeless = self._homeless, {}
        self._events.on_lost(moved)
        for channel, missed in (moved | homeless).items():
            self._entrust(channel, missed=missed)
        logger.info(
            "the cluster has %d masters with slots; %d channels have moved, %d of them with a gap",
            len(topology.masters),
            len(moved),
            sum(moved.values()),
        )

    def _entrust(self, channel: bytes, *, missed: bool) -> None:
        place = self._owners[key_slot(channel)] if self._owners else None
        if place is None:
            self._homeless[channel] = missed
            self._doubted.set()
            return
        link = self._homes[channel] = self._links.get(place) or self._open(place)
        link.subscribe(channel, missed=missed)

    def _open(self, place: Place) -> Link:
        link = self._links[place] = self._make_link(
            Fixed(self._nodes.address(place), master_only=True),
            lambda name: self._name_channel(place, name),
            lambda: self._doubt(place),
        )
        link.hold(self._held)
        self._tasks[place] = asyncio.create_task(link.run())
        return link

    def _doubt(self, place: Place) -> None:
        self._doubters[place] = None
        self._doubted.set()

    def _close_unneeded(self) -> None:
        for place, link in list(self._links.items()):
            if not link.wanted:
                del self._links[place]
                self._tasks.pop(place).cancel()

    def _name_channel(self, place: Place, name: str) -> bytes:
        """Name a private channel in a slot of that node; nothing if it has next to none."""
        for number in range(NAMES):
            channel = self._name_private(f"{name}:{number}")
            if self._owners[key_slot(channel)] == place:
                return channel
        return b""


_NOWHERE: Place = ("", 0)
