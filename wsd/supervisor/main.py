"""The life of the supervisor: the first worker reads the settings, all start, signals come, all are sent away."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from typing import TypeVar

from wsd import __version__, headcount, logs, systemd
from wsd.admin.server import Admin
from wsd.logs import BoundedLogger
from wsd.metrics import Metrics
from wsd.pipe import Message
from wsd.supervisor.child import Child, Gone, how_it_ended
from wsd.supervisor.chosen import Chosen
from wsd.supervisor.launch import Launched, Launcher
from wsd.supervisor.listening import listen
from wsd.supervisor.pages import service, standing
from wsd.supervisor.team import Seat, Team

__all__ = ["STATE_VERSION", "run"]

STATE_VERSION = 1
"""Of what a supervisor leaves to the one that comes in its place when it executes itself."""

MORE_TIME = 15.0
"""Seconds that systemd is asked for while the drain goes on."""

EXTEND_EVERY = 5.0
"""Seconds between two such requests."""

STOP_PATIENCE = 5.0
"""Seconds for workers to end that were told to end at once; then they are killed."""

ANSWERS_PATIENCE = 1.0
"""Seconds in which the admin port still answers at the end."""

logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")


class _Stopped(Exception):
    """A signal has come that ends the service."""


def run(launcher: Launcher, first: Launched, passed: Sequence[systemd.Listening]) -> int:
    """Serve until a signal comes, then drain; return the exit status.

    Args:
        launcher: starts workers.
        first: the first worker.
        passed: the sockets that systemd has passed.

    Raises:
        StartupError: if it can't start on this machine.
    """
    with asyncio.Runner() as runner:
        return runner.run(_live(launcher, first, passed))


async def _live(launcher: Launcher, first: Launched, passed: Sequence[systemd.Listening]) -> int:
    supervisor = _Supervisor(launcher)
    asyncio.get_running_loop().set_exception_handler(supervisor.log_bug)
    supervisor.handle_signals()
    try:
        return await supervisor.live(first, passed)
    except _Stopped:
        return 0
    finally:
        await supervisor.close()


class _Supervisor:
    """The supervisor.

    Args:
        launcher: starts workers.
    """

    def __init__(self, launcher: Launcher) -> None:
        self._metrics = Metrics()
        self._team = Team(launcher, self._metrics, headcount.make())
        self._admin = Admin(service(self._team).pages)
        self._strange = BoundedLogger(logger)  # for signals that mean nothing
        self._stop = asyncio.Event()  # set by the first signal
        self._stop_now = asyncio.Event()  # set by the second
        self._reload = asyncio.Event()  # set by SIGHUP
        self._tasks: list[asyncio.Task[None]] = []

    async def live(self, first: Launched, passed: Sequence[systemd.Listening]) -> int:
        """Start, serve, drain; return the exit status.

        Raises:
            StartupError: if it can't start on this machine.
            _Stopped: if a signal comes before it serves.
        """
        child = self._team.adopt(first)
        child.tell("read", before=None)
        try:
            message = await self._unless_stopped(child.settings)
        except Gone:
            assert child.status is not None
            if child.status < 0:
                logs.say(f"the first worker {how_it_ended(child.status)} before it had read the settings")
            return max(child.status, 0) if child.status >= 0 else 1
        self._begin(child, message, passed)
        status = await self._until_complete()
        if status is not None:
            return status
        systemd.ready(self._status())
        await self._stop.wait()
        await self._drain()
        return 0

    # The start.

    def _begin(self, first: Child, message: Message, passed: Sequence[systemd.Listening]) -> None:
        """Bind, and tell the workers to start."""
        chosen = Chosen.of_message(message)
        logs.setup(chosen.log_level, chosen.log_format)
        logs.catch_all()
        for line in message["warnings"]:
            logger.warning("%s", line)
        team, listening = self._team, listen(chosen, passed)
        team.chosen, team.listening = chosen, listening
        team.seats = [Seat(number) for number in range(chosen.workers)]
        # The sockets listen from now on: who connects waits until a worker is there. It is said before one is, so that
        # it is the first line of the log.
        logger.info(
            "wsd %s listens on %s for clients and on %s for admin; Redis is at %s",
            __version__,
            listening.clients_at(),
            listening.admin_at(),
            chosen.redis,
        )
        team.seat(first, team.seats[0])
        for seat in team.seats[1:]:
            team.fill(seat)

    async def _until_complete(self) -> int | None:
        """Wait until every worker is ready; return an exit status if one can't start."""
        team = self._team
        assert team.listening is not None
        await self._admin.serve(team.listening.admin)
        self._tasks = [asyncio.create_task(team.watch()), asyncio.create_task(self._watchdog())]
        complete = asyncio.create_task(team.complete.wait())
        try:
            await self._unless_stopped(asyncio.wait((complete, team.failed), return_when=asyncio.FIRST_COMPLETED))
        except _Stopped:
            await self._drain()
            raise
        finally:
            complete.cancel()
        return team.failed.result() if team.failed.done() else None

    async def _unless_stopped(self, waited: Awaitable[_Result]) -> _Result:
        """Wait for something.

        Raises:
            _Stopped: if a signal comes before.
        """
        stopped = asyncio.create_task(self._stop.wait())
        waiting = asyncio.ensure_future(waited)
        try:
            await asyncio.wait((stopped, waiting), return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                raise _Stopped
            return waiting.result()
        finally:
            stopped.cancel()
            waiting.cancel()

    # The end.

    async def _drain(self) -> None:
        """Let all workers send their clients away, at the same pace; a second signal ends them at once."""
        team = self._team
        assert team.chosen is not None
        systemd.stopping("draining")
        seconds = team.chosen.drain_seconds
        logger.info(
            "draining: sending %d connections away within %g s; a second signal stops at once", self._clients(), seconds
        )
        if team.listening is not None and team.listening.shared:
            # They are systemd's, and outlive us: who connects from now on waits for the next process.
            for child in team.children:
                child.tell("close")
        team.dismiss("drain", seconds=seconds)
        gone = asyncio.create_task(team.all_gone.wait())
        now = asyncio.create_task(self._stop_now.wait())
        while not gone.done() and not now.done():
            systemd.extend_timeout(MORE_TIME)
            await asyncio.wait((gone, now), timeout=EXTEND_EVERY, return_when=asyncio.FIRST_COMPLETED)
        if now.done():
            team.dismiss("stop")
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP_PATIENCE):
                    await gone
        gone.cancel()
        now.cancel()

    async def close(self) -> None:
        """Close everything, and end workers that are left."""
        team = self._team
        team.dismiss("stop")
        for task in self._tasks:
            task.cancel()
        await self._admin.close(ANSWERS_PATIENCE)
        if team.children:
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP_PATIENCE):
                    await team.all_gone.wait()
        team.kill()
        started = team.listening is not None
        if team.listening is not None:
            team.listening.close()
        team.close()
        logs.flush()
        if started:
            logger.info("stopped")

    # What goes on meanwhile.

    async def _watchdog(self) -> None:
        """Tell systemd that the service lives, as long as every worker's event loop turns."""
        while (interval := systemd.watchdog_interval()) is not None:
            if self._team.lives():
                systemd.watchdog()
            await asyncio.sleep(interval)

    def _clients(self) -> int:
        views = standing(self._team).workers
        return sum(int(view.report.gauges.get("open_connections") or 0) for view in views if view.report is not None)

    def _status(self) -> str:
        """What ``systemctl status`` shows."""
        assert self._team.chosen is not None
        workers = len(self._team.seats)
        return f"{workers} worker{'s' * (workers > 1)}, {self._clients()} clients"

    # Signals.

    def handle_signals(self) -> None:
        """SIGTERM and SIGINT stop the service, SIGHUP makes it read its settings anew.

        SIGUSR1 and SIGUSR2, which others take for "open the log again", would end a process by default.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told_to_stop)
        loop.add_signal_handler(signal.SIGHUP, self._told_to_reload)
        loop.add_signal_handler(signal.SIGCHLD, self._team.reap)
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            loop.add_signal_handler(number, self._ignore_signal, number)
        # They are blocked since the start of the program (see wsd.cli): a signal that came since then is delivered now.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2))

    def _told_to_stop(self) -> None:
        (self._stop_now if self._stop.is_set() else self._stop).set()

    def _told_to_reload(self) -> None:
        self._reload.set()

    def _ignore_signal(self, number: signal.Signals) -> None:
        self._strange.warning(
            number.name, "%s means nothing to wsd; SIGHUP makes it read its settings anew", number.name
        )

    def log_bug(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        """Log and count what a callback raised."""
        exc = context.get("exception")
        if isinstance(exc, BaseException):
            self._metrics.internal_errors += 1
            self._strange.exception(type(exc).__name__, "%s", context.get("message", "unknown"), exc=exc)
        else:
            self._strange.warning("loop", "the event loop says: %s", context.get("message", "unknown"))
