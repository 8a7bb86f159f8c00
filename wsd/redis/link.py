"""The link: a subscription connection that heals, and the one owner of connecting, reading and subscribing.

The rest of the daemon says which channels it wants. The link keeps a connection to the server that its guide names,
brings what Redis has subscribed in line with what is wanted, and calls back with messages, confirmations and refusals.

It believes nothing for long:

- Every half heartbeat it sends a PING, and a numbered message to itself (see `wsd.redis.probe`). A server that is
  silent, or that answers and delivers nothing, is left within two heartbeats. One that delivers and does not answer, as
  it hears nothing of us, is left within three: nothing is lost meanwhile, but nothing can be subscribed.
- Every minute it asks the server which of its channels have subscribers, and how many subscriptions this connection
  has. A confirmed subscription that turns out dead is announced as lost and made again.
- At each new connection it asks whether Redis has cut somebody off for an output buffer, since such an end looks like
  any other.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Protocol

import hiredis

from wsd.backoff import Backoff, spread
from wsd.deployment import Address
from wsd.errors import LinkError
from wsd.logs import fields
from wsd.metrics import Metrics
from wsd.redis.channels import Channels, Command, Confirmed, Event, Lost, Refused
from wsd.redis.probe import Probe
from wsd.redis.wire import MESSAGE_MOST, Dialect, Reply, Wire, bugs, connect, public
from wsd.source import Events, LinkStatus

__all__ = ["Fixed", "Guide", "Link"]

MIN_CONNECT_TIMEOUT = 1.0
"""Seconds that connecting and logging in may take, however short the heartbeat is."""

BACKOFF_FIRST, BACKOFF_MAX = 0.1, 2.0
"""Seconds: bounds of the growing wait before connecting again."""

ANSWER_HEARTBEATS = 2
"""Heartbeats that an answer may take while messages come. It stands behind what Redis had for us before, at most 32 MiB
unless configured otherwise; so much is read in seconds."""

PAUSED_HEARTBEATS = 12
"""Heartbeats for which Redis may pause writes. A failover by hand pauses them for some seconds."""

AUDIT_INTERVAL = 60.0
"""Seconds between two comparisons of what is believed with what the server says. Asking about 512 channels takes Redis
about 0.1 ms."""

AUDIT_BATCH = 512
"""Channels asked about in one command."""

FAILURE_LOG_INTERVAL = 30.0
"""Seconds between two log lines about a Redis that can't be reached."""

NOT_YET = "not connected yet"

logger = logging.getLogger(__name__)


class Guide(Protocol):
    """Knows which server a link should be connected to."""

    master_only: bool  # whether a server that isn't, or is no longer, a master must be left
    note: str  # what is in doubt about where the server is, for people

    async def locate(self) -> Address:
        """Say which server to connect to now.

        Raises:
            LinkError: if that can't be found out.
            OSError: if nobody who knows can be reached.
        """

    def arrived(self) -> None:
        """The link is connected there."""

    async def run(self, relocate: Callable[[str], None]) -> None:
        """Watch for changes until cancelled; call ``relocate`` with the reason when the server must be left."""


class Fixed:
    """A server that stays where it is."""

    master_only = False
    note = ""

    def __init__(self, address: Address) -> None:
        self._address = address

    async def locate(self) -> Address:
        """Return the address."""
        return self._address

    def arrived(self) -> None:
        """It is always there."""

    async def run(self, relocate: Callable[[str], None]) -> None:
        """Nothing changes."""


class Link:
    """A subscription connection that heals.

    Args:
        guide: knows which server to connect to.
        dialect: the kind of Pub/Sub.
        heartbeat: seconds; a server that is silent, or delivers nothing, is left after 1.5 times as long.
        metrics: counts.
        events: whom to call.
        private: returns a channel for the probe that nobody else uses, or nothing if this server has none.
        on_trouble: called when the link is lost, can't be made, or is told that channels are elsewhere; who is called
            then moves or retries them. Without it the link retries them itself.
    """

    def __init__(
        self,
        guide: Guide,
        *,
        dialect: Dialect,
        heartbeat: float,
        metrics: Metrics,
        events: Events,
        private: Callable[[], bytes],
        on_trouble: Callable[[], None] | None = None,
    ) -> None:
        self._guide = guide
        self._dialect = dialect
        self._heartbeat = heartbeat
        self._patience = max(heartbeat, MIN_CONNECT_TIMEOUT)  # seconds that connecting may take
        self._metrics = metrics
        self._events = events
        self._private = private
        self._retries = on_trouble is None
        self._on_trouble = on_trouble or _nothing
        self._loop = asyncio.get_running_loop()
        self._channels = Channels(dialect, metrics)
        self._settling = False  # whether commands about channels will leave at the end of this pass
        self._wire: Wire | None = None  # None while there is no connection
        self._place = "Redis"  # which server, for people
        self.server: dict[str, str] = {}  # what the server says of itself: its server, version, mode, role
        self._replica = False  # whether that is a replica, which delivers what its master is told
        self._hurry = asyncio.Event()  # set when another server should be tried at once
        self._audit_at = 0.0  # when to compare with the server again
        self._lost_at: float | None = None  # when the link was lost; None before the first and after it healed
        self._held = False  # whether nothing should be brought for now
        self._last_wire: Wire | None = None  # the connection that was lost
        self._run = (b"", 0)  # which process the Redis is, and how many clients it has cut off for their buffers
        self._logged_at = -FAILURE_LOG_INTERVAL
        self._said_of_probe = ""  # why delivery can't be probed, as it was logged last
        self.probe = Probe()
        self.problem = NOT_YET  # why the link isn't up, for people; "" when it is

    @property
    def up(self) -> bool:
        """Whether Redis has let us in on the present connection."""
        return not self.problem

    @property
    def healed(self) -> bool:
        """Whether the link is up, and every channel that was delivered once is delivered again."""
        return self.up and not self._channels.gaps and not self._channels.astray

    @property
    def astray(self) -> int:
        """How many wanted channels Redis says are not on this server, or not now."""
        return self._channels.astray

    @property
    def failing(self) -> bool:
        """Whether the link is down, and has been tried."""
        return self.problem not in ("", NOT_YET)

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
        now, probe = monotonic(), self.probe
        return LinkStatus(
            name=self._place,
            server=self.server,
            up=self.up,
            unprobed=probe.off,
            probe_age=probe.age(now),
            probe_round_trip=probe.round_trip,
            line=self._describe(now),
        )

    def _describe(self, now: float) -> str:
        state = self.problem or self.probe.describe(now)
        channels = self._channels
        refused = f" ({channels.refused} refused by Redis)" if channels.refused else ""
        note = f"; {self._guide.note}" if self._guide.note else ""
        return f"{self._place}: {channels.delivered} of {channels.wanted} channels{refused}; {state}{note}"

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
        self._channels.unwant(channel, self._loop.time())
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

    # What follows from what is wanted, and from what Redis says.

    def _settle_soon(self) -> None:
        if self._channels.unsettled and not self._settling:
            self._settling = True
            self._loop.call_soon(self._settle)

    def _settle(self) -> None:
        """The pass ends: send what it has changed, in one write."""
        self._settling = False
        for command in self._channels.commands():
            self._send(command)
        if self._wire is not None:
            self._wire.flush()
        self._tell()

    def _send(self, command: Command) -> None:
        assert self._wire is not None

        def refused(error: Reply) -> None:
            self._channels.failed(command, str(error), self._loop.time())
            self._tell()

        self._wire.send(command.name, channels=command.channels, on_reply=refused)

    def _tell(self) -> None:
        """Tell what has happened to channels."""
        for event in self._channels.events():
            try:
                self._tell_of(event)
            except Exception as exc:
                # A bug about one channel must not end the connection that all others share.
                self._metrics.internal_errors += 1
                bugs.exception(
                    f"channel: {type(exc).__name__}", "what Redis said could not be handled: %s", public(event)
                )
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

    # What Redis says.

    def _receive_message(self, channel: bytes, payload: bytes) -> None:
        if channel == self.probe.channel:
            self.probe.returned(payload, monotonic())
            self._said_of_probe = ""
            return
        self.probe.delivering = True
        channels = self._channels
        if (channels.gapped or channels.released) and channels.withholds(channel):
            return
        try:
            self._events.on_message(channel, payload)
        except Exception as exc:
            # Whatever a publisher sent, the messages after it are served.
            self._metrics.internal_errors += 1
            bugs.exception(
                f"message: {type(exc).__name__}",
                *("a message of %d bytes on channel %a could not be handled", len(payload), channel),
            )

    def _receive_change(self, channel: bytes, subscribed: bool, asked: bool) -> None:
        if channel == self.probe.channel:
            self.probe.confirmed(subscribed)
            if subscribed:
                self.problem = ""
                self._send_probe()
            return
        self._channels.changed(channel, subscribed, asked, self._loop.time())
        self._tell()

    def _check_healed(self) -> None:
        if self._lost_at is not None and self.healed:
            seconds = self._since(self._lost_at)
            logger.info(
                "the link to %s has healed, %.1f s after it was lost",
                *(self._place, seconds),
                extra=fields(link=self._place, seconds=round(seconds, 1)),
            )
            self._lost_at = None

    def _since(self, then: float) -> float:
        return self._loop.time() - then

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

    async def _main_loop(self) -> None:
        waits = Backoff(BACKOFF_FIRST, BACKOFF_MAX)
        while True:
            self._hurry.clear()
            try:
                wire = await self._connect()
            except (OSError, LinkError) as exc:
                self._could_not_connect(str(exc) or type(exc).__name__)
            else:
                self._came_up(wire)
                reason = await self._tend(wire)
                # A server that lets us in and then closes is tried less often, too.
                if not wire.given_up and (self.probe.returned_at is not None or self.probe.off):
                    waits.reset()
                self._was_lost(wire, reason)
            with suppress(TimeoutError):
                async with asyncio.timeout(next(waits)):
                    await self._hurry.wait()

    async def _connect(self) -> Wire:
        """Connect to the server that the guide names.

        Raises:
            LinkError: if it refuses, or is no master although it should be.
            OSError: if it can't be reached.
        """
        address = await self._guide.locate()
        self._place = f"Redis at {address}"
        wire, server = await connect(
            address,
            partial(Wire, self._dialect, self._receive_message, self._receive_change),
            self._patience,
        )
        self.server = server
        try:
            await self._check_fitness(wire, server.get("role", ""))
        except BaseException:
            wire.fail("unfit")
            raise
        return wire

    async def _check_fitness(self, wire: Wire, role: str) -> None:
        if self._guide.master_only and role != "master":
            raise LinkError(f"it is a {role or 'server that does not say its role'}, not the master")
        self._replica = role == "replica"
        if self.server.get("mode") == "sentinel":
            raise LinkError(
                "it is a Sentinel, which delivers nothing that is published; its master's name belongs into redis_url:"
                " redis+sentinel://HOST:PORT/NAME"
            )
        if not self._replica:
            return
        try:
            async with asyncio.timeout(self._patience):
                reply = await wire.ask("ROLE")
        except TimeoutError:
            raise LinkError(f"no answer to ROLE within {self._patience:g} s") from None
        if reason := _why_deaf(reply):
            raise LinkError(reason)
        if isinstance(reply, hiredis.ReplyError):
            logger.warning(
                "%s is a replica, and whether it hears its master can't be told: %s", self._place, public(reply)
            )

    def _came_up(self, wire: Wire) -> None:
        self._wire = wire
        wire.reply_most = MESSAGE_MOST
        self._guide.arrived()
        wire.hold(self._held)
        self.problem = ""
        self._logged_at = -FAILURE_LOG_INTERVAL
        self._audit_at = self._loop.time() + spread(AUDIT_INTERVAL)
        self._metrics.link_connects += 1
        if self._lost_at is None:
            logger.info("connected to %s", self._place, extra=fields(link=self._place))
        else:
            logger.info(
                "connected to %s again after %.1f s; resubscribing %d channels, %d with a gap",
                *(self._place, self._since(self._lost_at), self.wanted, self._channels.gaps),
                extra=fields(link=self._place, channels=self.wanted, gaps=self._channels.gaps),
            )
        self.probe.reset()
        self._listen_to_probe()
        self._channels.opened()
        self._ask_for_overruns()
        self._settle()

    async def _tend(self, wire: Wire) -> str:
        """Watch a connection until it ends; return why it ended.

        Any byte counts as a sign of life: behind a burst of messages the PONG comes late.
        """
        period = self._heartbeat / 2
        while True:
            due = self._loop.time() + period
            await asyncio.wait((wire.closed,), timeout=period)
            if wire.closed.done():
                return wire.closed.result()
            now = self._loop.time()
            if now - due > period / 2:
                # This loop was held up itself, and what Redis sent may still wait to be read. A PING to a server that
                # has closed the connection would throw it away.
                continue
            if wire.behind:
                continue  # the same, but the loop is not late: more comes than can be handled
            if reason := self._find_dead(wire, now):
                wire.fail(reason)
                continue
            if self._guide.master_only:
                wire.send("HELLO", "3", on_reply=self._check_role)
            elif self._replica:
                wire.send("ROLE", on_reply=self._check_replication)
            else:
                wire.send("PING", on_reply=_ignore)
            self._listen_to_probe()
            self._send_probe()
            self._channels.tidy(now)
            if self._retries:
                self._channels.retry()
            self._settle_soon()
            if self._audit_at <= now:
                self._audit_at = now + AUDIT_INTERVAL
                if self.probe.off:
                    self.probe.reset()  # what was refused may be permitted by now
                self._audit(self._channels.subscribed())
                self._ask_for_overruns()

    def _find_dead(self, wire: Wire, now: float) -> str:
        if wire.unanswered == self._dialect.publish and wire.waiting(now) <= PAUSED_HEARTBEATS * self._heartbeat:
            # The PING before it, which left in the same write, is answered. So Redis works, and has paused writes
            # (CLIENT PAUSE WRITE, a failover by hand): nobody can publish, and nothing is missed.
            return ""
        silence = now - wire.received_at
        if silence > self._heartbeat and wire.unanswered:
            return f"no answer to {wire.unanswered} for {silence:.1f} s"
        if (waiting := wire.waiting(now)) > ANSWER_HEARTBEATS * self._heartbeat:
            return f"messages come, but no answer to {wire.unanswered} for {waiting:.1f} s"
        reason = self.probe.overdue(monotonic(), self._heartbeat)
        self._metrics.probes_lost += bool(reason)
        return reason

    def _check_role(self, reply: Reply) -> None:
        role = reply.get(b"role") if isinstance(reply, dict) else None
        if role not in (None, b"master"):
            self.relocate(f"it has become a {public(role)}")

    def _check_replication(self, reply: Reply) -> None:
        if reason := _why_deaf(reply):
            self.relocate(reason)

    def _could_not_connect(self, reason: str) -> None:
        self.problem = f"can't connect to {self._place}: {reason}"
        self._metrics.link_failures += 1
        now = self._loop.time()
        if now - self._logged_at >= FAILURE_LOG_INTERVAL:
            self._logged_at = now
            logger.warning("%s; trying again", self.problem, extra=fields(link=self._place, reason=reason))
        self._on_trouble()

    def _was_lost(self, wire: Wire, reason: str) -> None:
        self._wire = None
        self._last_wire = wire
        self._metrics.internal_errors += wire.stumbled
        self.problem = f"lost the link to {self._place}: {reason}"
        self._metrics.link_failures += 1
        if self._lost_at is None:
            self._lost_at = self._loop.time()
        lost = self._channels.closed()
        self._tell()
        logger.warning(
            "%s; %d channels are not delivered until it is back",
            *(self.problem, lost),
            extra=fields(link=self._place, reason=reason, channels=lost),
        )
        self._on_trouble()

    # Is what we believe true?

    def _listen_to_probe(self) -> None:
        """Subscribe the probe's private channel, if there is none on this connection."""
        probe = self.probe
        if self._wire is not None and not probe.channel and not probe.off and (channel := self._private()):
            probe.channel = channel
            self._wire.send(self._dialect.subscribe, channels=(channel,), on_reply=self._receive_probe_refusal)

    def _send_probe(self) -> None:
        assert self._wire is not None
        if self._wire.takes_no_commands:
            self.probe.off = "the server takes no commands from subscribers"
        elif payload := self.probe.next(monotonic()):
            channel = self.probe.channel
            self._wire.send(self._dialect.publish, channel, payload, key=channel, on_reply=self._receive_probe_reply)

    def _receive_probe_reply(self, reply: Reply) -> None:
        if isinstance(reply, hiredis.ReplyError):  # else it says how many have got it
            self._lose_probe(str(reply), self._dialect.publish)

    def _receive_probe_refusal(self, reply: Reply) -> None:
        self._lose_probe(str(reply), self._dialect.subscribe)

    def _lose_probe(self, error: str, command: str) -> None:
        """Redis refuses a command of the probe: find out what that means for the other channels."""
        self.probe.reset()  # if its slot has moved, another channel is chosen at the next beat
        self._on_trouble()
        if error.split(" ", 1)[0] in _ELSEWHERE:
            return
        if error.startswith("NOPERM"):
            off = f"permit the Redis user +{command.lower()} on channels of channel_prefix"
        else:
            off = f"Redis refuses {command}: {public(error)}"
        self.probe.off = off
        if command == self._dialect.subscribe and not error.startswith("NOPERM"):
            remedy = "" if not self._dialect.by_slot else ". Sharded channels need Redis 7; else set pubsub to classic"
            self.problem = f"nothing can be subscribed at {self._place}: {off}{remedy}"
            off = self.problem
        if off != self._said_of_probe:
            self._said_of_probe = off
            logger.warning(
                "delivery by %s is not probed, so a subscription that dies may stay unseen for a minute: %s",
                *(self._place, off),
                extra=fields(link=self._place, reason=off),
            )

    def _audit(self, channels: Sequence[bytes], dead: int = 0) -> None:
        """Compare our subscriptions with what the server says of its channels; one command after the other."""
        wire = self._wire
        if wire is None or wire.takes_no_commands:
            return
        if not channels:
            self._finish_audit(wire, dead)
            return
        batch, rest = channels[:AUDIT_BATCH], channels[AUDIT_BATCH:]

        def compare(reply: Reply) -> None:
            if isinstance(reply, list):
                pairs = zip(reply[0::2], reply[1::2], strict=False)
                subscribers = {name: count for name, count in pairs if isinstance(name, bytes)}
                gone = [channel for channel in batch if subscribers.get(channel) == 0]
                found = self._channels.dead(gone)
                self._tell()
                self._audit(rest, dead + found)

        # The empty channel comes first, since a reply that begins with "message" would look like a push.
        wire.send("PUBSUB", self._dialect.numsub, b"", *batch, on_reply=compare)

    def _finish_audit(self, wire: Wire, dead: int) -> None:
        """Compare the number of our subscriptions with the server's: others may listen to a channel that we lost."""

        def compare(reply: Reply) -> None:
            found = (
                re.search(rf"\b{self._dialect.count}=(\d{{1,20}})\b".encode(), reply)
                if isinstance(reply, bytes)
                else None
            )
            held = self._channels.held + self.probe.live
            if found is not None and int(found[1]) < held:
                self._metrics.dead_subscriptions += held - int(found[1])
                wire.fail(f"Redis has only {int(found[1])} of {held} subscriptions of this connection")

        if dead:
            logger.warning(
                "%s had dropped %d subscriptions that it had confirmed; making them again", self._place, dead
            )
        else:
            wire.send("CLIENT", "INFO", on_reply=compare)

    def _ask_for_overruns(self) -> None:
        """Find out whether the last connection ended because Redis could not get rid of what it had for us.

        Redis 7.4 counts whom it cuts off. An older one that is still the same process, and closed the connection in the
        middle of a message, had more for us than we had read.

        https://redis.io/docs/latest/develop/reference/clients/#output-buffer-limits
        """
        last, self._last_wire = self._last_wire, None

        def compare(reply: Reply) -> None:
            run = _RUN_ID.search(reply) if isinstance(reply, bytes) else None
            if run is None:
                return  # a user who may not ask
            count = _OVERRUNS.search(reply)
            before, self._run = self._run, (run[1], int(count[1]) if count is not None else 0)
            if last is None or last.given_up or before[0] != run[1]:
                return
            if before[1] < self._run[1] or (count is None and last.torn):
                self._metrics.link_overruns += 1
                logger.warning(
                    "%s had cut this link off, because its output buffer passed client-output-buffer-limit pubsub: more"
                    " was published than wsd could read. Raise it (redis-cli CONFIG SET client-output-buffer-limit"
                    " 'pubsub 128mb 32mb 60'), or publish less through one Redis",
                    self._place,
                )

        assert self._wire is not None
        if not self._wire.takes_no_commands:
            self._wire.send("INFO", on_reply=compare)


_RUN_ID = re.compile(rb"run_id:([0-9a-f]+)")
_OVERRUNS = re.compile(rb"client_output_buffer_limit_disconnections:(\d{1,20})\b")


_ELSEWHERE = {"MOVED", "ASK", "CLUSTERDOWN", "TRYAGAIN", "LOADING", "MASTERDOWN", "READONLY"}
"""Errors that say that a channel is on another server, or not there now."""


def _why_deaf(reply: Reply) -> str:
    """Why a replica delivers nothing that is published at its master, or ``""``, by its answer to ROLE.

    https://redis.io/docs/latest/commands/role/
    """
    if isinstance(reply, list) and len(reply) > 3 and reply[0] == b"slave" and reply[3] != b"connected":
        return f"it is a replica that does not hear its master ({public(reply[3])})"
    return ""


def _nothing() -> None:
    """Nobody minds."""


def _ignore(reply: Reply) -> None:
    """An error is a sign of life too."""
