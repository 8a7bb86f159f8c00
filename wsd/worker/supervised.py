"""A worker of a service, which does what the supervisor says, over a pipe (:mod:`wsd.pipe`).

::

    it is told ("do")                           it says ("say")
    read {before}                               settings {...}, or mistakes {...}
    start {settings, number, ...} + sockets     ready {redis}
                                                report {report}: each second, unasked, as a sign of life
    report {id, whole}                          report {id, report}
    page {id, standing, openmetrics}            page {id, text}: what a scrape gets
    close {}         accept nobody any more
    give {id, count, seconds} + pipe            gave {id, moved, ...}: clients have gone to another worker
    take {id} + pipe                            took {id, moved, ...}: clients have come from another worker
    drain {...}      send everybody away, and end
    stop {}          end at once

A worker that the supervisor has left alone, because it has died, drains and ends: nobody could tell it to, or take its
place. The unit for systemd does not let it come to that, because wsd is back sooner when all are killed at once.

The worker pays no heed to the signals of a terminal, which go to the supervisor as well. A SIGTERM that it gets alone
makes it drain and end; the supervisor starts another.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from enum import IntEnum
from typing import Any

import uvloop

from wsd import __version__, descriptors, logs, process
from wsd.admin.exposition import render
from wsd.admin.standing import Standing
from wsd.config import Settings, pack, unpack, warnings
from wsd.errors import SettingsError
from wsd.handover.giver import Giver
from wsd.handover.taker import Taker
from wsd.headcount import Headcount
from wsd.pipe import Message, Pipe
from wsd.worker import stacks
from wsd.worker.worker import RESERVED_DESCRIPTORS, Worker

__all__ = ["run"]

BEAT = 1.0
"""Seconds between two signs of life."""

REDIS_PATIENCE = 5.0
"""Seconds that a worker waits for Redis before it is ready without. Clients are let in all the same: they wait, or hear
that topics are unavailable."""

MOVES_PATIENCE = 5.0
"""Seconds for a hand-over to end when the drain begins. The giver says at once that this is the end."""

LOOK = 0.02
"""Seconds between two looks whether Redis has answered."""

IGNORED = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

logger = logging.getLogger(__name__)


def run(descriptor: int, read: Callable[[], Settings], state: Callable[[], int]) -> None:
    """Do what the supervisor says, until it says that this is the end.

    Args:
        descriptor: of the pipe to the supervisor.
        read: reads the settings; may raise :exc:`~wsd.errors.SettingsError`.
        state: returns which version of the supervisor's state this program understands; see wsd.supervisor.state.

    Raises:
        SettingsError: if the settings can't be used, at the first start of the service.
        StartupError: if it can't start on this machine.
    """
    process.set_name("wsd worker")
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, IGNORED)
    written = stacks.write_stacks_on_signal()
    descriptors.room(RESERVED_DESCRIPTORS)  # the loop itself needs some
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_live(socket.socket(fileno=descriptor), written, read, state))


async def _live(sock: socket.socket, written: int, read: Callable[[], Settings], state: Callable[[], int]) -> None:
    await _Supervised(sock, written, read, state).live()


class _Stage(IntEnum):
    """How far the life of a worker has come; it only goes on."""

    WAITING = 0
    """It has not been told to start."""

    SERVING = 1

    DRAINING = 2

    ENDING = 3
    """At once."""


class _Supervised:
    """What the supervisor's messages do.

    Args:
        sock: the pipe to the supervisor.
        written: the descriptor of the file that stacks are written into.
        read: see :func:`run`, as for the next one.
        state: see there.
    """

    def __init__(
        self, sock: socket.socket, written: int, read: Callable[[], Settings], state: Callable[[], int]
    ) -> None:
        self._pipe = Pipe(sock, self._do, self._orphaned)
        self._read = read
        self._state = state
        self._stage = _Stage.WAITING
        self._moved_on = asyncio.Event()  # set when the stage has changed
        self._error: Exception | None = None  # ends the worker before it has started
        self._worker: Worker | None = None
        self._sockets: list[socket.socket] = []
        self._drain_seconds = 0.0
        self._replaced = False  # whether another worker has taken its place
        self._gives: set[asyncio.Task[None]] = set()  # hand-overs to other workers
        self._takes: set[asyncio.Task[None]] = set()  # the same from others
        hello = {"say": "hello", "version": __version__, "stacks": stacks.SIGNAL}
        self._pipe.send(hello, [written], gives=True)

    async def live(self) -> None:
        """Wait until it is told to start, serve, drain, end.

        Raises:
            Exception: what has gone wrong before it could serve; see :func:`run`.
        """
        await self._until(_Stage.SERVING)
        if self._error is not None:
            raise self._error
        if self._worker is None:
            await self._flush()
            return
        worker = self._worker
        try:
            await worker.listen(self._sockets)
            worker.keep(self._beat(worker))
            worker.keep(self._announce(worker))
            worker.settle()
            await worker.until_any(self._until(_Stage.DRAINING))
            await worker.until_any(self._until(_Stage.ENDING), self._send_away(worker))
        finally:
            await worker.close()
            self._pipe.send(_report(worker, None, whole=True))  # the last one counts for the sum of the service
            await self._flush()

    async def _flush(self) -> None:
        """Wait until everything is said; not for ever, because the supervisor may stand still."""
        with suppress(TimeoutError):
            async with asyncio.timeout(BEAT):
                await self._pipe.flush()

    async def _until(self, stage: _Stage) -> None:
        while self._stage < stage:
            self._moved_on.clear()
            await self._moved_on.wait()

    def _go_on(self, stage: _Stage) -> None:
        self._stage = max(self._stage, stage)
        self._moved_on.set()

    # What it is told.

    def _do(self, message: Message, passed: list[int]) -> None:
        match message["do"], self._worker:
            case ("read" | "start") as do, None:
                try:
                    if do == "read":
                        self._read_settings(message["before"])
                    else:
                        self._start(message, passed)
                except Exception as exc:  # the machine says no, or the new code is broken
                    self._error = exc
                    self._go_on(_Stage.ENDING)
            case "report", Worker() as worker:
                self._pipe.send(_report(worker, message["id"], whole=message["whole"]))
            case "page", _:
                standing = Standing.load(message["standing"])
                page = render(standing, openmetrics=message["openmetrics"])
                self._pipe.send({"say": "page", "id": message["id"], "text": page})
            case "close", Worker() as worker:
                worker.gateway.stop_listening()
            case (("give" | "take"), Worker() as worker):
                self._hand_over(message, socket.socket(fileno=passed.pop()), worker)
            case "drain", _:
                self._replaced = message.get("replaced", False)
                self._drain(message["seconds"])
            case "stop", _:
                self._go_on(_Stage.ENDING)

    def _read_settings(self, before: dict[str, Any] | None) -> None:
        """Read the settings for all workers.

        Args:
            before: those that are in force; None at the first start, where mistakes are said as any command says them.

        Raises:
            SettingsError: at the first start, if they can't be used.
        """
        try:
            settings = self._read()
            given = pack(settings)
        except SettingsError as exc:
            if before is None:
                raise
            self._pipe.send({"say": "mistakes", "mistakes": exc.mistakes})
            self._go_on(_Stage.ENDING)
            return
        self._pipe.send(
            {
                "say": "settings",
                "settings": given,
                "plain": _plain(settings),
                "warnings": warnings(settings),
                "changed": [] if before is None else _changed(unpack(before), settings),
                "state": None if before is None else self._state(),
            }
        )

    def _start(self, message: Message, passed: list[int]) -> None:
        settings = unpack(message["settings"])
        number, workers = message["number"], message["workers"]
        process.set_name(f"wsd worker {number}")
        logs.setup(settings.log_level, settings.log_format, worker=number if workers > 1 else None)
        logs.catch_all()
        headcount = None
        if settings.max_connections:
            headcount = Headcount(passed[0], message["place"], settings.max_connections)
        os.close(passed[0])
        self._sockets = [socket.socket(fileno=descriptor) for descriptor in passed[1:]]
        worker = self._worker = Worker(settings, headcount)
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(worker.log_bug)
        loop.add_signal_handler(signal.SIGTERM, self._drain, settings.drain_seconds)
        self._drain_seconds = settings.drain_seconds
        if number == 0:
            descriptors.warn_of_little_room(worker.room, -(-settings.max_connections // workers))
        self._go_on(_Stage.SERVING)

    def _drain(self, seconds: float) -> None:
        self._drain_seconds = seconds
        if self._worker is not None:
            self._worker.gateway.draining = True  # at once, so that nobody is let in for a moment
        self._go_on(_Stage.DRAINING)

    def _orphaned(self) -> None:
        if self._worker is not None and self._stage < _Stage.DRAINING:
            logger.warning("the supervisor is gone: draining, and accepting nobody any more")
            self._worker.gateway.stop_listening()
        self._drain(self._drain_seconds)

    def _hand_over(self, message: Message, pipe: socket.socket, worker: Worker) -> None:
        """Give or take clients, and say what became of it.

        Args:
            message: what it is told.
            pipe: the end of a pipe to another worker.
            worker: itself.
        """
        giving = message["do"] == "give"

        async def run() -> None:
            try:
                if self._stage >= _Stage.DRAINING:
                    pipe.close()
                    outcome: dict[str, Any] = {"moved": 0, "reason": "it drains"}
                elif giving:
                    giver = Giver(worker.parts, pipe, count=message["count"], seconds=message["seconds"])
                    outcome = asdict(await giver.run())
                else:
                    outcome = asdict(await Taker(worker.parts, pipe).run())
            except Exception as exc:
                logger.exception("a hand-over has failed")
                outcome = {"moved": 0, "reason": f"a bug ({type(exc).__name__}); the log has it"}
            self._pipe.send({"say": "gave" if giving else "took", "id": message["id"], **outcome})

        task = asyncio.create_task(run())
        moves = self._gives if giving else self._takes
        moves.add(task)
        task.add_done_callback(moves.discard)

    async def _send_away(self, worker: Worker) -> None:
        """Send everybody away: those included that another worker does not have yet, or that are about to come."""
        for giving in self._gives:
            giving.cancel()
        if moves := self._gives | self._takes:
            await asyncio.wait(moves, timeout=MOVES_PATIENCE)
        await worker.gateway.drain(self._drain_seconds, replaced=self._replaced)

    # What it says.

    async def _announce(self, worker: Worker) -> None:
        """Say that it is ready, and keep quiet."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + REDIS_PATIENCE
        while not worker.source.up and loop.time() < deadline:  # noqa: ASYNC110 - once in a worker's life
            await asyncio.sleep(LOOK)
        self._pipe.send(_report(worker, None, whole=False))  # the last one may say that Redis is away
        self._pipe.send({"say": "ready", "redis": worker.source.up})
        await asyncio.get_running_loop().create_future()

    async def _beat(self, worker: Worker) -> None:
        while True:
            if not self._pipe.waiting:  # the supervisor may stand still; then they would pile up
                self._pipe.send(_report(worker, None, whole=False))
            await asyncio.sleep(BEAT)


def _report(worker: Worker, number: int | None, *, whole: bool) -> Message:
    return {"say": "report", "id": number, "report": worker.status.report(whole).dump()}


def _plain(settings: Settings) -> dict[str, Any]:
    """What the supervisor itself needs to know."""
    return {
        "host": list(settings.host),
        "port": settings.port,
        "admin_host": list(settings.admin_host),
        "admin_port": settings.admin_port,
        "workers": settings.processes(),
        "worker_timeout": settings.worker_timeout,
        "drain_seconds": settings.drain_seconds,
        "log_level": settings.log_level,
        "log_format": settings.log_format,
        "redis": str(settings.redis_url.deployment),
    }


def _changed(before: Settings, now: Settings) -> list[str]:
    """The names of the settings that are not as they were."""
    now = unpack(pack(now))  # where the key comes from is no difference
    return [name for name in Settings.model_fields if getattr(now, name) != getattr(before, name)]
