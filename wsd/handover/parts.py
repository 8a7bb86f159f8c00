"""What a hand-over needs of a worker, and what it says when it is over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from wsd.clients.connection import Shared
from wsd.clients.gateway import Gateway
from wsd.source import Source

__all__ = ["Given", "Parts", "Taken"]


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a worker that take part in a hand-over."""

    gateway: Gateway
    shared: Shared
    source: Source
    naming: str  # how channels are named from topics, and of which kind they are: two workers must agree on that
    room: Callable[[], int]  # how many more connections there are descriptors for


@dataclass(frozen=True, slots=True)
class Given:
    """What became of a hand-over, for the one who gave."""

    moved: int  # connections that another process has now
    gaps: Mapping[str, int]  # those of them that may have missed messages, by why the cut was unknown
    left: int  # connections that should have moved, and stayed
    reason: str  # why they stayed; "" if none did


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a hand-over, for the one who took."""

    moved: int
    gaps: Mapping[str, int]
    reason: str
