"""Clients of wsd that keep a ledger, for the inside of a box: run as ``python -m tests.whole.systemd.crowd``.

A publisher counts on one topic. Each member of the crowd notes what is missing, comes twice or comes in another order
on a connection, and with which code it ends; then it comes again. Newcomers try all the time whether they get in.

A line on standard input asks for what has happened since the last time; the answer is a line of JSON. After the line
``all`` it comes when all members are there and have heard the last number.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from tests.lib.clients import Client, Closed
from tests.lib.waiting import eventually

TOPIC = f"numbers-{os.getpid()}"

NEWCOMERS = 0.05
"""Seconds between two newcomers."""

TRIES = 4
"""How often a client comes that is told 503. A worker that drains may say so to whom it has accepted just before; the
next time another may, and there are fewer workers than tries."""

LOST = "lost"
"""What became of a newcomer whose connection a process had accepted that ended before it had answered."""


class Ledger:
    """What has happened since the last question."""

    def __init__(self) -> None:
        self.messages = 0  # that were received
        self.wrong: list[str] = []  # what was not the number that was due
        self.closed: Counter[str] = Counter()  # connections that ended, by close code
        self.newcomers: Counter[str] = Counter()  # by what became of them
        self.longest = 0.0  # seconds that one waited for the greeting

    def report(self) -> dict[str, object]:
        """As JSON."""
        return {
            "messages": self.messages,
            "wrong": self.wrong[:10],
            "closed": self.closed,
            "newcomers": self.newcomers,
            "longest": round(self.longest, 3),
        }


class Crowd:
    """The clients, and who publishes for them."""

    def __init__(self, port: int, redis_port: int, members: int, rate: float, token: str) -> None:
        self.ledger = Ledger()
        self._port = port
        self._redis_port = redis_port
        self._rate = rate
        self._token = token
        self._number = 0  # the last one that was published
        self._members: list[int | None] = [None] * members  # the last number of each; None: not connected
        self._publishing = asyncio.Event()

    async def run(self) -> None:
        """Go on until standard input ends."""
        tasks = [asyncio.create_task(self._member(place)) for place in range(len(self._members))]
        await eventually(lambda: None not in self._members, "the crowd")
        self._publishing.set()
        tasks += [asyncio.create_task(self._publish()), asyncio.create_task(self._newcomers())]
        say("ready")
        while line := await asyncio.to_thread(sys.stdin.readline):
            if line == "all\n":
                await self._settle()
            say(json.dumps(self.ledger.report()))
            self.ledger = Ledger()
            self._publishing.set()
        for task in tasks:
            task.cancel()

    async def _settle(self) -> None:
        """Stop publishing, and wait until all members are there and have the last number; or say who has not."""
        self._publishing.clear()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            await asyncio.sleep(0.02)
            if all(last == self._number for last in self._members):
                return
        behind = [last for last in self._members if last != self._number]
        self.ledger.wrong.append(f"{len(behind)} members are not at {self._number}: {behind[:5]}")

    async def _publish(self) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", self._redis_port)
        while True:
            await self._publishing.wait()
            self._number += 1
            writer.write(f"PUBLISH {TOPIC} {self._number}\r\n".encode())
            await asyncio.sleep(1 / self._rate)

    async def _member(self, place: int) -> None:
        while True:
            try:
                async with self._come() as client:
                    await self._enter(client)
                    self._members[place] = self._number
                    await self._listen(client, place)
            except Closed as closed:
                self.ledger.closed[str(closed.code)] += 1
            except (OSError, EOFError, AssertionError) as exc:
                self.ledger.closed[type(exc).__name__] += 1
            self._members[place] = None
            await asyncio.sleep(0.05)

    @asynccontextmanager
    async def _come(self) -> AsyncIterator[Client]:
        """Connect, and get the greeting."""
        async with AsyncExitStack() as stack:
            for left in reversed(range(TRIES)):
                client = Client(self._port)
                try:
                    await stack.enter_async_context(client)
                    break
                except AssertionError as exc:
                    if not left or " 503 " not in str(exc):
                        raise
            yield client

    async def _enter(self, client: Client) -> None:
        if self._token:
            reply = await client.call("authorization", self._token)
            assert reply == {"action": "session", "message": "session authenticated"}, reply
        await client.subscribe(TOPIC)

    async def _listen(self, client: Client, place: int) -> None:
        due = 0  # any
        while True:
            message = await client.receive()
            number = message.get("snapshot")
            self.ledger.messages += 1
            if message.get("action") != "message" or number != (due or number):
                self.ledger.wrong.append(f"member {place}: {due} was due, and there came {message}")
            if number is not None:
                self._members[place] = number
                due = number + 1

    async def _newcomers(self) -> None:
        tasks: set[asyncio.Task[None]] = set()
        while True:
            task = asyncio.create_task(self._newcomer())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            await asyncio.sleep(NEWCOMERS)

    async def _newcomer(self) -> None:
        begun = time.monotonic()
        try:
            async with self._come():
                what = "in"
        except Closed as closed:
            what = f"closed with {closed.code}"
        except (ConnectionResetError, BrokenPipeError, EOFError):
            what = LOST
        except (OSError, AssertionError) as exc:
            what = f"{type(exc).__name__}: {str(exc).splitlines()[0]}"
        self.ledger.newcomers[what] += 1
        self.ledger.longest = max(self.ledger.longest, time.monotonic() - begun)


def say(line: str) -> None:
    """Write a line to standard output."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Run what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=3000)
    parser.add_argument("--redis-port", type=int, default=6379)
    parser.add_argument("--members", type=int, default=50)
    parser.add_argument("--rate", type=float, default=200)
    parser.add_argument("--token", default="")
    args = parser.parse_args()
    with suppress(BrokenPipeError):
        asyncio.run(Crowd(args.port, args.redis_port, args.members, args.rate, args.token).run())


if __name__ == "__main__":
    main()
