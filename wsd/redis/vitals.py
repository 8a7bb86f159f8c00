"""The vitals of a link's connection: is it alive, does it deliver, and is what we believe of it true?

Every half heartbeat there is a *beat*. It judges what has come since the last one, and then asks again: by a PING or,
where the role of the server matters, by a question about the role; and by a numbered message to ourselves
(`wsd.redis.probe`). Any byte is a sign of life, because behind a burst of messages the PONG comes late. What is wrong
is noticed so many heartbeats after it began:

============================================== ============== ===============
what is wrong                                  noticed after  promised within
============================================== ============== ===============
the server is silent                           1.0 to 1.5     2
the server answers, and delivers nothing       1.0 to 1.5     2
the server delivers, and answers nothing       2.0 to 2.5     3
the server has become a replica, or is one     0.0 to 0.5     2
that does not hear its master
============================================== ============== ===============

The promise is wider because a beat may come late. A beat that is much too late, or that comes while messages wait to
be read, judges nothing. A server that answers nothing is given most time because no message is missed meanwhile; only,
nothing can be subscribed. A Redis that has paused writes is left alone for `PAUSED_HEARTBEATS`, because nobody can
publish then. What looks like that may be a network that has died between two answers; so the kernel ends a connection
whose other host acknowledges nothing for `UNACKNOWLEDGED_HEARTBEATS`.

Less often, and at each new connection, Redis is asked what it knows of us:

- Every minute, which of our channels have subscribers, and how many subscriptions this connection has (the *audit*). A
  confirmed subscription that turns out dead is announced as lost and made again.
- With that, and at the start, whether it has cut somebody off for an output buffer: such an end looks like any other.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from enum import Enum
from time import monotonic

import hiredis

from wsd.backoff import spread
from wsd.logs import fields
from wsd.metrics import Metrics
from wsd.redis.channels import Channels
from wsd.redis.probe import Probe
from wsd.redis.wire import Dialect, Reply, Wire, public

__all__ = ["BEAT", "Role", "Vitals", "why_deaf"]

BEAT = 1 / 2
"""Heartbeats between two beats."""

MARGIN = 1 / 8
"""Heartbeats that a beat may come too early. Without it, what is due at a beat would often be found at the next one."""

ANSWER_HEARTBEATS = 2
"""Heartbeats that an answer may take while messages come. It stands behind what Redis had for us before, at most 32 MiB
unless configured otherwise; so much is read in seconds."""

PAUSED_HEARTBEATS = 12
"""Heartbeats for which Redis may pause writes. A failover by hand pauses them for some seconds."""

UNACKNOWLEDGED_HEARTBEATS = 2
"""Heartbeats for which the host of a server may acknowledge nothing (TCP_USER_TIMEOUT). Where answers are due, the link
is given up sooner."""

AUDIT_INTERVAL = 60.0
"""Seconds between two audits. Asking about 512 channels takes Redis about 0.1 ms."""

AUDIT_BATCH = 512
"""Channels asked about in one command."""

ELSEWHERE = frozenset(("MOVED", "ASK", "CLUSTERDOWN", "TRYAGAIN", "LOADING", "MASTERDOWN", "READONLY"))
"""Errors that say that a channel is on another server, or not there now."""

RUN_ID = re.compile(rb"run_id:([0-9a-f]+)")
OVERRUNS = re.compile(rb"client_output_buffer_limit_disconnections:(\d{1,20})\b")

logger = logging.getLogger(__name__)


class Role(Enum):
    """What a server must be to be of use."""

    ANY = "any server"
    MASTER = "a master"
    REPLICA = "a replica that hears its master"


class Vitals:
    """Examines the connections of a link, one after the other.

    Args:
        dialect: the kind of Pub/Sub.
        heartbeat: seconds; see the table.
        metrics: counts.
        channels: what we believe of subscriptions.
        private: returns a channel for the probe that nobody else uses, another one for each number, or nothing if this
            server has none.
        on_dead: called with channels to which Redis has no subscribers; returns how many of them we thought confirmed.
        on_trouble: called when Redis refuses a command of the probe: the channel may be on another server.
    """

    def __init__(
        self,
        dialect: Dialect,
        heartbeat: float,
        metrics: Metrics,
        channels: Channels,
        *,
        private: Callable[[int], bytes],
        on_dead: Callable[[Sequence[bytes]], int],
        on_trouble: Callable[[], None],
    ) -> None:
        self._dialect = dialect
        self._heartbeat = heartbeat
        self._metrics = metrics
        self._channels = channels
        self._private = private
        self._refusals = 0  # of the probe's channels
        self._on_dead = on_dead
        self._on_trouble = on_trouble
        self._wire: Wire | None = None  # the connection, also when it has ended; None before the first
        self._name = ""  # of the connection, for people
        self._role = Role.ANY
        self._audit_at = 0.0  # when to compare with the server again
        self._run = (b"", 0)  # which process the Redis is, and how many clients it has cut off for their buffers
        self._said = ""  # why delivery can't be probed, as it was logged last
        self.probe = Probe()
        self.problem = ""  # why nothing can be subscribed on this connection, for people
        self.misplaced = False  # whether the server is the wrong one, so that another should be tried at once

    def begin(self, wire: Wire, name: str, role: Role, now: float) -> None:
        """There is a new connection.

        Args:
            wire: the connection.
            name: what it is called, for people.
            role: what the server must stay.
            now: ``time.monotonic()``, as everywhere here.
        """
        last, self._wire = self._wire, wire
        self._name, self._role = name, role
        self._audit_at = now + spread(AUDIT_INTERVAL)
        self.problem, self.misplaced = "", False
        wire.limit_unacknowledged(UNACKNOWLEDGED_HEARTBEATS * self._heartbeat)
        self.probe.reset()
        self._listen_to_probe(wire)
        self._ask_for_overruns(wire, last)

    def beat(self, wire: Wire, now: float) -> None:
        """Judge what has come, and ask again. The connection is given up if it is of no use."""
        if reason := self._find_dead(wire, now):
            wire.fail(reason)
            return
        self.ask_for_life(wire)
        self._listen_to_probe(wire)
        self._send_probe(wire, now)
        if self._audit_at <= now:
            self._audit_at = now + AUDIT_INTERVAL
            if self.probe.off:
                self.probe.reset()  # what was refused may be permitted by now
            self._audit(wire, self._channels.subscribed())
            self._ask_for_overruns(wire)

    # Is it alive, and is it the right one?

    def _find_dead(self, wire: Wire, now: float) -> str:
        heartbeat = self._heartbeat
        waiting = wire.waiting(now)
        if wire.unanswered == self._dialect.publish and waiting <= PAUSED_HEARTBEATS * heartbeat:
            # The PING before it, which left in the same write (the link's own publications have one, too), is answered.
            # So Redis works, and has paused writes (CLIENT PAUSE WRITE, a failover by hand): nobody can publish, and
            # nothing is missed.
            return ""
        silence = now - wire.received_at
        if min(silence, waiting) > (1 - MARGIN) * heartbeat:
            return f"no answer to {wire.unanswered} for {silence:.1f} s"
        if waiting > (ANSWER_HEARTBEATS - MARGIN) * heartbeat:
            return f"messages come, but no answer to {wire.unanswered} for {waiting:.1f} s"
        reason = self.probe.overdue(now, (1 - MARGIN) * heartbeat)
        if reason:
            self._metrics.probes_lost += 1
        return reason

    def ask_for_life(self, wire: Wire) -> None:
        """Ask for an answer that tells of the role, too, if that matters; a connection of the wrong one is given up."""
        match self._role:
            case Role.MASTER:
                wire.send("HELLO", "3", on_reply=self._receive_hello)
            case Role.REPLICA:
                wire.send("ROLE", on_reply=self._receive_role)
            case _:
                wire.send("PING", on_reply=_ignore)

    def _receive_hello(self, reply: Reply) -> None:
        role = reply.get(b"role") if isinstance(reply, dict) else None
        if role not in (None, b"master"):
            self._leave(f"it has become a {public(role)}")

    def _receive_role(self, reply: Reply) -> None:
        if reason := why_deaf(reply):
            self._leave(reason)

    def _leave(self, reason: str) -> None:
        assert self._wire is not None
        self.misplaced = True
        self._wire.fail(reason)

    # Does it deliver?

    def receive_change(self, subscribed: bool) -> None:
        """Redis has subscribed the probe's channel, or has taken it away."""
        self.probe.changed(subscribed)
        if subscribed and self._wire is not None:
            self.problem = ""
            self.ask_for_life(self._wire)  # see _find_dead() for what a PUBLISH alone would mean
            self._send_probe(self._wire, monotonic())

    def receive_probe(self, payload: bytes) -> None:
        """A message has come on the probe's channel."""
        self.probe.returned(payload, monotonic())
        self._said = ""

    def _listen_to_probe(self, wire: Wire) -> None:
        """Subscribe the probe's private channel, if there is none on this connection."""
        probe = self.probe
        if not probe.channel and not probe.off and (channel := self._private(self._refusals)):
            probe.channel = channel
            wire.send(self._dialect.subscribe, channels=(channel,), on_reply=self._receive_refusal)

    def _send_probe(self, wire: Wire, now: float) -> None:
        if wire.is_fakeredis:
            self.probe.off = "the server takes no commands from subscribers"
        elif payload := self.probe.next(now):
            channel = self.probe.channel
            wire.send(self._dialect.publish, channel, payload, key=channel, on_reply=self._receive_publish_reply)

    def _receive_publish_reply(self, reply: Reply) -> None:
        if isinstance(reply, hiredis.ReplyError):  # else it says how many have got it
            self._lose_probe(str(reply), self._dialect.publish)

    def _receive_refusal(self, reply: Reply) -> None:
        self._lose_probe(str(reply), self._dialect.subscribe)

    def _lose_probe(self, error: str, command: str) -> None:
        """Redis refuses a command of the probe: find out what that means for the other channels."""
        self._refusals += 1
        self.probe.reset()  # another channel is chosen at the next beat, because the slot may be on its way for long
        self._on_trouble()
        if error.split(" ", 1)[0] in ELSEWHERE:
            return
        forbidden = error.startswith("NOPERM")
        if forbidden:
            off = f"permit the Redis user +{command.lower()} on channels of channel_prefix"
        else:
            off = f"Redis refuses {command}: {public(error)}"
        self.probe.off = off
        if command == self._dialect.subscribe and not forbidden:
            remedy = ". Sharded channels need Redis 7; else set pubsub to classic" if self._dialect.by_slot else ""
            self.problem = f"nothing can be subscribed at {self._name}: {off}{remedy}"
        self._say_unprobed(self.problem or off)

    def _say_unprobed(self, reason: str) -> None:
        if reason != self._said:
            self._said = reason
            logger.warning(
                "delivery by %s is not probed, so a subscription that dies may stay unseen for a minute: %s",
                self._name,
                reason,
                extra=fields(link=self._name, reason=reason),
            )

    # Is what we believe true?

    def _audit(self, wire: Wire, channels: Sequence[bytes], dead: int = 0) -> None:
        """Compare our subscriptions with what the server says of its channels; one command after the other."""
        if wire.is_fakeredis:
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
                self._audit(wire, rest, dead + self._on_dead(gone))

        # The empty channel comes first, because a reply that begins with "message" would look like a push.
        wire.send("PUBSUB", self._dialect.numsub, b"", *batch, on_reply=compare)

    def _finish_audit(self, wire: Wire, dead: int) -> None:
        """Compare the number of our subscriptions with the server's: others may listen to a channel that we lost."""

        def compare(reply: Reply) -> None:
            pattern = rf"\b{self._dialect.count}=(\d{{1,20}})\b".encode()
            found = re.search(pattern, reply) if isinstance(reply, bytes) else None
            held = self._channels.held + self.probe.live
            if found is not None and int(found[1]) < held:
                self._metrics.dead_subscriptions += held - int(found[1])
                wire.fail(f"Redis has only {int(found[1])} of {held} subscriptions of this connection")

        if dead:
            logger.warning("%s had dropped %d subscriptions that it had confirmed; making them again", self._name, dead)
        wire.send("CLIENT", "INFO", on_reply=compare)

    def _ask_for_overruns(self, wire: Wire, last: Wire | None = None) -> None:
        """Find out whether the last connection ended because Redis could not get rid of what it had for us.

        Redis 7.4 counts whom it cuts off. An older one that is still the same process, and closed the connection in the
        middle of a message, had more for us than we had read.

        https://redis.io/docs/latest/develop/reference/clients/#output-buffer-limits
        """

        def compare(reply: Reply) -> None:
            run = RUN_ID.search(reply) if isinstance(reply, bytes) else None
            if run is None:
                return  # a user who may not ask
            count = OVERRUNS.search(reply)
            before, self._run = self._run, (run[1], int(count[1]) if count is not None else 0)
            if last is None or last.given_up or before[0] != run[1]:
                return
            if before[1] < self._run[1] or (count is None and last.torn):
                self._metrics.link_overruns += 1
                logger.warning(
                    "%s had cut this link off, because its output buffer passed client-output-buffer-limit pubsub: more"
                    " was published than wsd could read. Raise it (redis-cli CONFIG SET client-output-buffer-limit"
                    " 'pubsub 128mb 32mb 60'), or publish less through one Redis",
                    self._name,
                )

        if not wire.is_fakeredis:
            wire.send("INFO", on_reply=compare)


def why_deaf(reply: Reply) -> str:
    """Say why a replica delivers nothing that is published at its master, or ``""``, by its answer to ROLE.

    https://redis.io/docs/latest/commands/role/
    """
    if isinstance(reply, list) and len(reply) > 3 and reply[0] == b"slave" and reply[3] != b"connected":
        return f"it is a replica that does not hear its master ({public(reply[3])})"
    return ""


def _ignore(reply: Reply) -> None:
    """An error is a sign of life too."""
