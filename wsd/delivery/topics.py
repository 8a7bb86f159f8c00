"""Who listens to what.

A connection that wants a topic first waits for it, because Redis has yet to confirm the channel, and then listens to
it. The table tells the side of Redis about the first that is interested in a channel and the last that leaves, and
tells those who wait what Redis answered. It keeps the marks too (`wsd.delivery.marks`), which are channels without a
topic.

It knows nothing of sockets: a listener is anything that can be told.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Protocol

from wsd.delivery.marks import Mark
from wsd.protocol.messages import message_head

__all__ = ["Listener", "Topic", "TopicTable"]


class Listener(Protocol):
    """Someone interested in topics."""

    def write(self, data: bytes, /) -> object:
        """Send frames. Never raises, never waits, and takes nobody off a topic."""

    def topic_confirmed(self, topic: str) -> None:
        """Redis has confirmed the channel of a topic that this listener waits for."""

    def topic_refused(self, topic: str, reason: str) -> None:
        """Redis refuses a topic: one that this listener waited for, and is off already, or one that it stays on."""


class Topic:
    """A topic that somebody is interested in."""

    __slots__ = ("_listeners", "channel", "confirmed", "head", "heard", "name", "noticed", "refusal", "waiters")

    def __init__(self, name: str, channel: bytes) -> None:
        self.name = name
        self.channel = channel
        self.head = message_head(name)  # its messages up to the snapshot, built once
        self.confirmed = False  # whether Redis delivers the channel now, as far as we know
        self.refusal = ""  # why Redis refuses the channel, since it was last confirmed
        # Dictionaries for their order: those who came first are served first, and every run is alike.
        self.waiters: dict[Listener, None] = {}
        self._listeners: dict[Listener, None] = {}
        self.heard = False  # whether there are listeners: the fan-out asks for every message
        self.noticed: tuple[dict[Listener, None], ...] = ()  # whom each gap notice is for that is not written yet

    def __contains__(self, listener: Listener) -> bool:
        return listener in self._listeners

    def listeners(self) -> Collection[Listener]:
        """Those who listen, in the order in which they came: a view, which changes when one of them leaves."""
        return self._listeners.keys()

    @property
    def wanted(self) -> bool:
        """Whether somebody waits for it or listens to it."""
        return bool(self.waiters or self._listeners)

    def add(self, listener: Listener) -> None:
        """Let one that waits listen."""
        self.waiters.pop(listener, None)
        self._listeners[listener] = None
        self.heard = True

    def discard(self, listener: Listener) -> None:
        """Let somebody neither wait nor listen any more."""
        self.waiters.pop(listener, None)
        self._listeners.pop(listener, None)
        self.heard = bool(self._listeners)

    def swap(self, old: Listener, new: Listener) -> bool:
        """Let one listen in the place of another, at the end of the order; return whether the other did listen."""
        if old not in self._listeners:
            return False
        for listeners in (self._listeners, *self.noticed):
            if old in listeners:
                del listeners[old]
                listeners[new] = None
        return True


class TopicTable:
    """All topics of a worker, by name and by channel.

    Args:
        prefix: what stands before a topic's name in its channel's.
        subscribe: called with a channel when the first becomes interested in it. What Redis makes of it is told by
            `confirm` and `refuse`.
        unsubscribe: called with a channel when the last one has left it.
    """

    def __init__(
        self,
        prefix: str,
        subscribe: Callable[[bytes], None],
        unsubscribe: Callable[[bytes], None],
    ) -> None:
        self._prefix = prefix
        self._subscribe = subscribe
        self._unsubscribe = unsubscribe
        self._topics: dict[str, Topic] = {}
        self.channels: dict[bytes, Topic] = {}  # read by the fan-out, for every message
        self.marks: dict[bytes, Mark] = {}  # by channel; read by the fan-out, for messages of no topic

    def __len__(self) -> int:
        """How many topics there are, without marks."""
        return len(self._topics)

    def channel(self, name: str) -> bytes:
        """The channel of a topic, whether somebody is interested in it or not."""
        return (self._prefix + name).encode()

    def confirmed(self, name: str) -> bool:
        """Whether somebody is interested in a topic, and Redis delivers it now, as far as we know."""
        topic = self._topics.get(name)
        return topic is not None and topic.confirmed

    def wait(self, name: str, listener: Listener) -> None:
        """Make a listener wait for a topic.

        The answer comes by :meth:`Listener.topic_confirmed` or :meth:`Listener.topic_refused`: before this method
        returns if the answer is known, because others listen to the topic; else when Redis has answered.
        """
        topic = self._wanted(name)
        topic.waiters[listener] = None
        if topic.confirmed:
            listener.topic_confirmed(name)
        elif topic.refusal:
            self._refuse_waiter(topic, listener)

    def listen(self, name: str, listener: Listener) -> None:
        """Deliver a topic from now on to someone who waits for it."""
        self._topics[name].add(listener)

    def join(self, name: str, listener: Listener) -> None:
        """Deliver a topic from now on to somebody who has not waited for it: it listened in another process."""
        self._wanted(name).add(listener)

    def _wanted(self, name: str) -> Topic:
        """A topic that somebody becomes interested in, who may be the first."""
        topic = self._topics.get(name)
        if topic is None:
            topic = self._topics[name] = Topic(name, self.channel(name))
            self.channels[topic.channel] = topic
            self._subscribe(topic.channel)
        return topic

    def leave(self, name: str, listener: Listener) -> None:
        """Take a listener off a topic, whether it waits or listens; fine if it does neither."""
        topic = self._topics.get(name)
        if topic is None:
            return
        topic.discard(listener)
        if not topic.wanted:
            del self._topics[name]
            del self.channels[topic.channel]
            self._unsubscribe(topic.channel)

    def swap(self, name: str, old: Listener, new: Listener) -> bool:
        """Let one listen to a topic in the place of another. Redis hears nothing of it.

        From now on ``new`` gets what is in no pass yet, gap notices included. A pass in progress owes ``old`` what it
        had begun: swap behind a barrier (:meth:`~wsd.delivery.fanout.Fanout.barrier`), or settle with ``old`` first.

        Args:
            name: the topic.
            old: leaves it.
            new: comes, at the end of the order of those who listen; fine if it listens already.

        Returns:
            Whether ``old`` did listen; if not, nothing happens. One that waits does not listen.
        """
        topic = self._topics.get(name)
        return topic is not None and topic.swap(old, new)

    # Marks.

    def place(self, mark: Mark) -> None:
        """Subscribe to a mark. What Redis makes of it is told by the mark's callbacks, later.

        Raises:
            ValueError: if there is one on its channel already, or a topic.
        """
        if mark.channel in self.marks or mark.channel in self.channels:
            raise ValueError(f"the channel {mark.channel!r} is taken")
        self.marks[mark.channel] = mark
        self._subscribe(mark.channel)

    def remove(self, mark: Mark) -> None:
        """Be done with a mark, which is called no more; fine if it is not placed."""
        if self.marks.get(mark.channel) is mark:
            del self.marks[mark.channel]
            self._unsubscribe(mark.channel)

    # What Redis says.

    def confirm(self, channel: bytes) -> None:
        """Redis delivers a channel from now on: tell those who wait for it."""
        topic = self.channels.get(channel)
        if topic is None:
            if (mark := self.marks.get(channel)) is not None:
                mark.on_confirmed()
            return
        topic.confirmed = True
        topic.refusal = ""
        for waiter in list(topic.waiters):
            if waiter in topic.waiters:  # another's answer may have taken it off
                waiter.topic_confirmed(topic.name)

    def refuse(self, channel: bytes, reason: str) -> None:
        """Redis refuses a channel: tell those who wait for it, and take them off; tell those who listen, who stay.

        The channel is tried again as long as somebody listens. Those who listen are told once, until it is confirmed.
        """
        topic = self.channels.get(channel)
        if topic is None:
            if (mark := self.marks.get(channel)) is not None:
                mark.on_refused(reason)
            return
        news, topic.refusal, topic.confirmed = not topic.refusal, reason, False
        for waiter in list(topic.waiters):
            if waiter in topic.waiters:
                self._refuse_waiter(topic, waiter)
        for listener in list(topic.listeners()) if news else ():
            if listener in topic:  # another's answer may have taken it off
                listener.topic_refused(topic.name, reason)

    def _refuse_waiter(self, topic: Topic, waiter: Listener) -> None:
        refusal = topic.refusal
        self.leave(topic.name, waiter)
        waiter.topic_refused(topic.name, refusal)

    def unconfirm(self, channels: Iterable[bytes]) -> None:
        """These channels aren't delivered until they are confirmed again."""
        for channel in channels:
            if (topic := self.channels.get(channel)) is not None:
                topic.confirmed = False
            elif (mark := self.marks.get(channel)) is not None:
                mark.on_lost()
