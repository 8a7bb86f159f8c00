"""What a source of messages has said."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tests.lib.waiting import eventually
from wsd.metrics import Metrics
from wsd.source import Events

__all__ = ["Recorder"]


class Recorder:
    """Keeps what a link, or a source of several links, has said, in order, and what it has counted."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.metrics = Metrics()
        self.calls = Events(self.message, self.confirmed, self.refused, self.lost)  # what to give to it

    def message(self, channel: bytes, payload: bytes) -> None:
        """See :attr:`Events.on_message`."""
        self.events.append(("message", channel, payload))

    def confirmed(self, channel: bytes, gap: bool) -> None:
        """See :attr:`Events.on_confirmed`."""
        self.events.append(("gap" if gap else "confirmed", channel))

    def refused(self, channel: bytes, reason: str) -> None:
        """See :attr:`Events.on_refused`."""
        self.events.append(("refused", channel))

    def lost(self, channels: Iterable[bytes]) -> None:
        """See :attr:`Events.on_lost`."""
        self.events.append(("lost",))

    async def until(self, *event: object) -> None:
        """Wait until something has been said."""
        await eventually(lambda: event in self.events, str(event))

    def count(self, kind: str) -> int:
        """How often something of a kind has been said."""
        return sum(event[0] == kind for event in self.events)
