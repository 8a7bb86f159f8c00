"""Fences: behind them nothing can come that Redis had for a link before.

Redis appends what it answers, and what is published, to one buffer for each connection. So when a SUBSCRIBE is
answered, all that was published before has come. This needs no permission to publish, and a refusal is an answer, too.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable

from wsd.delivery.marks import Mark
from wsd.delivery.topics import TopicTable
from wsd.handover.marks import wait_for
from wsd.source import Source

__all__ = ["FENCE_PATIENCE", "pass_fences"]

FENCE_PATIENCE = 3.0
"""Seconds until a link that does not answer is made again, because what it has yet to bring could come twice. Nobody
answers the clients meanwhile that are on their way, so it is given up sooner than by the heartbeat."""


async def pass_fences(topics: TopicTable, source: Source, names: Iterable[str]) -> None:
    """Wait until all that Redis had for some topics when this was called has come, or never can.

    Args:
        topics: where fences are subscribed.
        source: what delivers the topics. Whether it is up says nothing: a Cluster that says that it is down goes on
            delivering.
        names: of the topics.
    """
    name = f"fence:{secrets.token_hex(8)}"
    streams = {source.stream(topics.channel(topic)) for topic in names}
    if "" in streams:  # what is asked for and not confirmed comes behind its confirmation, by whatever link
        streams = set(source.streams)
    fences = [_Fence(source, stream, channel) for stream in streams if (channel := source.private(stream, name))]
    for fence in fences:
        topics.place(fence.mark)
    await wait_for((fence.passed for fence in fences), FENCE_PATIENCE)
    for fence in fences:
        topics.remove(fence.mark)
        if not fence.passed.is_set():
            source.renew(fence.stream, f"no answer to a SUBSCRIBE for {FENCE_PATIENCE:g} s")


class _Fence:
    """A channel to which a link subscribes, and whether Redis has answered.

    Args:
        source: of the link.
        stream: that must not be ahead.
        channel: on that stream.
    """

    def __init__(self, source: Source, stream: str, channel: bytes) -> None:
        self.stream = stream
        self.passed = asyncio.Event()
        self.mark = Mark(
            channel,
            on_confirmed=self._on_confirmed,
            on_refused=lambda reason: self.passed.set(),
            on_mark=lambda payload: None,
        )
        self._source = source

    def _on_confirmed(self) -> None:
        # Another server than the one that was asked says nothing about what that one had.
        if self._source.stream(self.mark.channel) == self.stream or self.stream not in self._source.streams:
            self.passed.set()
