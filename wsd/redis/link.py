"""The life of a link: a subscription connection that connects, is tended, is lost, waits, and connects again.

The rest of the daemon says which channels it wants. The link keeps a connection to the server that its guide names,
carries out what its `Channels` decides, and calls back with messages, confirmations and refusals. Whether the
connection is still good is for its `Vitals` to say.

A message comes from `Wire.data_received` by way of `Link._receive_message` to ``Events.on_message``, which is the
fan-out's ``publish``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from time import monotonic

import hiredis

from wsd.backoff import Backoff
from wsd.errors import LinkError
from wsd.logs import fields
from wsd.metrics import Metrics
from wsd.redis.channels import Channels, Command, Confirmed, Event, Lost, Refused
from wsd.redis.guides import Guide
from wsd.redis.vitals import BEAT, Role, Vitals, why_deaf
from wsd.redis.wire import MESSAGE_MOST, Dialect, Reply, Wire, bugs, connect, public
from wsd.source import Events, LinkStatus

__all__ = ["Link"]

MIN_CONNECT_TIMEOUT = 1.0
"""Seconds that connecting and logging in may take, however short the heartbeat is."""

BACKOFF_FIRST, BACKOFF_MAX = 0.1, 2.0
"""Seconds: bounds of the growing wait before connecting again."""

FAILURE_LOG_INTERVAL = 30.0
"""Seconds between two log lines about a Redis that can't be reached."""

NOT_YET = "not connected yet"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class _Publication:
    """Something to publish."""

    channel: bytes
    payload: bytes
    on_reply: Callable[[int | str], object]


class Link:
    """A subscription connection that heals. It is a `wsd.source.Source`.

    Args:
        guide: knows which server to connect to.
        dialect: the kind of Pub/Sub.
        heartbeat: seconds; see `wsd.redis.vitals`.
        metrics: counts.
        events: whom to call.
        own: a name that nobody else uses, for the probe.
        name_private: makes a channel of this server that no client can name from a name, or nothing.
        on_trouble: called when the link is lost, when connecting fails, and when Redis says that channels are on
            another server. The callee moves or retries those channels. Without a callee, the link retries them at every
            beat.
    """

    def __init__(
        self,
        guide: Guide,
        *,
        dialect: Dialect,
        heartbeat: float,
        metrics: Metrics,
        events: Events,
        own: str,
        name_private: Callable[[str], bytes],
        on_trouble: Callable[[], None] | None = None,
    ) -> None:
        self._guide = guide
        self._dialect = dialect
        self._period = heartbeat * BEAT  # seconds between two beats
        self._patience = max(heartbeat, MIN_CONNECT_TIMEOUT)  # seconds that connecting may take
        self._metrics = metrics
        self._events = events
        self._name_private = name_private
        self._retries = on_trouble is None  # whether channels that are astray are retried here
        self._on_trouble = on_trouble or _do_nothing
        self._loop = asyncio.get_running_loop()
        self._channels = Channels(dialect, metrics)
        self._settling = False  # whether commands will leave at the end of this pass
        self._due: list[_Publication] = []  # what is published then
        self._unanswered: dict[_Publication, None] = {}  # what was published on this connection, oldest first
        self._vitals = Vitals(
            dialect,
            heartbeat,
            metrics,
            self._channels,
            private=lambda number: name_private(f"{own}:{number}"),
            on_dead=self._lose_dead,
            on_trouble=self._on_trouble,
        )
        self._probe = self._vitals.probe
        self._wire: Wire | None = None  # None while there is no connection
        self._name = "Redis"  # the connection and its server, for people
        self._stream = ""  # the server
        self._server: dict[str, str] = {}  # what the server says of itself
        self._problem = NOT_YET  # why there is no connection, for people; "" when there is one
        self._hurry = asyncio.Event()  # set when another server should be tried at once
        self._lost_at: float | None = None  # when the link was lost; None before the first and after it healed
        self._held = False  # whether nothing should be brought for now
        self._logged_at = -FAILURE_LOG_INTERVAL  # when a failure was logged last

    # How it stands.

    @property
    def problem(self) -> str:
        """Why nothing can be subscribed, for people; ``""`` if it can."""
        return self._problem or self._vitals.problem

    @property
    def up(self) -> bool:
        """Whether Redis has let us in on the present connection, and something can be subscribed."""
        return not self.problem

    @property
    def healed(self) -> bool:
        """Whether the link is up, and every channel that was delivered once is delivered again."""
        return self.up and not self._channels.gaps and not self._channels.astray

    @property
    def failing(self) -> bool:
        """Whether the link is down, and has been tried."""
        return self.problem not in ("", NOT_YET)

    @property
    def astray(self) -> int:
        """How many wanted channels Redis says are not on this server, or not now."""
        return self._channels.astray

    @property
    def wanted(self) -> int:
        """How many channels are wanted."""
        return self._channels.wanted

    @property
    def confirmed(self) -> int:
        """How many channels Redis has confirmed, unwanted ones that linger included."""
        return self._channels.confirmed

    @property
    def links(self) -> Sequence[LinkStatus]:
        """The connections of this source of messages: this one."""
        return (self.status,)

    @property
    def status(self) -> LinkStatus:
        """How it stands now."""
        now = monotonic()
        return LinkStatus(
            name=self._name,
            server=self._server,
            up=self.up,
            unprobed=self._probe.off,
            probe_age=self._probe.age(now),
            probe_round_trip=self._probe.round_trip,
            line=self._describe(now),
        )

    def _describe(self, now: float) -> str:
        state = self.problem or self._probe.describe(now)
        channels = self._channels
        refused = f" ({channels.refused} refused by Redis)" if channels.refused else ""
        note = f"; {self._guide.note}" if self._guide.note else ""
        return f"{self._name}: {channels.delivered} of {channels.wanted} channels{refused}; {state}{note}"

    # What is wanted.

    def subscribe(self, channel: bytes, *, missed: bool = False) -> None:
        """Want a channel; ``on_confirmed`` or ``on_refused`` tells the answer, at the end of this pass or later.

        Args:
            channel: the channel.
            missed: whether messages may have been missed already, while it was on another server.
        """
        self._channels.want(channel, missed=missed)
        self._settle_soon()

    def unsubscribe(self, channel: bytes) -> None:
        """Want a channel no more. It lingers."""
        self._channels.unwant(channel, monotonic())
        self._settle_soon()

    def release(self, channel: bytes) -> bool:
        """Want a channel no more here, but on another server; return whether messages may be missed meanwhile."""
        missed = self._channels.release(channel)
        self._settle_soon()
        return missed

    def retry(self) -> None:
        """Try channels again that were astray: this is the right server, as far as anyone knows now."""
        self._channels.retry()
        self._settle_soon()

    def missed(self, channel: bytes) -> bool:
        """Someone new may have missed messages; return whether the confirmation that is to come tells of it."""
        return self._channels.miss(channel)

    def stream(self, channel: bytes) -> str:
        """Name the server that delivers a channel; ``""`` if none does.

        If its name has several addresses, two links may be at different servers.
        """
        return self._stream if self._wire is not None and self._channels.delivers(channel) else ""

    @property
    def streams(self) -> Sequence[str]:
        """The name of the server, if there is a connection."""
        return [self._stream] if self._wire is not None else []

    def private(self, stream: str, name: str) -> bytes:
        """Name a channel of this server that no client can name; nothing if the stream is another."""
        return self._name_private(name) if self._wire is not None and stream == self._stream else b""

    def publish(self, channel: bytes, payload: bytes, on_reply: Callable[[int | str], object]) -> None:
        """Publish at the end of this pass, behind what is subscribed then; ``on_reply`` is called once, later."""
        self._due.append(_Publication(channel, payload, on_reply))
        self._settle_soon()

    def renew(self, stream: str, reason: str) -> None:
        """Give up the connection, if it is that of a stream, and make another."""
        if self._wire is not None and stream == self._stream:
            self._wire.fail(reason)

    def relocate(self, reason: str) -> None:
        """Leave the server, and ask the guide for another at once."""
        self._hurry.set()
        if self._wire is not None:
            self._wire.fail(reason)

    def hold(self, full: bool) -> None:
        """Bring no more messages until called with False."""
        self._held = full
        if self._wire is not None:
            self._wire.hold(full)

    # What follows for channels: commands at the end of a pass, events at once.

    def _settle_soon(self) -> None:
        if (self._channels.unsettled or self._due) and not self._settling:
            self._settling = True
            self._loop.call_soon(self._settle)

    def _settle(self) -> None:
        """The pass ends: send what it has changed, in one write."""
        self._settling = False
        commands = self._channels.commands()
        if self._guide.master_only and any(command.name == self._dialect.subscribe for command in commands):
            assert self._wire is not None
            self._vitals.ask_for_life(self._wire)  # one that is no master any more is left before it confirms
        for command in commands:
            self._send(command)
        self._publish_due()
        if self._wire is not None:
            self._wire.flush()
        self._tell()

    def _send(self, command: Command) -> None:
        assert self._wire is not None

        def fail(error: Reply) -> None:
            self._channels.failed(command, str(error), monotonic())
            self._tell()

        self._wire.send(command.name, channels=command.channels, on_reply=fail)

    def _publish_due(self) -> None:
        due, self._due = self._due, []
        for publication in due:
            self._unanswered[publication] = None
            if self._wire is None or self._wire.given_up:
                self._answer(publication, self._problem or "the link has just been given up")
                continue
            if self._wire.is_fakeredis:
                self._answer(publication, "the server takes no commands from subscribers")
                continue
            # A server that has paused writes answers the PING, as the vitals expect, and a dead one doesn't.
            self._wire.send("PING", on_reply=_ignore)
            receive = partial(self._receive_publish_reply, publication)
            channel = publication.channel
            self._wire.send(self._dialect.publish, channel, publication.payload, key=channel, on_reply=receive)

    def _receive_publish_reply(self, publication: _Publication, reply: Reply) -> None:
        self._answer(publication, reply if type(reply) is int else f"Redis refuses it: {public(reply)}")

    def _answer(self, publication: _Publication, answer: int | str) -> None:
        """Tell the answer, unless it was told already."""
        if publication not in self._unanswered:
            return
        del self._unanswered[publication]
        try:
            publication.on_reply(answer)
        except Exception as exc:
            self._metrics.internal_errors += 1
            bugs.exception(f"publish: {type(exc).__name__}", "what Redis said could not be handled: %s", answer)

    def _fail_publications(self, reason: str) -> None:
        """Nothing that was published on this connection will be answered."""
        for publication in list(self._unanswered):
            self._answer(publication, reason)

    def _tell(self) -> None:
        """Tell what has happened to channels."""
        for event in self._channels.events():
            try:
                self._tell_of(event)
            except Exception as exc:
                # A bug about one channel must not end the connection that all others share.
                self._metrics.internal_errors += 1
                kind = f"channel: {type(exc).__name__}"
                bugs.exception(kind, "what Redis said could not be handled: %s", public(event))
        self._settle_soon()
        self._check_healed()

    def _tell_of(self, event: Event) -> None:
        if isinstance(event, Confirmed):
            self._events.on_confirmed(event.channel, event.gap)
        elif isinstance(event, Refused):
            self._events.on_refused(event.channel, event.reason)
        elif isinstance(event, Lost):
            self._events.on_lost(event.channels)
        else:
            self._on_trouble()

    def _check_healed(self) -> None:
        if self._lost_at is not None and self.healed:
            seconds = monotonic() - self._lost_at
            logger.info(
                "the link to %s has healed, %.1f s after it was lost",
                self._name,
                seconds,
                extra=fields(link=self._name, seconds=round(seconds, 1)),
            )
            self._lost_at = None

    # What Redis says.

    def _receive_message(self, channel: bytes, payload: bytes) -> None:
        probe = self._probe
        if channel == probe.channel:
            self._vitals.receive_probe(payload)
            return
        probe.delivering = True
        channels = self._channels
        # The sets are looked at before the call, because a call would cost every message some 50 ns.
        if (channels.gapped or channels.released) and channels.withholds(channel):
            return
        try:
            self._events.on_message(channel, payload)
        except Exception as exc:
            # Whatever a publisher sent, the messages after it are served.
            self._metrics.internal_errors += 1
            bugs.exception(
                f"message: {type(exc).__name__}",
                "a message of %d bytes on channel %a could not be handled",
                len(payload),
                channel,
            )

    def _receive_change(self, channel: bytes, subscribed: bool, asked: bool) -> None:
        if channel == self._probe.channel:
            self._vitals.receive_change(subscribed)
        else:
            self._channels.changed(channel, subscribed, asked, monotonic())
            self._tell()

    def _lose_dead(self, channels: Sequence[bytes]) -> int:
        dead = self._channels.dead(channels)
        self._tell()
        return dead

    # The life of the link.

    async def run(self) -> None:
        """Keep the link up until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._guide.run(self.relocate))
                await self._main_loop()
        finally:
            if self._wire is not None:
                self._wire.fail("stopped")
            self._problem = self._problem or "stopped"
            self._fail_publications("stopped")

    async def _main_loop(self) -> None:
        waits = Backoff(BACKOFF_FIRST, BACKOFF_MAX)
        while True:
            self._hurry.clear()
            try:
                wire, role = await self._connect()
            except (OSError, LinkError) as exc:
                self._could_not_connect(str(exc) or type(exc).__name__)
            else:
                self._came_up(wire, role)
                reason = await self._tend(wire)
                # A server that lets us in and then closes is tried less often, too.
                if not wire.given_up and (self._probe.returned_at is not None or self._probe.off):
                    waits.reset()
                else:
                    self._guide.abandoned()
                self._was_lost(wire, reason)
            with suppress(TimeoutError):
                async with asyncio.timeout(next(waits)):
                    await self._hurry.wait()

    async def _connect(self) -> tuple[Wire, Role]:
        """Connect to the server that the guide names; return also what it must stay.

        Raises:
            LinkError: if it refuses, or is no master although it should be.
            OSError: if it can't be reached.
        """
        address = await self._guide.locate()
        self._name = f"Redis at {address}"
        self._stream = address.path or address.place
        make_wire = partial(Wire, self._dialect, self._receive_message, self._receive_change)
        wire, self._server = await connect(address, make_wire, self._patience)
        try:
            return wire, await self._find_role(wire)
        except BaseException:
            wire.fail("unfit")
            raise

    async def _find_role(self, wire: Wire) -> Role:
        role = self._server.get("role", "")
        if self._guide.master_only:
            if role != "master":
                raise LinkError(f"it is a {role or 'server that does not say its role'}, not the master")
            return Role.MASTER
        if self._server.get("mode") == "sentinel":
            raise LinkError(
                "it is a Sentinel, which delivers nothing that is published; its master's name belongs into redis_url:"
                " redis+sentinel://HOST:PORT/NAME"
            )
        if role != "replica":
            return Role.ANY
        try:
            async with asyncio.timeout(self._patience):
                reply = await wire.ask("ROLE")
        except TimeoutError:
            raise LinkError(f"no answer to ROLE within {self._patience:g} s") from None
        if reason := why_deaf(reply):
            raise LinkError(reason)
        if isinstance(reply, hiredis.ReplyError):
            logger.warning(
                "%s is a replica, and whether it hears its master can't be told: %s", self._name, public(reply)
            )
        return Role.REPLICA

    def _came_up(self, wire: Wire, role: Role) -> None:
        now = monotonic()
        self._wire = wire
        wire.reply_most = MESSAGE_MOST
        self._guide.arrived()
        wire.hold(self._held)
        self._problem = ""
        self._logged_at = -FAILURE_LOG_INTERVAL
        self._metrics.link_connects += 1
        if self._lost_at is None:
            logger.info("connected to %s", self._name, extra=fields(link=self._name))
        else:
            logger.info(
                "connected to %s again after %.1f s; resubscribing %d channels, %d with a gap",
                self._name,
                now - self._lost_at,
                self.wanted,
                self._channels.gaps,
                extra=fields(link=self._name, channels=self.wanted, gaps=self._channels.gaps),
            )
        self._vitals.begin(wire, self._name, role, now)
        self._channels.opened()
        self._settle()

    async def _tend(self, wire: Wire) -> str:
        """Watch a connection until it ends; return why it ended."""
        while True:
            due = monotonic() + self._period
            await asyncio.wait((wire.closed,), timeout=self._period)
            if wire.closed.done():
                return wire.closed.result()
            now = monotonic()
            if now - due > self._period / 2:
                # Our own event loop is late, so data from Redis may still be unread in the kernel. If Redis has closed
                # the connection, writing now provokes a RST, and the kernel discards what is unread. Look again first.
                wire.stood_still(now - due)
                continue
            if wire.behind:
                continue  # the same, but the loop is not late: more comes than can be handled
            self._vitals.beat(wire, now)
            self._channels.tidy(now)
            if self._retries:
                self._channels.retry()
            self._settle_soon()

    def _could_not_connect(self, reason: str) -> None:
        self._problem = f"can't connect to {self._name}: {reason}"
        self._metrics.link_failures += 1
        now = monotonic()
        if now - self._logged_at >= FAILURE_LOG_INTERVAL:
            self._logged_at = now
            logger.warning("%s; trying again", self._problem, extra=fields(link=self._name, reason=reason))
        self._on_trouble()

    def _was_lost(self, wire: Wire, reason: str) -> None:
        self._wire = None
        if wire.stumbled:
            self._metrics.internal_errors += 1
        if self._vitals.misplaced:
            self._hurry.set()
        self._problem = f"lost the link to {self._name}: {reason}"
        self._metrics.link_failures += 1
        if self._lost_at is None:
            self._lost_at = monotonic()
        lost = self._channels.closed()
        self._tell()
        self._fail_publications(self._problem)
        logger.warning(
            "%s; %d channels are not delivered until it is back",
            self._problem,
            lost,
            extra=fields(link=self._name, reason=reason, channels=lost),
        )
        self._on_trouble()


def _do_nothing() -> None:
    """Stands for a callee when there is none."""


def _ignore(reply: Reply) -> None:
    """Any answer will do."""
