"""A worker that is the whole service, for ``wsd dev``: it binds, answers on the admin port, and takes the signals."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable

import uvloop

from wsd import descriptors, logs, sockets, systemd
from wsd.admin.alone import alone
from wsd.admin.server import Admin
from wsd.config import Settings
from wsd.errors import StartupError
from wsd.logs import BoundedLogger, life
from wsd.worker.worker import RESERVED_DESCRIPTORS, Worker

__all__ = ["LoneWorker", "run"]

logger = logging.getLogger(__name__)


def run(settings: Settings, started: Callable[[LoneWorker], None]) -> None:
    """Serve until a signal comes, then drain.

    Args:
        settings: the settings.
        started: called when it listens.

    Raises:
        StartupError: if it can't start on this machine.
    """
    logs.catch_all()
    descriptors.room(RESERVED_DESCRIPTORS)  # the loop itself needs some
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_live(settings, started))


async def _live(settings: Settings, started: Callable[[LoneWorker], None]) -> None:
    worker = LoneWorker(settings)
    asyncio.get_running_loop().set_exception_handler(worker.log_bug)
    worker.handle_signals()
    try:
        await worker.startup()
        started(worker)
        worker.settle()
        await worker.main_loop()
    finally:
        await worker.shutdown()


class LoneWorker(Worker):
    """A worker without a supervisor.

    Args:
        settings: the settings.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._stop = asyncio.Event()  # set by the first signal
        self._stop_now = asyncio.Event()  # set by the second
        self._strange = BoundedLogger(logger)  # for signals that mean nothing
        self._admin = Admin(alone(self.status.report).pages)
        self.port = self.admin_port = 0  # where it listens, after startup()

    async def startup(self) -> None:
        """Listen, and begin to connect to Redis.

        Raises:
            StartupError: if a port can't be had.
        """
        settings = self._settings
        # Both listen before either serves, so that nobody is answered by a daemon that can't start.
        for_admin = sockets.listen(settings.admin_host, settings.admin_port, ("admin_host", "admin_port"))
        try:
            for_clients = sockets.listen(settings.host, settings.port, ("host", "port"))
        except StartupError:
            for sock in for_admin:
                sock.close()
            raise
        await self._admin.serve(for_admin)
        await self.listen(for_clients)
        self.port, self.admin_port = sockets.port_of(for_clients), sockets.port_of(for_admin)
        descriptors.warn_of_little_room(self.room, settings.max_connections)
        life.listening(sockets.describe("ws", for_clients), sockets.describe("http", for_admin), self.deployment)
        systemd.notify("READY=1")

    async def main_loop(self) -> None:
        """Serve until a signal comes, then drain. A second signal cuts the drain short."""
        await self.until_any(self._stop.wait())
        systemd.notify("STOPPING=1")
        seconds = self._settings.drain_seconds
        life.draining(len(self.gateway.connections), seconds)
        await self.until_any(self._stop_now.wait(), self.gateway.drain(seconds))

    async def shutdown(self) -> None:
        """Close everything."""
        await self._admin.close()
        await self.close()
        if self.port:  # else it has not started, and its error says so
            life.stopped()

    def handle_signals(self) -> None:
        """SIGTERM, SIGINT and SIGHUP stop it. SIGHUP comes from a terminal that was closed.

        SIGUSR1 and SIGUSR2, which others take for "open the log again", would end a process by default.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self.stop)
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            loop.add_signal_handler(number, self._ignore_signal, number)

    def _ignore_signal(self, number: signal.Signals) -> None:
        self._strange.warning(number.name, "%s means nothing to wsd dev", number.name)

    def stop(self) -> None:
        """Drain; the second time, stop at once."""
        (self._stop_now if self.gateway.draining else self._stop).set()
        self.gateway.draining = True  # at once, so that balancers hear of it before the drain begins
