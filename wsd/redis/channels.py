"""The channels of one link: which are wanted, and how Redis has them. Without I/O.

A channel on a connection::

    (none) --SUBSCRIBE sent--> SUBSCRIBING --confirmed--> SUBSCRIBED --UNSUBSCRIBE sent--> UNSUBSCRIBING --> (none)
                                    |
                                    +--NOPERM--> (none), refused: tried again after a while
                                    +--MOVED---> (none), astray: until someone says where it is

No command is sent for a channel whose last command is unanswered: when the answer comes, the channel is compared
with what is wanted by then. So a confirmation never speaks of an older subscription than the one it is taken for.

An error refuses all channels of a SUBSCRIBE. If it is about permissions, the command's halves are tried, until the
channel that is refused stands alone.

What is lost is said: a channel that was SUBSCRIBED when it was lost is confirmed again with ``gap=True``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from typing import TypeVar

from wsd.errors import LinkError
from wsd.logs import BoundedLogger
from wsd.metrics import Metrics
from wsd.redis.slots import key_slot
from wsd.redis.wire import Dialect, bugs, public
from wsd.source import Events

__all__ = ["Channels"]

BATCH = 512
"""Channels in one SUBSCRIBE. A command of 512 takes Redis about 0.1 ms, so others are served in between."""

LINGER = 5.0
"""Seconds that a channel without listeners stays subscribed: a client that reconnects finds it confirmed."""

REFUSED_RETRY = 30.0
"""Seconds until a channel that has listeners, but was refused after a reconnect, is tried again."""

ASTRAY = frozenset(("MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN"))
"""Errors that mean: not here, or not now. https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/"""

logger = logging.getLogger(__name__)
refusals = BoundedLogger(logger)  # a client may ask for any number of channels that Redis refuses

_T = TypeVar("_T")


class _State(Enum):
    SUBSCRIBING = 1
    SUBSCRIBED = 2
    UNSUBSCRIBING = 3


class Channels:
    """Which channels are wanted, and how Redis has them.

    Args:
        dialect: the kind of Pub/Sub.
        events: whom to call.
        metrics: counts.
        now: the loop's clock, in seconds.
        call_soon: runs a function at the end of the pass.
        send: sends a command for channels; calls back with the channels that are unanswered and the error if Redis
            answers with one.
        on_astray: called when Redis says that channels are not on this server, or not now.
    """

    def __init__(
        self,
        dialect: Dialect,
        events: Events,
        metrics: Metrics,
        *,
        now: Callable[[], float],
        call_soon: Callable[[Callable[[], None]], object],
        send: Callable[[str, Sequence[bytes], Callable[[Sequence[bytes], str], None]], None],
        on_astray: Callable[[], None],
    ) -> None:
        self._dialect = dialect
        self._events = events
        self._metrics = metrics
        self._now = now
        self._call_soon = call_soon
        self._send = send
        self._on_astray = on_astray
        self._open = False  # whether there is a connection
        self.wanted: dict[bytes, None] = {}
        self._states: dict[bytes, _State] = {}  # on this connection
        self._changed: dict[bytes, None] = {}  # channels to bring in line at the end of this pass
        self._idle: dict[bytes, float] = {}  # subscribed, unwanted: when to unsubscribe; oldest first
        # The link asks about these two for every message.
        self.gapped: dict[bytes, None] = {}  # wanted channels whose messages have been missed, not confirmed since
        self.released: dict[bytes, None] = {}  # channels that are on another server now, not unsubscribed yet
        self._refused: dict[bytes, float] = {}  # wanted, refused: when to try again; oldest first
        self._astray: dict[bytes, None] = {}  # wanted, but Redis says: not here, or not now
        self._taken: list[bytes] = []  # wanted channels that Redis has taken away in this pass, to be logged

    @property
    def missing(self) -> int:
        """How many channels have listeners that may be missing messages now, except those that Redis refuses."""
        return len(self.gapped)

    @property
    def refused(self) -> int:
        """How many channels have listeners, but Redis does not permit them."""
        return len(self._refused)

    @property
    def astray(self) -> int:
        """How many wanted channels Redis says are not on this server, or not now."""
        return len(self._astray)

    def subscribed(self) -> list[bytes]:
        """The channels that Redis has confirmed, unwanted ones that linger included."""
        return [channel for channel, state in self._states.items() if state is _State.SUBSCRIBED]

    @property
    def held(self) -> int:
        """How many subscriptions Redis should hold, as far as it has answered."""
        return len(self._states) - sum(state is _State.SUBSCRIBING for state in self._states.values())

    # What is wanted.

    def want(self, channel: bytes, *, missed: bool = False) -> bool:
        """Want a channel.

        Args:
            channel: the channel.
            missed: whether messages may have been missed already, while it was on another server.

        Returns:
            Whether Redis has confirmed it already; then ``on_confirmed`` isn't called.
        """
        self.wanted[channel] = None
        self._idle.pop(channel, None)
        self.released.pop(channel, None)
        if self._states.get(channel) is _State.SUBSCRIBED:
            return True
        if missed:
            self.gapped[channel] = None
        self._reconcile(channel)
        return False

    def unwant(self, channel: bytes) -> None:
        """Want a channel no more. It lingers."""
        self._forget(channel)
        if self._states.get(channel) is _State.SUBSCRIBED:
            self._idle[channel] = self._now() + LINGER

    def release(self, channel: bytes) -> bool:
        """Want a channel no more here, but on another server.

        Returns:
            Whether messages may be missed meanwhile.
        """
        subscribed = self._states.get(channel) is _State.SUBSCRIBED
        missed = subscribed or channel in self.gapped or channel in self._refused
        self._metrics.gaps += subscribed
        self._forget(channel)
        if channel in self._states:
            self.released[channel] = None
        self._reconcile(channel)
        return missed

    def withholds(self, channel: bytes) -> bool:
        """Whether a message must not be delivered now.

        A gap is announced first, with the confirmation, and the message lies under it; or the channel is on another
        server: the new master delivers what its replica, the former one, still sends.
        """
        return channel in self.gapped or channel in self.released

    def _forget(self, channel: bytes) -> None:
        del self.wanted[channel]
        self.gapped.pop(channel, None)
        self._refused.pop(channel, None)
        self._astray.pop(channel, None)

    def _reconcile(self, channel: bytes) -> None:
        """Bring a channel in line at the end of this pass, in one command with others."""
        if not self._changed:
            self._call_soon(self._send_changes)
        self._changed[channel] = None

    def _send_changes(self) -> None:
        changed, self._changed = self._changed, {}
        if not self._open:
            return  # everything wanted is subscribed when the connection is there
        self._subscribe(
            [
                channel
                for channel in changed
                if channel in self.wanted and channel not in self._states and channel not in self._astray
            ]
        )
        surplus = [
            channel
            for channel in changed
            if channel not in self.wanted
            and channel not in self._idle
            and self._states.get(channel) is _State.SUBSCRIBED
        ]
        for batch in self._batches(surplus):
            self._states.update(dict.fromkeys(batch, _State.UNSUBSCRIBING))
            self._send(self._dialect.unsubscribe, batch, self._receive_refused_unsubscribe)

    def _subscribe(self, channels: Sequence[bytes]) -> None:
        for batch in self._batches(channels):
            self._states.update(dict.fromkeys(batch, _State.SUBSCRIBING))
            self._send(self._dialect.subscribe, batch, self._receive_refusal)

    def _batches(self, channels: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
        groups: Iterable[Sequence[bytes]] = (channels,)
        if self._dialect.by_slot:
            by_slot: dict[int, list[bytes]] = {}
            for channel in channels:
                by_slot.setdefault(key_slot(channel), []).append(channel)
            groups = by_slot.values()
        return (group[start : start + BATCH] for group in groups for start in range(0, len(group), BATCH))

    # What Redis says.

    def opened(self) -> None:
        """There is a connection: subscribe what is wanted."""
        self._open = True
        self._subscribe(list(self.wanted))

    def closed(self) -> int:
        """The connection is lost.

        Returns:
            How many channels were delivered until now that are wanted.
        """
        self._open = False
        lost = [channel for channel in self.wanted if self._states.get(channel) is _State.SUBSCRIBED]
        # Those still SUBSCRIBING have missed nothing that was promised.
        self.gapped.update(dict.fromkeys(lost))
        self.gapped.update(dict.fromkeys(self._refused))
        self._metrics.gaps += len(lost)
        self._refused.clear()
        self._astray.clear()
        self._states.clear()
        self._idle.clear()
        self.released.clear()
        self._events.on_lost(self.wanted)
        return len(lost)

    def changed(self, channel: bytes, subscribed: bool, asked: bool) -> None:
        """Redis has subscribed or unsubscribed a channel.

        Args:
            channel: the channel.
            subscribed: whether it is subscribed now.
            asked: whether a command asked for that.
        """
        if subscribed:
            if not asked and channel not in self.wanted:
                return  # no Redis says so; kept, such channels would add up
            self._states[channel] = _State.SUBSCRIBED
            if channel in self.wanted:
                gap = channel in self.gapped
                self.gapped.pop(channel, None)
                self._tell(self._events.on_confirmed, channel, gap)
            else:
                self._idle[channel] = self._now() + LINGER
        elif asked:
            self._drop(channel)
            if channel in self.wanted:
                self._reconcile(channel)
        else:
            if channel in self.wanted:
                if not self._taken:
                    self._call_soon(self._log_taken)
                self._taken.append(channel)
            self._lose(channel)

    def _log_taken(self) -> None:
        taken, self._taken = self._taken, []
        logger.warning("Redis has taken away %d subscriptions by itself, the first that of %a", len(taken), taken[0])

    def _lose(self, channel: bytes) -> None:
        """Redis delivers a channel no more, for its own reasons."""
        self._drop(channel)
        if channel not in self.wanted:
            return
        self.gapped[channel] = None
        self._metrics.gaps += 1
        self._events.on_lost((channel,))
        if self._dialect.by_slot:
            self._stray((channel,))  # its slot has moved
        else:
            self._reconcile(channel)

    def _drop(self, channel: bytes) -> None:
        """A channel isn't subscribed any more."""
        self._states.pop(channel, None)
        self._idle.pop(channel, None)
        self.released.pop(channel, None)

    def dead(self, channels: Iterable[bytes]) -> int:
        """Redis says that it has no subscribers to these channels.

        Returns:
            How many of them had been confirmed, and are therefore made again.
        """
        dead = [channel for channel in channels if self._states.get(channel) is _State.SUBSCRIBED]
        self._metrics.dead_subscriptions += len(dead)
        for channel in dead:
            self._lose(channel)
        return len(dead)

    def tidy(self) -> None:
        """Unsubscribe what has lingered long enough, and try again what was refused."""
        now = self._now()
        while self._idle and (channel := next(iter(self._idle))) and self._idle[channel] <= now:
            del self._idle[channel]
            self._reconcile(channel)
        while self._refused and (channel := next(iter(self._refused))) and self._refused[channel] <= now:
            del self._refused[channel]
            self.gapped[channel] = None
            self._reconcile(channel)

    def retry(self) -> None:
        """Try again what was astray: this is the right server, as far as anyone knows."""
        astray, self._astray = self._astray, {}
        for channel in astray:
            self._reconcile(channel)

    def _stray(self, channels: Iterable[bytes]) -> None:
        self._astray.update((channel, None) for channel in channels if channel in self.wanted)
        self._on_astray()

    def _receive_refused_unsubscribe(self, channels: Sequence[bytes], reason: str) -> None:
        """Redis doesn't know these channels any more, since their slot has moved."""
        for channel in channels:
            self.changed(channel, False, True)

    def _receive_refusal(self, channels: Sequence[bytes], reason: str) -> None:
        for channel in channels:
            self._drop(channel)
        if reason.split(" ", 1)[0] in ASTRAY:
            self._stray(channels)
            return
        if not reason.startswith("NOPERM "):
            raise LinkError(f"Redis answered {self._dialect.subscribe} with {public(reason)}{self._advice(reason)}")
        if len(channels) > 1:
            middle = len(channels) // 2
            for half in (channels[:middle], channels[middle:]):
                self._subscribe([channel for channel in half if channel in self.wanted])
            return
        channel = channels[0]
        if channel not in self.wanted:
            return
        refusals.warning(
            *("channel", "Redis refuses the channel %a: %s", channel, public(reason)),
            channel=ascii(channel)[2:-1],
            reason=public(reason),
        )
        self._tell(self._events.on_refused, channel, "Redis does not permit this topic; ask the operator")
        if channel in self.wanted:  # it has listeners, from before the permission was taken away
            self.gapped.pop(channel, None)
            self._refused[channel] = self._now() + REFUSED_RETRY

    def _advice(self, reason: str) -> str:
        unknown = self._dialect.by_slot and "unknown command" in reason
        return "; sharded Pub/Sub needs Redis 7.0 or later: set pubsub = classic, and PUBLISH" if unknown else ""

    def _tell(self, callback: Callable[[bytes, _T], None], channel: bytes, what: _T) -> None:
        try:
            callback(channel, what)
        except Exception as exc:
            # A bug about one channel must not end the connection that all others share.
            self._metrics.internal_errors += 1
            bugs.exception(
                f"channel: {type(exc).__name__}", "what Redis said about channel %a could not be handled", channel
            )
