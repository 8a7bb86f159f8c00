"""Drives the generators, as child processes that read and write JSON lines.

The calls block. Behind Locust they block a greenlet only, as gevent replaces ``subprocess`` and ``select``.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Collection
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from bench.load.group import Plan
from bench.load.publisher import Order
from bench.processes import Program

__all__ = ["GeneratorError", "Publisher", "Shard", "Stops"]

PATIENCE = 5.0
"""Seconds for a child to end."""

ANSWER = 60.0
"""Seconds for a child to answer, or to start, on a machine that has ten times too much to do."""


class GeneratorError(Exception):
    """A generator died or didn't answer."""


class Child(Program):
    """A process that is talked to line by line.

    Args:
        module: what ``python -m`` runs.
        cores: where it may run; empty: anywhere.
    """

    def __init__(self, module: str, cores: Collection[int] = ()) -> None:
        command = [sys.executable, "-m", module]
        super().__init__(command, cores=cores, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._module = module
        self._rest = b""

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def say(self, message: dict[str, Any]) -> None:
        """Send one line.

        Raises:
            GeneratorError: if there is nobody left to read it.
        """
        try:
            self.stdin.write(json.dumps(message).encode() + b"\n")
            self.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def hear(self, patience: float) -> dict[str, Any]:
        """Receive one line.

        Args:
            patience: seconds to wait for it.

        Raises:
            GeneratorError: if it doesn't come.
        """
        while b"\n" not in self._rest:
            if not select.select([self.stdout], [], [], patience)[0]:
                raise GeneratorError(f"{self._module} did not answer within {patience:g} s")
            data = os.read(self.stdout.fileno(), 1 << 20)
            if not data:
                raise self._ended()
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _ended(self) -> GeneratorError:
        return GeneratorError(f"{self._module} ended with status {self.wait(PATIENCE)}")

    def stop(self) -> None:
        """Let it end, which it does when nobody talks to it any more."""
        with suppress(OSError):  # it is dead already
            self.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self.wait(PATIENCE)
        self.kill()
        self.stdout.close()


class Shard(Child):
    """Many sockets: see :mod:`bench.load.shard`. One command at a time."""

    def __init__(self, cores: Collection[int] = ()) -> None:
        super().__init__("bench.load.shard", cores)
        self._asked = 0

    def ask(self, do: str, patience: float = ANSWER, **arguments: Any) -> dict[str, Any]:
        """Give a command, and wait for the answer."""
        self._asked += 1
        self.say({"do": do, "id": self._asked, **arguments})
        while (answer := self.hear(patience))["id"] != self._asked:
            pass  # of a command that wasn't waited for
        return answer

    def begin(self, do: str, **arguments: Any) -> None:
        """Give a command, and don't wait for the answer."""
        self.say({"do": do, "id": 0, **arguments})

    def open(self, plan: Plan) -> dict[str, Any]:
        """Open a group, and wait until it is subscribed. See :class:`bench.load.group.Plan`."""
        return self.ask("open", patience=plan.patience + ANSWER, **asdict(plan))

    def stats(self) -> dict[str, Any]:
        """What happened so far."""
        return self.ask("stats")

    def turn(self, group: str = "listeners") -> dict[str, Any]:
        """End a window of the pauses of a group, and begin the next; return the time and the generator's CPU."""
        return self.ask("turn", group=group)

    def pauses(self, group: str = "listeners") -> dict[int, list[int]]:
        """The longest pause in each window that is over, in nanoseconds, by the number of the connection."""
        found = self.ask("pauses", group=group)["pauses"]
        return {int(number): windows for number, windows in found.items()}

    def drain(self, published: int, topics: int, *, quiet: float = 1.0, timeout: float = 10.0) -> dict[str, Any]:
        """Wait until everything has come.

        Args:
            published: messages that were published, over these topics in turn.
            topics: how many.
            quiet: seconds without a message after which nothing more is expected.
            timeout: seconds after which the rest is left.
        """
        return self.ask(
            "drain", patience=timeout + ANSWER, published=published, topics=topics, quiet=quiet, timeout=timeout
        )


class Publisher(Child):
    """An open loop: see :mod:`bench.load.publisher`."""

    def __init__(self, order: Order, cores: Collection[int] = ()) -> None:
        super().__init__("bench.load.publisher", cores)
        self._order = order
        self.say(asdict(order))
        self.hear(ANSWER)

    def start(self) -> None:
        """Begin to publish."""
        self.say({})

    def halt(self) -> None:
        """Stop publishing before the time is over. Then :meth:`result`."""
        self.say({})

    def result(self) -> dict[str, Any]:
        """Wait for the end; return what was done, see :func:`bench.load.publisher.publish`."""
        return self.hear(self._order.seconds * 2 + 30)


class Stops(Child):
    """Looks how long the loop of a server stands still: see :mod:`bench.load.stops`."""

    def __init__(self, port: int, cores: Collection[int] = ()) -> None:
        super().__init__("bench.load.stops", cores)
        self.say({"port": port})
        self.hear(ANSWER)

    def result(self) -> dict[str, Any]:
        """Stop looking; return what was found."""
        self.say({})
        return self.hear(75)
