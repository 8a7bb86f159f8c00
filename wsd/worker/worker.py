"""The parts of a worker, and how they are wired.

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

Sweep visits connections when a deadline has come. Status looks up what a worker tells of itself.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import re
import socket
import traceback
from collections.abc import Awaitable, Coroutine, Sequence
from typing import Any

from wsd import descriptors, logs
from wsd.admin.server import MAX_CONNECTIONS
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
from wsd.handover.parts import Parts
from wsd.headcount import Headcount
from wsd.logs import BoundedLogger
from wsd.metrics import Metrics
from wsd.redis.source import make_source
from wsd.slices import Slices
from wsd.source import Events
from wsd.status import Status

__all__ = ["RESERVED_DESCRIPTORS", "Worker"]

RESERVED_DESCRIPTORS = 32 + descriptors.SPARE + MAX_CONNECTIONS + POLITE_REFUSALS
"""Descriptors that aren't for clients, besides those that are open before the start: the loop's own, listeners and
links to Redis; a few that stay free; connections to the admin port; and sockets that are refused."""

logger = logging.getLogger(__name__)


class Worker:
    """The parts, put together.

    Args:
        settings: the settings.
        headcount: counts the clients of all workers of the service; None if there is no bound on them together.
    """

    def __init__(self, settings: Settings, headcount: Headcount | None = None) -> None:
        self._settings = settings
        loop = asyncio.get_running_loop()
        self._tasks: list[asyncio.Task[None]] = []  # what runs as long as the worker
        self.metrics = Metrics()
        self.authenticator: Authenticator = (
            OpenAuthenticator() if settings.auth == "none" else jwt_authenticator(settings)
        )
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
        self.deployment = named(settings.redis_url.deployment, _client_name(settings.port))
        self.source = make_source(
            self.deployment,
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
        self.room = descriptors.room(RESERVED_DESCRIPTORS)  # clients that the descriptors are enough for
        self._descriptors = descriptors.Watch()
        self.gateway = Gateway(
            min(settings.max_connections or self.room, self.room),
            self.metrics,
            origins=settings.allowed_origins,
            subprotocols=settings.subprotocols,
            headcount=headcount,
        )
        self._shared = Shared(
            door=self.gateway,
            topics=self.topics,
            fanout=self._fanout,
            sweep=self._sweep,
            slices=Slices(loop.call_soon),
            metrics=self.metrics,
            authenticator=self.authenticator,
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

    @property
    def parts(self) -> Parts:
        """What a hand-over needs."""
        settings = self._settings
        kind = "sharded" if is_sharded(self.deployment, settings.pubsub) else "classic"
        return Parts(
            gateway=self.gateway,
            shared=self._shared,
            source=self.source,
            naming=f"{kind} {settings.channel_prefix}",
            room=lambda: self.room - len(self.gateway.connections),
        )

    # The life of a worker.

    async def listen(self, sockets: Sequence[socket.socket]) -> None:
        """Accept clients, and begin to connect to Redis.

        Args:
            sockets: that listen; closed with :meth:`close`.
        """
        settings = self._settings
        await self.gateway.serve(self._shared, sockets, dead_after=settings.ping_interval + settings.ping_timeout)
        self._tasks = [asyncio.create_task(self.source.run()), asyncio.create_task(self._sweep.run())]

    def keep(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something as long as the worker; call this behind :meth:`listen`."""
        self._tasks.append(asyncio.create_task(work))

    def settle(self) -> None:
        """Let the garbage collector take what is alive now for alive, because it stays so.

        It needn't look at that again, and at what clients bring only rarely. That halved the cost of a new connection
        at 8,000 clients, and cut the p99 latency by a third.
        """
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 20)

    async def until_any(self, *waited: Awaitable[object]) -> None:
        """Wait until any is done. What has ended a task of the worker is raised: it can't go on without.

        What was begun here is cancelled then.
        """
        begun = {asyncio.ensure_future(waiting) for waiting in waited}
        done, _ = await asyncio.wait(begun | set(self._tasks), return_when=asyncio.FIRST_COMPLETED)
        for task in begun - done:
            task.cancel()
        await asyncio.gather(*(begun - done), return_exceptions=True)
        for task in done:
            task.result()

    async def close(self) -> None:
        """Close everything."""
        await self.gateway.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        logs.flush()

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


def _client_name(port: int) -> str:
    """What CLIENT LIST calls this daemon's connections. Redis takes printable ASCII without blanks only.

    https://redis.io/docs/latest/commands/client-setname/
    """
    host = re.sub(r"[^!-~]", "-", socket.gethostname())
    return f"wsd:{host}:{port}:{os.getpid()}"
