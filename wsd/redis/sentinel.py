"""Sentinel: which server is the master, and when another becomes it.

Every Sentinel is listened to. What one of them says at last is followed, since a failover is known to one before it is
known to all; that the server is a master is checked when the link connects, and at every beat. A Sentinel that was away
and comes back with what it said before brings no news.

Source: https://redis.io/docs/latest/develop/reference/sentinel-clients/
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import hiredis

from wsd.backoff import Backoff
from wsd.errors import LinkError
from wsd.redis.address import Address, Sentinel
from wsd.redis.wire import CLASSIC, Reply, Wire, connect, public

__all__ = ["SentinelGuide"]

BACKOFF_FIRST, BACKOFF_MAX = 0.2, 2.0
"""Seconds: bounds of the growing wait before a Sentinel that is away is tried again."""

MIN_PATIENCE = 1.0
"""Seconds that a Sentinel may take to answer, however short the heartbeat is."""

SWITCHED = b"+switch-master"
"""The channel on which a Sentinel tells of a failover: ``NAME OLD-IP OLD-PORT NEW-IP NEW-PORT``."""

logger = logging.getLogger(__name__)

_Place = tuple[str, int]  # host and port


class SentinelGuide:
    """Leads a link to the master that the Sentinels name.

    Args:
        deployment: where the Sentinels are, and the master's name.
        heartbeat: seconds; a Sentinel that doesn't answer for as long is given up.
    """

    master_only = True

    def __init__(self, deployment: Sentinel, heartbeat: float) -> None:
        self._deployment = deployment
        self._heartbeat = heartbeat
        self._said: dict[Address, _Place] = {}  # what each Sentinel said last
        self._answering: set[Address] = set()  # the Sentinels that are connected
        self._problems: dict[Address, str] = {}  # why the others aren't
        self._master: _Place | None = None  # where the link was last sent
        self._tries = 0  # times that it was sent there
        self._known = asyncio.Event()  # set when there is a master
        self._relocate: Callable[[str], None] = lambda reason: None

    async def locate(self) -> Address:
        """Say where the master is.

        Raises:
            LinkError: if no Sentinel has told.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(self._heartbeat):
                await self._known.wait()
        if self._master is None:
            problems = "; ".join(f"{sentinel}: {problem}" for sentinel, problem in self._problems.items())
            raise LinkError(f"no Sentinel tells where {self._deployment.name} is ({problems or 'none has answered'})")
        self._tries += 1
        votes = Counter(self._said[sentinel] for sentinel in self._answering)
        if votes and self._tries % 2 == 0:
            # The latest news didn't lead to a master; perhaps it was old.
            self._master = votes.most_common(1)[0][0]
        return self._deployment.master.at(*self._master)

    async def run(self, relocate: Callable[[str], None]) -> None:
        """Listen to all Sentinels."""
        self._relocate = relocate
        async with asyncio.TaskGroup() as tasks:
            for sentinel in self._deployment.sentinels:
                tasks.create_task(self._listen_to(sentinel))

    async def _listen_to(self, sentinel: Address) -> None:
        waits = Backoff(BACKOFF_FIRST, BACKOFF_MAX)
        while True:
            try:
                await self._follow(sentinel, waits)
            except (OSError, LinkError) as exc:
                problem = str(exc) or type(exc).__name__
                if self._problems.get(sentinel) != problem:
                    logger.warning("the Sentinel at %s is of no use: %s", sentinel, problem)
                self._problems[sentinel] = problem
            self._answering.discard(sentinel)
            await asyncio.sleep(next(waits))

    async def _follow(self, sentinel: Address, waits: Backoff) -> None:
        """Listen to one Sentinel until the connection is lost.

        Raises:
            LinkError, OSError: when that happens.
        """

        def heard(channel: bytes, payload: bytes) -> None:
            words = payload.decode("utf-8", "replace").split(" ")
            if words[0] == self._deployment.name and len(words) == 5 and words[4].isdecimal():
                self._learn(sentinel, (words[3], int(words[4])))

        wire, _ = await connect(sentinel, partial(Wire, CLASSIC, heard, _ignore), max(self._heartbeat, MIN_PATIENCE))
        try:
            wire.send(CLASSIC.subscribe, channels=(SWITCHED,), on_reply=_refused)
            while True:
                self._learn(sentinel, await self._ask(wire))
                waits.reset()
                self._answering.add(sentinel)
                self._problems.pop(sentinel, None)
                await asyncio.wait((wire.closed,), timeout=self._heartbeat / 2)
        finally:
            wire.fail("not needed any more")

    async def _ask(self, wire: Wire) -> _Place:
        try:
            async with asyncio.timeout(max(self._heartbeat, MIN_PATIENCE)):
                reply = await wire.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._deployment.name)
        except TimeoutError:
            raise LinkError(f"no answer within {max(self._heartbeat, MIN_PATIENCE):g} s") from None
        if reply is None:
            raise LinkError(f"it knows no master named {self._deployment.name}")
        if not isinstance(reply, list) or len(reply) != 2:
            raise LinkError(f"it answered {public(reply)}")
        return reply[0].decode(), int(reply[1])

    def _learn(self, sentinel: Address, place: _Place) -> None:
        before = self._said.get(sentinel)
        self._said[sentinel] = place
        if place == self._master or (self._master is not None and before in (None, place)):
            return
        self._tries = 0
        moved, self._master = self._master is not None, place
        self._known.set()
        if moved:
            address = self._deployment.master.at(*place)
            logger.info("Sentinel says that the master %s is now %s", self._deployment.name, address)
            self._relocate(f"Sentinel says that the master is now {address}")


def _ignore(channel: bytes, subscribed: bool, asked: bool) -> None:
    """That +switch-master is subscribed is no news."""


def _refused(reply: Reply) -> None:
    if isinstance(reply, hiredis.ReplyError):
        raise LinkError(f"it refuses SUBSCRIBE: {public(reply)}")
