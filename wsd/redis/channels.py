"""The channels of one link: which are wanted, and how Redis has them. Without I/O.

Inputs are methods. Some say what is wanted (`want`, `unwant`, `release`); others are named as what has happened
(`opened`, `closed`, `changed`, `failed`, `dead`). What follows from an input is taken by the owner: `events` after each
input, and `commands` at the end of the pass, so that a command carries all channels of a pass.

A channel has at most one state on a connection::

    (none) --SUBSCRIBE taken--> SUBSCRIBING --confirmed--> SUBSCRIBED --UNSUBSCRIBE taken--> UNSUBSCRIBING --> (none)
                                    |
                                    +--an error--> (none)

No command is sent for a channel whose last command is unanswered: when the answer comes, the channel is compared
with what is wanted by then. So a confirmation never speaks of an older subscription than the one it is taken for.

Beside the state, these sets say why a channel is as it is. All but ``wanted``, ``gapped`` and ``refused`` end with the
connection (`closed`):

======== ============================================ ============================ ===================================
set      which channels                               a channel comes by           and goes by
======== ============================================ ============================ ===================================
wanted   somebody listens to it or waits for it       `want`                       `unwant`, `release`
gapped   wanted; messages were missed, and nobody     `closed` or *lost* while     its confirmation, which tells of the
         has been told                                SUBSCRIBED, `want` with      gap; a refusal; `unwant`, `release`
                                                      ``missed``, `miss` while its
                                                      confirmation is to come, a
                                                      refusal that is over
refused  wanted; Redis does not permit it             the error NOPERM             `tidy` after `REFUSED_RETRY` or
                                                                                   `closed` (then it is gapped);
                                                                                   `unwant`, `release`
astray   wanted; Redis says: not here, or not now     the error MOVED and its      `retry`, `unwant`, `release`
                                                      like; *lost* on a Cluster
resumed  wanted again while SUBSCRIBED; its           `want`                       the end of the pass
         confirmation is owed
idle     SUBSCRIBED, not wanted: it lingers           `unwant`; a confirmation     `tidy` after `LINGER`, `want`
                                                      that comes too late
released not wanted here but on another server; has   `release`                    the end of its subscription, `want`
         a state yet
taken    wanted; Redis has ended the subscription     `changed`, unasked           the end of the pass, with a line in
         by itself                                                                 the log
======== ============================================ ============================ ===================================

*Lost* is a channel that is SUBSCRIBED no more for Redis's own reasons: taken, or found dead. It is subscribed again.

An error refuses all channels of a SUBSCRIBE. If it is about permissions, the command's halves are tried, until the
channel that is refused stands alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from typing import NamedTuple, TypeAlias

from wsd.errors import LinkError
from wsd.logs import BoundedLogger
from wsd.metrics import Metrics
from wsd.redis.slots import key_slot
from wsd.redis.wire import Dialect, public

__all__ = ["Channels", "Command", "Confirmed", "Event", "Lost", "Refused", "Strayed"]

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


class Command(NamedTuple):
    """A command to send. Its answer is an input: `Channels.changed` for each channel, or `Channels.failed`."""

    name: str
    channels: Sequence[bytes]


class Confirmed(NamedTuple):
    """Redis delivers a wanted channel from now on."""

    channel: bytes
    gap: bool  # whether messages may have been missed


class Refused(NamedTuple):
    """Redis refuses a wanted channel."""

    channel: bytes
    reason: str  # for clients


class Lost(NamedTuple):
    """Wanted channels aren't delivered until they are confirmed again."""

    channels: Sequence[bytes]


class Strayed(NamedTuple):
    """Redis says that wanted channels are not on this server, or not now."""

    channels: Sequence[bytes]


Event: TypeAlias = Confirmed | Refused | Lost | Strayed


class _State(Enum):
    SUBSCRIBING = 1
    SUBSCRIBED = 2
    UNSUBSCRIBING = 3


class _States:
    """The state of each channel that has one, and how many are in each: /readyz asks often, and channels are many."""

    def __init__(self) -> None:
        self._states: dict[bytes, _State] = {}
        self._counts = dict.fromkeys(_State, 0)

    def __contains__(self, channel: bytes) -> bool:
        return channel in self._states

    def __len__(self) -> int:
        return len(self._states)

    def get(self, channel: bytes) -> _State | None:
        """The state of a channel."""
        return self._states.get(channel)

    def set(self, channel: bytes, state: _State) -> None:
        """Put a channel into a state."""
        self.drop(channel)
        self._states[channel] = state
        self._counts[state] += 1

    def drop(self, channel: bytes) -> None:
        """Take the state from a channel; fine if it has none."""
        state = self._states.pop(channel, None)
        if state is not None:
            self._counts[state] -= 1

    def clear(self) -> None:
        """Take the states from all channels."""
        self._states.clear()
        self._counts = dict.fromkeys(_State, 0)

    def count(self, state: _State) -> int:
        """How many channels are in a state."""
        return self._counts[state]

    def within(self, state: _State) -> list[bytes]:
        """The channels in a state."""
        return [channel for channel, theirs in self._states.items() if theirs is state]


class Channels:
    """Which channels are wanted, and how Redis has them.

    Args:
        dialect: the kind of Pub/Sub.
        metrics: counts.
    """

    def __init__(self, dialect: Dialect, metrics: Metrics) -> None:
        self._dialect = dialect
        self._metrics = metrics
        self._open = False  # whether there is a connection
        self._states = _States()  # on this connection
        self._changed: dict[bytes, None] = {}  # channels to bring in line at the end of this pass
        self._commands: list[Command] = []  # to be taken
        self._events: list[Event] = []  # to be taken
        # The sets of the table. The link looks at `gapped` and `released` for every message.
        self._wanted: dict[bytes, None] = {}
        self.gapped: dict[bytes, None] = {}
        self.released: dict[bytes, None] = {}
        self._refused: dict[bytes, float] = {}  # when to try again; oldest first
        self._astray: dict[bytes, None] = {}
        self._resumed: dict[bytes, None] = {}
        self._idle: dict[bytes, float] = {}  # when to unsubscribe; oldest first
        self._taken: list[bytes] = []

    # How it stands.

    @property
    def wanted(self) -> int:
        """How many channels are wanted."""
        return len(self._wanted)

    @property
    def confirmed(self) -> int:
        """How many channels Redis has confirmed, unwanted ones that linger included."""
        return self._states.count(_State.SUBSCRIBED)

    @property
    def delivered(self) -> int:
        """How many channels are wanted, and Redis has confirmed them. Right between two passes, if not within one."""
        return self.confirmed - len(self._idle)

    @property
    def gaps(self) -> int:
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

    @property
    def held(self) -> int:
        """How many subscriptions Redis should hold, as far as it has answered."""
        return len(self._states) - self._states.count(_State.SUBSCRIBING)

    def subscribed(self) -> list[bytes]:
        """The channels that Redis has confirmed, unwanted ones that linger included."""
        return self._states.within(_State.SUBSCRIBED)

    def withholds(self, channel: bytes) -> bool:
        """Whether a message must not be delivered now.

        Two reasons. The gap of this channel is not announced yet, so this message counts as part of the gap. Or the
        channel has moved to another server, which delivers this message too: a replica sends what its master is told.
        """
        return channel in self.gapped or channel in self.released

    def delivers(self, channel: bytes) -> bool:
        """Whether a channel is wanted, and Redis has confirmed it."""
        return channel in self._wanted and self._is_subscribed(channel)

    def _is_subscribed(self, channel: bytes) -> bool:
        return self._states.get(channel) is _State.SUBSCRIBED

    # What is to be done.

    @property
    def unsettled(self) -> bool:
        """Whether `commands` must be taken at the end of this pass."""
        return bool(self._changed or self._commands or self._resumed or self._taken)

    def commands(self) -> list[Command]:
        """Bring in line what this pass has changed; take the commands that do it. `events` may follow."""
        self._log_taken()
        changed, self._changed = self._changed, {}
        if self._open:  # else everything wanted is subscribed when there is a connection
            self._bring_in_line(changed)
        for channel in self._resumed:
            if channel in self._wanted and self._is_subscribed(channel):
                self._confirm(channel)
        self._resumed.clear()
        commands, self._commands = self._commands, []
        return commands

    def events(self) -> list[Event]:
        """Take what has happened, in order."""
        events, self._events = self._events, []
        return events

    def _bring_in_line(self, changed: Iterable[bytes]) -> None:
        lacking: list[bytes] = []
        surplus: list[bytes] = []
        for channel in changed:
            if channel in self._wanted:
                if channel not in self._states and channel not in self._astray:
                    lacking.append(channel)
            elif self._is_subscribed(channel) and channel not in self._idle:
                surplus.append(channel)
        self._subscribe(lacking)
        for batch in self._batches(surplus):
            for channel in batch:
                self._states.set(channel, _State.UNSUBSCRIBING)
            self._commands.append(Command(self._dialect.unsubscribe, batch))

    def _subscribe(self, channels: Sequence[bytes]) -> None:
        for batch in self._batches(channels):
            for channel in batch:
                self._states.set(channel, _State.SUBSCRIBING)
            self._commands.append(Command(self._dialect.subscribe, batch))

    def _batches(self, channels: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
        groups: Iterable[Sequence[bytes]] = (channels,)
        if self._dialect.by_slot:
            by_slot: dict[int, list[bytes]] = {}
            for channel in channels:
                by_slot.setdefault(key_slot(channel), []).append(channel)
            groups = by_slot.values()
        return (group[start : start + BATCH] for group in groups for start in range(0, len(group), BATCH))

    def _log_taken(self) -> None:
        taken, self._taken = self._taken, []
        if taken:
            logger.warning(
                "Redis has taken away %d subscriptions by itself, the first that of %a", len(taken), taken[0]
            )

    # What is wanted.

    def want(self, channel: bytes, *, missed: bool = False) -> None:
        """Want a channel. `Confirmed` or `Refused` tells what became of it.

        Args:
            channel: the channel.
            missed: whether messages may have been missed already, while it was on another server.
        """
        self._wanted[channel] = None
        self._idle.pop(channel, None)
        self.released.pop(channel, None)
        if missed:
            self.gapped[channel] = None
        if self._is_subscribed(channel):
            self._resumed[channel] = None
        else:
            self._changed[channel] = None

    def miss(self, channel: bytes) -> bool:
        """Someone who has just come to a channel may have missed messages.

        A channel that Redis refuses stays refused: when it is tried again, it is gapped anyway.

        Returns:
            Whether its next confirmation tells of a gap; False if it is confirmed, or not wanted.
        """
        if channel not in self._wanted or (self._is_subscribed(channel) and channel not in self._resumed):
            return False
        if channel not in self._refused:
            self.gapped[channel] = None
        return True

    def unwant(self, channel: bytes, now: float) -> None:
        """Want a channel no more. It lingers."""
        self._forget(channel)
        if self._is_subscribed(channel):
            self._idle[channel] = now + LINGER

    def release(self, channel: bytes) -> bool:
        """Want a channel no more here, but on another server.

        Returns:
            Whether messages may be missed meanwhile.
        """
        subscribed = self._is_subscribed(channel)
        missed = subscribed or channel in self.gapped or channel in self._refused
        if subscribed:
            self._metrics.gaps += 1
        self._forget(channel)
        if channel in self._states:
            self.released[channel] = None
        self._changed[channel] = None
        return missed

    def _forget(self, channel: bytes) -> None:
        del self._wanted[channel]
        self.gapped.pop(channel, None)
        self._refused.pop(channel, None)
        self._astray.pop(channel, None)

    # What time brings.

    def tidy(self, now: float) -> None:
        """Unsubscribe what has lingered long enough, and try again what was refused."""
        while self._idle and (channel := next(iter(self._idle))) and self._idle[channel] <= now:
            del self._idle[channel]
            self._changed[channel] = None
        while self._refused and (channel := next(iter(self._refused))) and self._refused[channel] <= now:
            del self._refused[channel]
            self.gapped[channel] = None
            self._changed[channel] = None

    def retry(self) -> None:
        """Try again what is astray: this is the right server, as far as anyone knows."""
        self._changed.update(self._astray)
        self._astray.clear()

    # What has happened.

    def opened(self) -> None:
        """There is a connection: subscribe what is wanted."""
        self._open = True
        self._subscribe(list(self._wanted))

    def closed(self) -> int:
        """The connection is lost.

        Returns:
            How many channels were delivered until now that are wanted.
        """
        self._open = False
        # Those still SUBSCRIBING have missed nothing that was promised, nor have those whose confirmation is owed.
        lost = [channel for channel in self._wanted if self._is_subscribed(channel) and channel not in self._resumed]
        self.gapped.update(dict.fromkeys(lost))
        self.gapped.update(dict.fromkeys(self._refused))
        self._metrics.gaps += len(lost)
        for ended in (self._refused, self._astray, self._resumed, self._states, self._idle, self.released):
            ended.clear()
        self._commands.clear()
        self._events.append(Lost(list(self._wanted)))
        return len(lost)

    def changed(self, channel: bytes, subscribed: bool, asked: bool, now: float) -> None:
        """Redis has subscribed or unsubscribed a channel.

        Args:
            channel: the channel.
            subscribed: whether it is subscribed now.
            asked: whether a command asked for that.
            now: the time, in seconds.
        """
        if subscribed:
            if not asked and channel not in self._wanted:
                return  # no Redis says so; kept, such channels would add up
            self._states.set(channel, _State.SUBSCRIBED)
            if channel in self._wanted:
                self._confirm(channel)
            else:
                self._idle[channel] = now + LINGER
        elif asked:
            self._drop(channel)
            if channel in self._wanted:
                self._changed[channel] = None
        else:
            if channel in self._wanted:
                self._taken.append(channel)
            self._lose(channel)

    def failed(self, command: Command, error: str, now: float) -> None:
        """Redis has answered a command with an error.

        Raises:
            LinkError: if the connection is of no use because of it.
        """
        if command.name == self._dialect.unsubscribe:
            # Redis doesn't know these channels any more, because their slot has moved.
            for channel in command.channels:
                self.changed(channel, False, True, now)
            return
        for channel in command.channels:
            self._drop(channel)
        if error.split(" ", 1)[0] in ASTRAY:
            self._stray(command.channels)
        elif not error.startswith("NOPERM "):
            raise LinkError(f"Redis answered {command.name} with {public(error)}{self._advice(error)}")
        elif len(command.channels) > 1:
            middle = len(command.channels) // 2
            for half in (command.channels[:middle], command.channels[middle:]):
                self._subscribe([channel for channel in half if channel in self._wanted])
        elif command.channels[0] in self._wanted:
            self._refuse(command.channels[0], error, now)

    def dead(self, channels: Iterable[bytes]) -> int:
        """Redis says that it has no subscribers to these channels.

        Returns:
            How many of them had been confirmed, and are therefore made again.
        """
        dead = [channel for channel in channels if self._is_subscribed(channel)]
        self._metrics.dead_subscriptions += len(dead)
        for channel in dead:
            self._lose(channel)
        return len(dead)

    def _confirm(self, channel: bytes) -> None:
        gap = channel in self.gapped
        if gap:
            del self.gapped[channel]
        self._events.append(Confirmed(channel, gap))

    def _refuse(self, channel: bytes, error: str, now: float) -> None:
        refusals.warning(
            "channel",
            "Redis refuses the channel %a: %s",
            channel,
            public(error),
            channel=ascii(channel)[2:-1],
            reason=public(error),
        )
        # Unwanted by those who hear of it, unless it has listeners from before the permission was taken away.
        self.gapped.pop(channel, None)
        self._refused[channel] = now + REFUSED_RETRY
        self._events.append(Refused(channel, "Redis does not permit this topic; ask the operator"))

    def _lose(self, channel: bytes) -> None:
        """Redis delivers a channel no more, for its own reasons."""
        self._drop(channel)
        if channel not in self._wanted:
            return
        if channel not in self._resumed:  # else nobody has been told yet that it is delivered
            self.gapped[channel] = None
            self._metrics.gaps += 1
        self._events.append(Lost((channel,)))
        if self._dialect.by_slot:
            self._stray((channel,))  # its slot has moved
        else:
            self._changed[channel] = None

    def _drop(self, channel: bytes) -> None:
        """A channel isn't subscribed any more."""
        self._states.drop(channel)
        self._idle.pop(channel, None)
        self.released.pop(channel, None)

    def _stray(self, channels: Iterable[bytes]) -> None:
        strayed = [channel for channel in channels if channel in self._wanted]
        self._astray.update(dict.fromkeys(strayed))
        self._events.append(Strayed(strayed))

    def _advice(self, error: str) -> str:
        if self._dialect.by_slot and "unknown command" in error:
            return "; sharded Pub/Sub needs Redis 7.0 or later: set pubsub = classic, and PUBLISH"
        return ""
