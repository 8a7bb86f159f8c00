"""What listens in the place of a connection while the connection is between two processes."""

from __future__ import annotations

from wsd.delivery.fanout import Bounds

__all__ = ["StandIn"]


class StandIn:
    """Keeps what is due to a connection. A `wsd.delivery.topics.Listener`.

    The frames are the fan-out's own, shared with all others who are due them, so to keep them costs references.

    Args:
        bounds: what may be kept.
    """

    __slots__ = ("_bounds", "_kept", "_most", "frames", "overrun", "refused")

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self.refused: dict[str, str] = {}  # topics that Redis has refused meanwhile, and why
        self.forget()

    def forget(self) -> None:
        """Begin to keep anew: what has come until now is not due to the connection."""
        self._most = self._bounds.max_backlog
        self._kept = 0  # bytes
        self.frames: list[bytes] = []  # in order; several messages may be joined in one
        self.overrun = False  # whether more was due than may be kept; then nothing is

    def write(self, data: bytes, /) -> None:
        """Keep frames."""
        self._most = max(self._most, self._bounds.most(len(data)))
        self._kept += len(data)
        if self._kept > self._most:
            self.overrun = True
            self.frames.clear()
        else:
            self.frames.append(data)

    def topic_confirmed(self, topic: str) -> None:
        """It waits for nothing."""

    def topic_refused(self, topic: str, reason: str) -> None:
        """Redis refuses a topic that it listens to: the connection will be told."""
        self.refused[topic] = reason
