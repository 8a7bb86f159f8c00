"""The marks of a hand-over: messages to ourselves that cut a stream in two.

Redis executes one command after another, and appends what is published to the buffers of all subscribers in that order.
So a message on a channel to which two links are subscribed stands at the same place among all other messages on both:
what comes before it is the giver's, what comes after it the taker's. No message needs a number.

There is one channel for each *stream*, which is a connection to Redis and what comes by it. Clients can't name it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial

from wsd.delivery.marks import Mark
from wsd.delivery.topics import TopicTable
from wsd.pipe import Message

__all__ = ["CONFIRM_PATIENCE", "Marks", "channel_of", "channels", "text", "wait_for"]

CONFIRM_PATIENCE = 1.0
"""Seconds for Redis to confirm topics and marks, and for a mark to come back. Then the cut is unknown."""


class Marks:
    """The marks of one side of a hand-over.

    Args:
        topics: where marks are subscribed.
        on_mark: called with the channel and the payload of a mark when it comes.
    """

    def __init__(self, topics: TopicTable, on_mark: Callable[[bytes, bytes], None]) -> None:
        self._topics = topics
        self._on_mark = on_mark
        self._marks: dict[bytes, Mark] = {}
        self._live: dict[bytes, asyncio.Event] = {}  # set while Redis delivers the channel

    def want(self, channel: bytes) -> None:
        """Subscribe to a channel, unless that has been done."""
        if channel in self._marks:
            return
        live = self._live[channel] = asyncio.Event()
        mark = self._marks[channel] = Mark(
            channel,
            on_confirmed=live.set,
            on_refused=_ignore,
            on_mark=partial(self._on_mark, channel),
            on_lost=live.clear,
        )
        self._topics.place(mark)

    def live(self, channel: bytes) -> bool:
        """Whether Redis delivers the channel."""
        return channel in self._live and self._live[channel].is_set()

    async def wait(self, channels: Iterable[bytes], seconds: float) -> None:
        """Wait until Redis delivers these channels, or the time is over."""
        await wait_for((self._live[channel] for channel in channels), seconds)

    def close(self) -> None:
        """Unsubscribe."""
        for mark in self._marks.values():
            self._topics.remove(mark)
        self._marks.clear()
        self._live.clear()


async def wait_for(events: Iterable[asyncio.Event], seconds: float) -> None:
    """Wait until all have happened, or the time is over."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            for event in events:
                await event.wait()


def text(channel: bytes) -> str:
    """A channel in JSON: any bytes, one to a letter."""
    return channel.decode("latin-1")


def channel_of(written: str) -> bytes:
    """The channel of which :func:`text` has made this."""
    return written.encode("latin-1")


def channels(message: Message, name: str) -> list[bytes]:
    """The channels that a message has under a name."""
    return [channel_of(str(written)) for written in message.get(name, ())]


def _ignore(reason: str) -> None:
    """It is tried again, and whoever waits for it gives up by itself."""
