"""One worker: one process, one event loop. The only place where the parts meet."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import os
import re
import signal
import socket
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop

from wsd import __version__, descriptors, logs, sockets, systemd
from wsd.admin.exposition import registry
from wsd.admin.server import MAX_CONNECTIONS, Admin
from wsd.auth.grant import Authenticator, OpenAuthenticator
from wsd.auth.jwt import JWTAuthenticator
from wsd.clients.connection import Shared
from wsd.clients.gateway import POLITE_REFUSALS, Gateway
from wsd.clients.refusals import Refusals
from wsd.clients.session import Limits, State
from wsd.config import Settings
from wsd.deadlines import Sweep
from wsd.delivery.fanout import Bounds, Fanout
from wsd.delivery.topics import TopicTable
from wsd.deployment import addresses, named
from wsd.errors import SettingsError, StartupError
from wsd.logs import BoundedLogger, set_level
from wsd.metrics import Gauges, Metrics
from wsd.redis.source import make_source
from wsd.slices import Slices
from wsd.source import Events

__all__ = ["Worker", "run"]

RESERVED_DESCRIPTORS = 32 + descriptors.SPARE + MAX_CONNECTIONS + POLITE_REFUSALS
"""Descriptors that aren't for clients, besides those that are open before the start: the loop's own, listeners and
links to Redis; a few that stay free; connections to the admin port; and sockets that are refused."""

RELOADED = frozenset({"jwt_key", "jwt_key_file", "log_level"})
"""Settings that SIGHUP takes over. The others need a restart."""

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
        self._stop = asyncio.Event()  # the first signal
        self._stop_now = asyncio.Event()  # the second
        self._tasks: list[asyncio.Task[None]] = []  # what runs as long as the daemon
        self.port = self.admin_port = 0  # where it listens, after startup()
        self.metrics = Metrics()
        self._authenticator = _make_authenticator(settings)
        self._key = settings.key() if settings.auth == "jwt" else b""  # to see whether a reload brings another
        self.topics = TopicTable(
            settings.channel_prefix,
            self._subscribe,
            self._unsubscribe,
        )
        self._bounds = Bounds(settings.max_backlog, settings.max_backlog_age)
        self._fanout = Fanout(
            self.topics,
            self.metrics,
            self._bounds,
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
        self.gateway = Gateway(min(settings.max_connections or self._room, self._room), self.metrics)
        self._admin = Admin(registry(self.read), self.unready, self._describe_links)

    # The life of a worker.

    async def startup(self) -> None:
        """Listen, and begin to connect to Redis.

        Raises:
            StartupError: if a port can't be had.
        """
        settings = self._settings
        shared = Shared(
            door=self.gateway,
            topics=self.topics,
            fanout=self._fanout,
            sweep=self._sweep,
            slices=Slices(asyncio.get_running_loop().call_soon),
            metrics=self.metrics,
            authenticator=self._authenticator,
            limits=Limits(
                auth_timeout=settings.auth_timeout,
                max_topics=settings.max_topics,
                max_violations=settings.max_violations,
                max_request_rate=settings.max_request_rate,
            ),
            ping_interval=settings.ping_interval,
            ping_timeout=settings.ping_timeout,
            bounds=self._bounds,
            refusals=Refusals(self.metrics),
            max_size=settings.max_message_size,
            origins=settings.allowed_origins,
            subprotocols=settings.subprotocols,
        )
        # Both listen before either serves, so that nobody is answered by a daemon that can't start.
        for_admin = sockets.listen(settings.admin_host, settings.admin_port, ("admin_host", "admin_port"))
        try:
            for_clients = sockets.listen(settings.host, settings.port, ("host", "port"))
        except StartupError:
            for sock in for_admin:
                sock.close()
            raise
        await self._admin.serve(for_admin)
        await self.gateway.serve(shared, for_clients, dead_after=settings.ping_interval + settings.ping_timeout)
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
        loop.add_signal_handler(signal.SIGHUP, self.reload, reload)
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            loop.add_signal_handler(number, self._ignore_signal, number)
        # They are blocked since the start of the program (see wsd.cli): a signal that came since then is delivered now.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2))

    def _ignore_signal(self, number: signal.Signals) -> None:
        self._bugs.warning(number.name, "%s means nothing to wsd; SIGHUP makes it read the key anew", number.name)

    def stop(self) -> None:
        """Drain; the second time, stop at once."""
        (self._stop_now if self._stop.is_set() else self._stop).set()

    def reload(self, load: Callable[[], Settings]) -> None:
        """Take over the key and the log level from settings that are read anew; keep the old ones if they are wrong."""
        result = "failed"
        try:
            lines = self._take_over(load())
            result = "done"
        except SettingsError as exc:
            reason = "; ".join(exc.mistakes)
            logger.error(
                "reload failed, the old key and log level stay: %s",
                reason,
                extra=logs.fields(result=result, reason=reason),
            )
        else:
            logger.info("reloaded: %s", "; ".join(lines), extra=logs.fields(result=result))
        finally:
            self.metrics.reloads[result] += 1

    def _take_over(self, settings: Settings) -> list[str]:
        """Take over what a running daemon can; return what became of it, for the log."""
        restart = [
            name
            for name in Settings.model_fields
            if name not in RELOADED and getattr(settings, name) != getattr(self._settings, name)
        ]
        lines = [f"the log level is {settings.log_level}"]
        if isinstance(self._authenticator, JWTAuthenticator):
            # The new key may be one for the new way only.
            if held := [name for name in ("auth", "jwt_algorithms") if name in restart]:
                raise SettingsError([f"{', '.join(held)}: changed, which needs a restart"])
            key = settings.key()
            if key == self._key:
                lines.append("the key is the same")
            else:
                self._authenticator.use_key(key)
                lines.append(
                    "the key is a new one, and sessions that were authorized with the old key go on until the exp of"
                    " their token"
                )
            self._key = key
        set_level(settings.log_level)
        if (tls := addresses(self._deployment)[0].tls) is not None:  # all have the same
            tls.renewed()  # the next connection would look too, but whoever sends SIGHUP wants to hear of it now
        changed = f"changed, which needs a restart: {', '.join(restart)}" if restart else "no other setting has changed"
        return [*lines, changed]

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

    def unready(self) -> str:
        """Why clients should be sent elsewhere, or ``""`` if they should come."""
        if self._stop.is_set():
            return "draining"
        if shortage := descriptors.shortage():
            return shortage
        if not self.source.up:
            return self.source.problem
        if not self.source.healed:
            return "resubscribing channels at Redis"
        return f"full: {self.gateway.max_connections} connections" if self.gateway.full else ""

    def _describe_links(self) -> list[str]:
        return [link.line for link in self.source.links]

    def read(self) -> tuple[Metrics, Gauges]:
        """What has been counted, and what is so now: for a scrape."""
        self.metrics.log_lines_lost = logs.lost()
        links = self.source.links
        probed = [link for link in links if link.probe_age is not None]
        connections = self.gateway.connections
        states = Counter(connection.session.state for connection in connections if connection.session is not None)
        gauges = Gauges(
            sessions={state.value: states[state] for state in (State.ANONYMOUS, State.AUTHENTICATED)},
            open_connections=len(connections),
            max_connections=self.gateway.max_connections,
            topics=len(self.topics),
            lagging_connections=sum(connection.lagging for connection in connections),
            backlog_bytes=sum(connection.backlog_bytes for connection in connections),
            redis_link_up=self.source.up,
            redis_links=sum(link.up for link in links),
            redis_links_unprobed=sum(link.unprobed != "" for link in links),
            redis_probe_age_seconds=max((link.probe_age or 0.0 for link in probed), default=math.nan),
            redis_probe_round_trip_seconds=max((link.probe_round_trip for link in probed), default=math.nan),
            redis_channels_wanted=self.source.wanted,
            redis_channels_confirmed=self.source.confirmed,
            tasks=len(asyncio.all_tasks()),
            draining=self._stop.is_set(),
        )
        return self.metrics, gauges


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


def _make_authenticator(settings: Settings) -> Authenticator:
    if settings.auth == "none":
        return OpenAuthenticator()
    return JWTAuthenticator(
        settings.key(),
        settings.jwt_algorithms,
        audience=settings.jwt_audience,
        issuer=settings.jwt_issuer,
        leeway=settings.jwt_leeway,
        require_topics=settings.require_topics_claim,
    )
