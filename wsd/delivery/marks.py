"""Marks: where the messages of two workers are cut, so that a connection can move from one to the other.

A mark is a private channel to which both workers are subscribed at the same Redis server. Redis carries out one command
after another, and appends to what each subscriber gets in that order. So a message on the mark stands at the same place
among all others on both links: what came before is for the one worker, and what comes after it for the other.

A mark is no topic: no client can name it, it has no listeners, and it gets no gap notices. Its message is not counted
in ``messages``; its channel is counted among the channels at Redis while it is placed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Mark"]


def _ignore() -> None:
    """Stands for a callee when there is none."""


@dataclass(frozen=True, slots=True, eq=False)
class Mark:
    """A private channel, and whom to call about it.

    `wsd.delivery.topics.TopicTable` places it and removes it.
    """

    channel: bytes  # from `wsd.source.Source.private`, here or in the other worker
    on_confirmed: Callable[[], object]  # Redis delivers it from now on; again after it was lost
    on_refused: Callable[[str], object]  # with the reason, for people; it is tried again until it is removed
    on_mark: Callable[[bytes], object]  # with the payload, at once: the messages before it are in the fan-out
    on_lost: Callable[[], object] = _ignore  # it isn't delivered until it is confirmed again: its message may be missed
