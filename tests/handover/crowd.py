"""The crowd: clients of every kind, which live while something happens to the daemon."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

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

__all__ = ["Crowd", "Size"]


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
        self.sleepers = [Sleeper(world, f"sleeper {n}", long) for n in range(size.sleepers)]
        self._clients: list[Peer | Foreign] = [
            # The first listens to everything.
            *(Listener(world, f"listener {n}", topics[n :: n + 1]) for n in range(size.listeners)),
            *(Churner(world, f"churner {n}") for n in range(size.churners)),
            *(Reauthorizer(world, f"reauthorizer {n}") for n in range(size.reauthorizers)),
            *(Pinger(world, f"pinger {n}") for n in range(size.pingers)),
            *(
                Halver(world, f"halver {split} {n}", split, early=n % 2 == 0)
                for split in SPLITS
                for n in range(size.halvers)
            ),
            *(Fragmenter(world, f"fragmenter {n}") for n in range(size.fragmenters)),
            *(Laggard(world, f"laggard {n}", long) for n in range(size.laggards)),
            *self.sleepers,
            *(Visitor(world, f"visitor {n}") for n in range(size.visitors)),
            *(AiohttpClient(world, f"aiohttp {n}", topics[n : n + 4]) for n in range(size.aiohttp)),
            *(WebSocketClient(world, f"websocket-client {n}", topics[n : n + 4]) for n in range(size.websocket_client)),
            *(Tail(world, f"tail {n}", topics[n : n + 3]) for n in range(size.tails)),
            *(Browser(world, f"browser {n}", topics[n : n + 4]) for n in range(size.browsers if CHROMIUM else 0)),
        ]
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        try:
            await asyncio.gather(*(self._stack.enter_async_context(client) for client in self._clients))
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @property
    def diaries(self) -> list[Diary]:
        """What all of them wrote down."""
        return [diary for client in self._clients for diary in client.diaries]

    async def poise(self) -> None:
        """Let them get ready for what happens to the daemon."""
        await asyncio.gather(*(client.poise() for client in self._clients))

    async def go_on(self) -> None:
        """It has happened."""
        await asyncio.gather(*(client.go_on() for client in self._clients))

    async def settle(self) -> None:
        """Let them come to rest: nobody is owed a reply."""
        await asyncio.gather(*(client.settle() for client in self._clients))

    async def catch_up(self, closed: Mapping[str, int]) -> None:
        """Let them read until numbers beyond these have come on all topics."""
        await asyncio.gather(*(client.catch_up(closed) for client in self._clients))
