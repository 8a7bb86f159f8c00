"""The crowd: clients of every kind, which live while something happens to the daemon."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self, TypeAlias

from tests.handover.diary import Diary
from tests.handover.libraries import CHROMIUM, AiohttpClient, Browser, Foreign, Tail, WebSocketClient
from tests.handover.peers import (
    SPLITS,
    Churner,
    Fragmenter,
    Halver,
    Laggard,
    Listener,
    Peer,
    Pinger,
    Reauthorizer,
    Sleeper,
    Visitor,
    World,
)

__all__ = ["Crowd", "Member", "Size"]

Member: TypeAlias = Peer | Foreign
"""One client, or several in a row of the same kind."""


@dataclass(frozen=True)
class Size:
    """How many of each kind come."""

    listeners: int = 4
    churners: int = 4
    reauthorizers: int = 2
    pingers: int = 3
    halvers: int = 2  # for each split: every other one early
    fragmenters: int = 4
    laggards: int = 3
    sleepers: int = 1
    visitors: int = 3
    aiohttp: int = 2
    websocket_client: int = 1
    tails: int = 1
    browsers: int = 0


class Crowd:
    """Clients of every kind. A context manager in which they live.

    Args:
        world: what they have to do with.
        size: how many of each kind.
    """

    def __init__(self, world: World, size: Size) -> None:
        topics, long = list(world.topics), list(world.topics[-2:])
        self._making: dict[str, Callable[[str], Member]] = {
            # The first listens to everything.
            **{f"listener {n}": partial(Listener, world, topics=topics[n :: n + 1]) for n in range(size.listeners)},
            **{f"churner {n}": partial(Churner, world) for n in range(size.churners)},
            **{f"reauthorizer {n}": partial(Reauthorizer, world) for n in range(size.reauthorizers)},
            **{f"pinger {n}": partial(Pinger, world) for n in range(size.pingers)},
            **{
                f"halver {split} {n}": partial(Halver, world, split=split, early=n % 2 == 0)
                for split in SPLITS
                for n in range(size.halvers)
            },
            **{f"fragmenter {n}": partial(Fragmenter, world) for n in range(size.fragmenters)},
            **{f"laggard {n}": partial(Laggard, world, topics=long) for n in range(size.laggards)},
            **{f"sleeper {n}": partial(Sleeper, world, topics=long) for n in range(size.sleepers)},
            **{f"visitor {n}": partial(Visitor, world) for n in range(size.visitors)},
            **{f"aiohttp {n}": partial(AiohttpClient, world, topics=topics[n : n + 4]) for n in range(size.aiohttp)},
            **{
                f"websocket-client {n}": partial(WebSocketClient, world, topics=topics[n : n + 4])
                for n in range(size.websocket_client)
            },
            **{f"tail {n}": partial(Tail, world, topics=topics[n : n + 3]) for n in range(size.tails)},
            **{
                f"browser {n}": partial(Browser, world, topics=topics[n : n + 4])
                for n in range(size.browsers if CHROMIUM else 0)
            },
        }
        self._members = {name: make(name) for name, make in self._making.items()}
        self._gone: list[Member] = []  # in whose places others have come
        self._rounds = 0  # times that something has happened
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        try:
            await self._enter(self._members.values())
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def _enter(self, members: Iterable[Member]) -> None:
        await asyncio.gather(*map(self._stack.enter_async_context, members))

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @property
    def members(self) -> list[Member]:
        """Those that there are now."""
        return list(self._members.values())

    @property
    def diaries(self) -> list[Diary]:
        """What all of them wrote down, those included that are gone."""
        return [diary for member in (*self._gone, *self.members) for diary in member.diaries]

    async def poise(self) -> None:
        """Let them get ready for what happens to the daemon. Others come in the place of those that were closed."""
        self._rounds += 1
        gone = [name for name, member in self._members.items() if member.gone]
        self._gone += [self._members[name] for name in gone]
        self._members |= {name: self._making[name](f"{name}, round {self._rounds}") for name in gone}
        await self._enter(self._members[name] for name in gone)
        await asyncio.gather(*(member.poise() for member in self.members))

    async def go_on(self) -> None:
        """It has happened."""
        await asyncio.gather(*(member.go_on() for member in self.members))

    async def settle(self) -> None:
        """Let them come to rest: nobody is owed a reply."""
        await asyncio.gather(*(member.settle() for member in self.members))

    async def catch_up(self, closed: Mapping[str, int]) -> None:
        """Let them read until numbers beyond these have come on all topics."""
        await asyncio.gather(*(member.catch_up(closed) for member in self.members))
