"""One worker: one process, one event loop. The only place where the parts meet.

A payload comes down on the left, and a request goes down on the right and comes back as effects::

    Source (redis/)                       Gateway, Connection (clients/)
      | Events.on_message: publish          | data_received
      | Events.on_confirmed: confirm        v
      v                                   Session: returns effects
    Fanout (delivery/)                      | Wait, Listen, Leave
      | who listens?                        v
      +---------> TopicTable <--------------+
      |             | the first waits, the last leaves: Source.subscribe, unsubscribe
      |             | Redis has answered: Connection.topic_confirmed, topic_refused
      v
    Connection.write: the transport's, or the backlog (Writer)

Sweep visits connections when a deadline has come; Admin shows what Status looks up; Reloader takes over a new key.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import re
import signal
import socket
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop

from wsd import __version__, descriptors, logs, sockets, systemd
from wsd.admin.alone import alone
from wsd.admin.server import MAX_CONNECTIONS, Admin
from wsd.auth.grant import Authenticator, OpenAuthenticator
from wsd.authenticator import jwt_authenticator
from wsd.clients.connection import Shared
from wsd.clients.gateway import POLITE_REFUSALS, Gateway
from wsd.clients.refusals import Refusals
from wsd.clients.session import Limits
from wsd.config import Settings
from wsd.deadlines import Sweep
from wsd.delivery.fanout import Bounds, Fanout
from wsd.delivery.topics import TopicTable
from wsd.deployment import is_sharded, named
from wsd.errors import StartupError
from wsd.handover.parts import Parts
from wsd.logs import BoundedLogger
from wsd.metrics import Metrics
from wsd.redis.source import make_source
from wsd.reload import Reloader
from wsd.slices import Slices
from wsd.source import Events
from wsd.status import Status

__all__ = ["Worker", "run"]

RESERVED_DESCRIPTORS = 32 + descriptors.SPARE + MAX_CONNECTIONS + POLITE_REFUSALS
"""Descriptors that aren't for clients, besides those that are open before the start: the loop's own, listeners and
links to Redis; a few that stay free; connections to the admin port; and sockets that are refused."""

logger = logging.getLogger(__name__)


def run(
    settings: Settings,
    reload: Callable[[], Settings],
    started: Callable[[Worker], None] = lambda worker: None,
) -> None:
    """Run the daemon until it is told to stop by SIGTERM or SIGINT.

    Args:
        settings: the settings.
        reload: reads the settings anew, for SIGHUP; may raise :exc:`~wsd.errors.SettingsError`.
        started: called when it listens.

    Raises:
        StartupError: if it can't start on this machine.
    """
    logs.catch_all()
    descriptors.room(RESERVED_DESCRIPTORS)  # the loop itself needs some
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_live(settings, reload, started))


async def _live(settings: Settings, reload: Callable[[], Settings], started: Callable[[Worker], None]) -> None:
    worker = Worker(settings)
    asyncio.get_running_loop().set_exception_handler(worker.log_bug)
    worker.handle_signals(reload)
    try:
        await worker.startup()
        started(worker)
        # What is alive now stays alive: the garbage collector needn't look at it again, and at what clients bring only
        # rarely. That halved the cost of a new connection at 8,000 clients, and cut the p99 latency by a third.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 20)
        await worker.main_loop()
    finally:
        await worker.shutdown()


class Worker:
    """The daemon, put together.

    Args:
        settings: the settings.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()  # set by the first signal
        self._stop_now = asyncio.Event()  # set by the second
        self._tasks: list[asyncio.Task[None]] = []  # what runs as long as the daemon
        self.port = self.admin_port = 0  # where it listens, after startup()
        self.metrics = Metrics()
        authenticator: Authenticator = OpenAuthenticator() if settings.auth == "none" else jwt_authenticator(settings)
        self.topics = TopicTable(
            settings.channel_prefix,
            self._subscribe,
            self._unsubscribe,
        )
        bounds = Bounds(settings.max_backlog, settings.max_backlog_age)
        self._fanout = Fanout(
            self.topics,
            self.metrics,
            bounds,
            loop.call_soon,
            self._hold,
            gap_notices=settings.gap_notices,
        )
        self._deployment = named(settings.redis_url.deployment, _client_name(settings.port))
        self.source = make_source(
            self._deployment,
            pubsub=settings.pubsub,
            prefix=settings.channel_prefix,
            heartbeat=settings.redis_heartbeat,
            metrics=self.metrics,
            events=Events(
                on_message=self._fanout.publish,
                on_confirmed=self._fanout.confirm,
                on_refused=self.topics.refuse,
                on_lost=self.topics.unconfirm,
            ),
        )
        self._bugs = BoundedLogger(logger)
        self._sweep = Sweep(loop.time, self._tick)
        self._room = descriptors.room(RESERVED_DESCRIPTORS)  # clients that the descriptors are enough for
        self._descriptors = descriptors.Watch()
        self.gateway = Gateway(
            min(settings.max_connections or self._room, self._room),
            self.metrics,
            origins=settings.allowed_origins,
            subprotocols=settings.subprotocols,
        )
        self._shared = Shared(
            door=self.gateway,
            topics=self.topics,
            fanout=self._fanout,
            sweep=self._sweep,
            slices=Slices(loop.call_soon),
            metrics=self.metrics,
            authenticator=authenticator,
            limits=Limits(
                auth_timeout=settings.auth_timeout,
                max_topics=settings.max_topics,
                max_violations=settings.max_violations,
                max_request_rate=settings.max_request_rate,
            ),
            ping_interval=settings.ping_interval,
            ping_timeout=settings.ping_timeout,
            bounds=bounds,
            refusals=Refusals(self.metrics),
            max_size=settings.max_message_size,
        )
        self.status = Status(self.gateway, self.topics, self.source, self.metrics)
        self._admin = Admin(alone(self.status.report).pages)
        self.reloader = Reloader(settings, authenticator, self._deployment, self.metrics)

    @property
    def parts(self) -> Parts:
        """What a hand-over needs."""
        settings = self._settings
        naming = (
            f"{'sharded' if is_sharded(self._deployment, settings.pubsub) else 'classic'} {settings.channel_prefix}"
        )
        return Parts(
            gateway=self.gateway,
            shared=self._shared,
            source=self.source,
            naming=naming,
            room=lambda: self._room - len(self.gateway.connections),
        )

    # The life of a worker.

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
        await self.gateway.serve(self._shared, for_clients, dead_after=settings.ping_interval + settings.ping_timeout)
        self.port, self.admin_port = sockets.port_of(for_clients), sockets.port_of(for_admin)
        descriptors.warn_of_little_room(self._room, self._settings.max_connections)
        self._tasks = [asyncio.create_task(self.source.run()), asyncio.create_task(self._sweep.run())]
        logger.info(
            "wsd %s listens on %s for clients and on %s for admin; Redis is at %s",
            __version__,
            sockets.describe("ws", for_clients),
            sockets.describe("http", for_admin),
            self._deployment,
        )
        systemd.notify("READY=1")

    async def main_loop(self) -> None:
        """Serve until a signal comes, then drain. A second signal cuts the drain short."""
        await _until_any(self._stop.wait(), *self._tasks)
        systemd.notify("STOPPING=1")
        logger.info(
            "draining: sending %d connections away within %g s; a second signal stops at once",
            len(self.gateway.connections),
            self._settings.drain_seconds,
        )
        await _until_any(self._stop_now.wait(), self.gateway.drain(self._settings.drain_seconds), *self._tasks)

    async def shutdown(self) -> None:
        """Close everything."""
        await self.gateway.close()
        await self._admin.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        logs.flush()
        if self.port:  # else it has not started, and its error says so
            logger.info("stopped")

    # Signals.

    def handle_signals(self, reload: Callable[[], Settings]) -> None:
        """SIGTERM and SIGINT stop the daemon, SIGHUP makes it read the key and the log level anew.

        SIGUSR1 and SIGUSR2, which others take for "open the log again", would end a process by default.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self.reloader.reload, reload)
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            loop.add_signal_handler(number, self._ignore_signal, number)
        # They are blocked since the start of the program (see wsd.cli): a signal that came since then is delivered now.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2))

    def _ignore_signal(self, number: signal.Signals) -> None:
        self._bugs.warning(number.name, "%s means nothing to wsd; SIGHUP makes it read the key anew", number.name)

    def stop(self) -> None:
        """Drain; the second time, stop at once."""
        (self._stop_now if self.gateway.draining else self._stop).set()
        self.gateway.draining = True  # at once, so that balancers hear of it before the drain begins

    # Between the parts. The table and the source know each other; the table is made first.

    def _subscribe(self, channel: bytes) -> None:
        self.source.subscribe(channel)

    def _unsubscribe(self, channel: bytes) -> None:
        self.source.unsubscribe(channel)

    def _hold(self, full: bool) -> None:
        self.source.hold(full)

    def _tick(self, late: float) -> None:
        self.metrics.loop_lag_seconds.observe(late)
        logs.tick()
        self._descriptors.look(len(self.gateway.connections))

    def log_bug(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log and count what a callback raised; a line for each place, bounded, because a client may cause it."""
        exc = context.get("exception")
        message = str(context.get("message", "unknown"))
        kind = message
        if isinstance(exc, BaseException):
            self.metrics.internal_errors += 1
            frames = traceback.extract_tb(exc.__traceback__)
            kind = f"{type(exc).__name__} in {frames[-1].filename}:{frames[-1].lineno}" if frames else repr(type(exc))
            self._bugs.exception(kind, "%s", message, exc=exc)
        else:
            self._bugs.warning(kind, "the event loop says: %s", message)


async def _until_any(*waited: Awaitable[object]) -> None:
    """Wait until any is done, and raise what it raised: so a task of ours that dies ends the daemon.

    Those that were begun here are cancelled then.
    """
    given = {waiting for waiting in waited if isinstance(waiting, asyncio.Task)}
    begun = {asyncio.ensure_future(waiting) for waiting in waited if waiting not in given}
    done, _ = await asyncio.wait(given | begun, return_when=asyncio.FIRST_COMPLETED)
    for task in begun - done:
        task.cancel()
    await asyncio.gather(*(begun - done), return_exceptions=True)
    for task in done:
        task.result()


def _client_name(port: int) -> str:
    """What CLIENT LIST calls this daemon's connections. Redis takes printable ASCII without blanks only.

    https://redis.io/docs/latest/commands/client-setname/
    """
    host = re.sub(r"[^!-~]", "-", socket.gethostname())
    return f"wsd:{host}:{port}:{os.getpid()}"
