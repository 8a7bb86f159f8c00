"""Clients in the simulated world: each lives by chance, and writes a diary of what it sent and received."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from tests.handover.diary import Diary
from tests.simulation.connection import PORT, Connection
from tests.simulation.loop import Process
from tests.simulation.sites import WSD
from tests.simulation.swarm import waits
from wsd.redis.channels import LINGER

if TYPE_CHECKING:
    from tests.simulation.world import World

__all__ = ["Client"]

CONNECT_PATIENCE = 30.0
"""Seconds until a client gives up that has not been greeted."""

KEEPALIVE = (20.0, 40.0)
"""Seconds between two pings of a client, at least and at most; without an answer until the next one it goes away, as
libraries do. A client that does not ping never notices that its peer is gone."""

TOLERATED = ("unavailable",)
"""Codes of errors that any request may be answered with: Redis may be away."""

SUBSCRIBES = (1.0, 20.0)
"""Seconds between two subscriptions of a client, at least and at most."""

LAZY = 0.1
"""How likely a client does not authorize on a connection."""


class Client:
    """A client, which connects again whenever its connection has ended.

    Args:
        world: where it lives.
        number: of the client.
        random: of what it does by chance.
        habits: seconds between two times, by what it does.
    """

    def __init__(self, world: World, number: int, random: Random, habits: dict[str, float]) -> None:
        self.world = world
        self.name = f"client-{number}"  # and of the host it runs on
        self.random = random
        self.numbers = itertools.count(1)
        self.process = Process(self.name)
        self.connection: Connection | None = None  # the one that is open, or about to be
        self.connections: list[Connection] = []
        self.calm = False  # whether it does nothing any more but read and ping
        self.silent = False  # whether it does not even ping: what it is owed shall come now
        least, most = SUBSCRIBES
        self._habits = habits | {"subscribes": (least + (most - least) * random.random())}

    def start(self) -> None:
        """Begin to live."""
        self.world.loop.start(self.process, self._live)

    def stop(self) -> None:
        """Go away for good."""
        self.stopped = True
        self.process.on_death.append(self._vanish)
        self.world.loop.kill(self.process)

    def _vanish(self) -> None:
        if self.connection is not None and not self.connection.over.is_set():
            self.connection.diary.leaves()

    async def _live(self) -> None:
        wait = 0.1
        while True:
            connection = self.connection = Connection(
                self.world, Diary(f"{self.name}.{len(self.connections)}", TOLERATED), self.random, self.numbers
            )
            if await self._connect(connection):
                self.connections.append(connection)
                wait = 0.1
                keeping = asyncio.ensure_future(self._keep_alive(connection))
                await self._use(connection)
                keeping.cancel()
            self.connection = None
            await asyncio.sleep(wait * (0.5 + self.random.random()))
            wait = min(2 * wait, 10.0)

    async def _connect(self, connection: Connection) -> bool:
        try:
            async with asyncio.timeout(CONNECT_PATIENCE):
                await self.world.network.connect(lambda: connection, WSD, PORT)
                await _first(connection.ready, connection.over)
        except (OSError, TimeoutError):
            connection.vanish()
            return False
        return connection.ready.is_set()

    async def _keep_alive(self, connection: Connection) -> None:
        least, most = (seconds * self.world.swarm.leisure for seconds in KEEPALIVE)
        while True:
            await asyncio.sleep(least + (most - least) * self.random.random())
            unanswered = connection.diary.pings[0] if connection.diary.pings else None
            if not self.silent:
                connection.ping()
            await asyncio.sleep(least)
            if unanswered is not None and connection.reading and unanswered in connection.diary.pings:
                self.world.note(f"{connection.diary.name} hears nothing any more, and goes away")
                connection.vanish()
                return

    async def _use(self, connection: Connection) -> None:
        random = self.random
        acts: dict[str, Callable[[Connection], object]] = {
            "subscribes": self._subscribe,
            "unsubscribes": self._unsubscribe,
            "pings": self._ping,
            "authorizes": self._authorize,
            "errs": lambda connection: connection.err(),
            "comes_back": self._come_back,
            "floods": self._flood,
            "leaves": lambda connection: connection.leave(),
            "vanishes": lambda connection: connection.vanish(),
            "stops_reading": lambda connection: connection.stop_reading(30.0 * random.random() * random.random()),
            "reads_slowly": self._read_slowly,
            "stands_still": lambda connection: connection.stand_still(self.world.found_out * (1 + random.random())),
            "sends_rubbish": lambda connection: connection.send_rubbish(),
        }
        rates = {habit: 1 / period for habit, period in self._habits.items()}
        if self.world.swarm.tokens is not None:
            if random.random() < LAZY:
                connection.lazy = True
                connection.excuses.add(4001)
                await connection.over.wait()
                return
            connection.authorize()
        connection.acts = True
        while not connection.over.is_set():
            try:
                async with asyncio.timeout(waits(random, 1 / sum(rates.values()))):
                    await connection.over.wait()
            except TimeoutError:
                at = random.random() * sum(rates.values())
                for habit, rate in rates.items():
                    at -= rate
                    if at < 0:
                        if not self.calm:
                            acts[habit](connection)
                        break

    @property
    def _active(self) -> Connection | None:
        """The connection on which it does what clients do; None if it does nothing now."""
        connection = self.connection
        return connection if connection is not None and connection.acts and not self.calm else None

    def come_or_go(self, topic: str) -> None:
        """Come to a topic, or leave it."""
        if (connection := self._active) is not None:
            leaves = connection.diary.listening(topic) and self.random.random() < 0.5
            connection.ask("unsubscribe" if leaves else "subscribe", topic)

    def hurry(self) -> None:
        """Send far more requests than a client may."""
        if (connection := self._active) is not None:
            connection.flood()

    def _subscribe(self, connection: Connection) -> None:
        topics = self.world.swarm.topics
        connection.ask("subscribe", topics[int(self.random.random() * len(topics))])

    def _unsubscribe(self, connection: Connection) -> None:
        topics = [topic for topic, _ in connection.diary.stretches() if connection.diary.listening(topic)]
        if topics:
            connection.ask("unsubscribe", topics[int(self.random.random() * len(topics))])

    def _come_back(self, connection: Connection) -> None:
        """Leave a topic, or come to it, and do the opposite at once, or when the topic has lingered."""
        topic = self.world.swarm.topics[int(self.random.random() * len(self.world.swarm.topics))]
        acts = ["subscribe", "unsubscribe"]
        if connection.diary.listening(topic):
            acts.reverse()
        wait = 0.0
        for act in (*acts, *acts):
            self.world.loop.call_later(wait, connection.ask, act, topic)
            wait += (0.0, 0.01, LINGER - 0.1)[int(self.random.random() * 3)] * (0.9 + 0.2 * self.random.random())

    def _flood(self, connection: Connection) -> None:
        """Send far more requests than a client may, and perhaps go away then."""
        connection.flood()
        if self.random.random() < 0.3:
            connection.vanish()

    def _ping(self, connection: Connection) -> None:
        if self.random.random() < 0.5:
            connection.ping()
        else:
            connection.ask("ping")

    def _authorize(self, connection: Connection) -> None:
        if self.world.swarm.tokens is not None:
            connection.authorize(badly=self.random.random() < 0.2)

    def _read_slowly(self, connection: Connection) -> None:
        for number in range(20):
            self.world.loop.call_later(number * 0.5, connection.stop_reading, 0.49)


async def _first(*events: asyncio.Event) -> None:
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waiting:
            each.cancel()
