"""The life of the supervisor: the first worker reads the settings, all start, signals come, all are sent away."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from wsd import __version__, headcount, logs, systemd
from wsd.admin.server import Admin
from wsd.logs import BoundedLogger, life
from wsd.metrics import Metrics
from wsd.pipe import Message
from wsd.supervisor import state, steps
from wsd.supervisor.balance import Balance
from wsd.supervisor.child import Child, Gone, how_it_ended
from wsd.supervisor.chosen import Chosen
from wsd.supervisor.launch import Launched, Launcher
from wsd.supervisor.listening import listen
from wsd.supervisor.pages import service
from wsd.supervisor.reloading import Reloader, ReloadError
from wsd.supervisor.signs import Signs
from wsd.supervisor.steps import Step
from wsd.supervisor.team import Seat, Team

__all__ = ["STATE_VERSION", "resume", "run"]

STATE_VERSION = state.VERSION
"""What this code understands; a worker of it says so to a supervisor of other code."""

STOP_PATIENCE = 5.0
"""Seconds for workers to end that were told to end at once; then they are killed."""

ANSWERS_PATIENCE = 1.0
"""Seconds in which the admin port still answers at the end."""

FLUSH_PATIENCE = 5.0
"""Seconds for workers to take the last messages before the supervisor executes itself."""

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

    faulthandler.enable()  # systemd's watchdog ends a supervisor that stands still by SIGABRT

    async def live() -> int:
        supervisor = _Supervisor(Team(launcher, Metrics(), headcount.make()))
        return await supervisor.live(lambda: supervisor.start(first, passed))

    with asyncio.Runner() as runner:
        return runner.run(live())


def resume(launcher: Launcher, memory: int) -> int:
    """Go on where the supervisor was that has executed itself; return the exit status.

    Args:
        launcher: starts workers.
        memory: the descriptor of what it has left.
    """

    faulthandler.enable()

    async def live() -> int:
        left = state.load(memory)
        team = Team(launcher, Metrics(), left["count"])
        supervisor = _Supervisor(team)
        state.restore(left, team)
        return await supervisor.live(supervisor.go_on)

    with asyncio.Runner() as runner:
        return runner.run(live())


class _Supervisor:
    """The supervisor.

    Args:
        team: the workers; nobody yet, or those of the supervisor before.
    """

    def __init__(self, team: Team) -> None:
        self._team = team
        self._admin = Admin(service(team).pages)
        self._signs = Signs(team)
        self._strange = BoundedLogger(logger)  # for signals that mean nothing
        self._stop = asyncio.Event()  # set by the first signal
        self._stop_now = asyncio.Event()  # set by the second
        self._reload = asyncio.Event()  # set by SIGHUP
        self._moving = asyncio.Lock()  # held by whoever moves clients
        self._tasks: list[asyncio.Task[None]] = []

    async def live(self, begin: Callable[[], Awaitable[int | None]]) -> int:
        """Start or go on, serve, drain; return the exit status.

        Args:
            begin: returns an exit status if the service can't start.

        Raises:
            StartupError: if it can't start on this machine.
        """
        asyncio.get_running_loop().set_exception_handler(self._log_bug)
        self._handle_signals()
        try:
            status = await begin()
            if status is not None:
                return status
            self._keep(self._reload_whenever_told(), Balance(self._team, self._moving).run(), self._signs.tell_status())
            await self._ended(self._stop.wait())
            await self._drain()
        except _Stopped:
            pass
        finally:
            await self._close()
        return 0

    # The start.

    async def start(self, first: Launched, passed: Sequence[systemd.Listening]) -> int | None:
        """Let the first worker read the settings, bind, start all workers, and wait until they are ready.

        Returns:
            An exit status if the service can't start and somebody has said why.

        Raises:
            StartupError: if it can't start on this machine.
            _Stopped: if a signal comes before.
        """
        child = self._team.adopt(first)
        child.tell("read", before=None)
        try:
            message = await self._unless_stopped(child.settings)
        except Gone:
            assert child.status is not None
            if child.status < 0:
                logs.say(f"the first worker {how_it_ended(child.status)} before it had read the settings")
                return 1
            return child.status  # it has said what is wrong, or printed the help
        self._begin(child, message, passed)
        await self._serve_pages()
        team = self._team
        complete = asyncio.create_task(team.complete.wait())
        try:
            await self._unless_stopped(asyncio.wait((complete, team.failed), return_when=asyncio.FIRST_COMPLETED))
        except _Stopped:
            await self._drain()
            raise
        finally:
            complete.cancel()
        if team.failed.done():
            return team.failed.result()
        systemd.ready(self._signs.status())
        return None

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
        life.listening(listening.clients_at(), listening.admin_at(), chosen.redis)
        team.begin(first)

    async def go_on(self) -> None:
        """Do what the supervisor did that was executed anew."""
        team = self._team
        assert team.chosen is not None
        logs.setup(team.chosen.log_level, team.chosen.log_format)
        logs.catch_all()
        team.reap()  # a SIGCHLD may have come when nobody looked
        for seat in team.seats:
            if seat.child is None:
                team.fill(seat)
        await self._serve_pages()
        steps.reached(Step.RESUMED)
        logger.info("the supervisor runs wsd %s now", __version__)
        systemd.ready(self._signs.status())

    async def _serve_pages(self) -> None:
        assert self._team.listening is not None
        # Copies, because the admin port closes what it was given, and these sockets must outlive it.
        await self._admin.serve([sock.dup() for sock in self._team.listening.admin])
        self._keep(self._team.watch(), self._signs.watchdog())

    def _keep(self, *work: Coroutine[Any, Any, None]) -> None:
        """Do something as long as the service lives."""
        self._tasks += map(asyncio.create_task, work)

    async def _ended(self, waited: Coroutine[Any, Any, object]) -> None:
        """Wait for something. If what goes on meanwhile ends because of a bug, that is raised."""
        waiting = asyncio.create_task(waited)
        done, _ = await asyncio.wait((waiting, *self._tasks), return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        for task in done:
            task.result()

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

    # Reloads.

    async def _reload_whenever_told(self) -> None:
        """Reload when SIGHUP has come. Those that come meanwhile are done together, afterwards."""
        while True:
            await self._reload.wait()
            self._reload.clear()
            async with self._moving:
                extending = asyncio.create_task(self._signs.extend_timeout())
                try:
                    await self._reload_once()
                finally:
                    extending.cancel()
            systemd.ready(self._signs.status())

    async def _reload_once(self) -> None:
        team, result = self._team, "failed"
        reloader = Reloader(team)
        try:
            outcome = await reloader.reload()
        except ReloadError as exc:
            team.trouble = f"the last reload failed: {exc}"
            for line in exc.lines:
                logger.error("reload failed: %s", line, extra=logs.fields(result=result, reason=line))
        else:
            closed = outcome.why_left
            team.trouble, result = f"the last reload closed clients: {closed}" if closed else "", "done"
        finally:
            team.metrics.reloads[result] += 1
        if result == "done":
            await self._execute(reloader.understood)

    async def _execute(self, understood: int | None) -> None:
        """Become the supervisor of the new code; return only if that is not possible."""
        if understood != STATE_VERSION:
            logger.warning(
                "the workers are new, but the supervisor stays wsd %s until the service is started again: the new code"
                " does not know what this one would leave to it",
                __version__,
            )
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_PATIENCE):
                await asyncio.gather(*(child.flush() for child in self._team.children))
        await self._admin.close(ANSWERS_PATIENCE)
        # Signals that come from now on wait for the new program. What has come until now is seen by the loop first.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, state.HELD_BACK)
        try:
            for _ in range(3):
                await asyncio.sleep(0)
            await self._team.see_off()
            if self._stop.is_set():
                return
            if self._reload.is_set():
                os.kill(os.getpid(), signal.SIGHUP)  # waits for the new program, too
            logs.flush()
            logs.drain()
            steps.reached(Step.EXECUTES)
            state.execute(self._team)
        except OSError as exc:
            logger.error("the supervisor can't be executed anew, and stays wsd %s: %s", __version__, exc.strerror)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        self._admin = Admin(service(self._team).pages)
        assert self._team.listening is not None
        await self._admin.serve([sock.dup() for sock in self._team.listening.admin])

    # The end.

    async def _drain(self) -> None:
        """Let all workers send their clients away, at the same pace; a second signal ends them at once."""
        team = self._team
        assert team.chosen is not None and team.listening is not None
        systemd.stopping("draining")
        for task in self._tasks[2:]:  # no reload and no move any more
            task.cancel()
        seconds = team.chosen.drain_seconds
        life.draining(sum(child.clients for child in team.children), seconds)
        if team.listening.shared:
            team.dismiss("close")  # who comes now waits in systemd's sockets for the next process
        team.dismiss("drain", seconds=seconds)
        waited = [asyncio.create_task(event.wait()) for event in (team.all_gone, self._stop_now)]
        extending = asyncio.create_task(self._signs.extend_timeout())
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        extending.cancel()
        for waiting in waited:
            waiting.cancel()

    async def _close(self) -> None:
        """Close everything, and end workers that are left."""
        team = self._team
        team.dismiss("stop")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._admin.close(ANSWERS_PATIENCE)
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_PATIENCE):
                await team.all_gone.wait()
        team.kill()
        started = team.listening is not None
        team.close()
        logs.flush()
        if started:
            life.stopped()

    # Signals.

    def _handle_signals(self) -> None:
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
        # They are blocked since the start of the program (see wsd.cli), or since the one before has executed it: a
        # signal that came since then is delivered now.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, state.HELD_BACK)

    def _told_to_stop(self) -> None:
        (self._stop_now if self._stop.is_set() else self._stop).set()

    def _told_to_reload(self) -> None:
        systemd.reloading(self._signs.status())
        self._reload.set()

    def _ignore_signal(self, number: signal.Signals) -> None:
        self._strange.warning(
            number.name, "%s means nothing to wsd; SIGHUP makes it read its settings anew", number.name
        )

    def _log_bug(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log and count what a callback raised."""
        exc = context.get("exception")
        if isinstance(exc, BaseException):
            self._team.metrics.internal_errors += 1
            self._strange.exception(type(exc).__name__, "%s", context.get("message", "unknown"), exc=exc)
        else:
            self._strange.warning("loop", "the event loop says: %s", context.get("message", "unknown"))
