"""The delivery probe: a numbered message that a link publishes to itself. Without I/O.

A server that answers PING may deliver nothing all the same: a subscription may have died with a failover, or a proxy
may have lost its way. So what is probed is delivery: on a private channel that no client can name, a number is
published, and it must come back as a message.
"""

from __future__ import annotations

import math

__all__ = ["Probe"]


class Probe:
    """What is known about delivery on one link.

    Times are ``time.monotonic()``, because uvloop's clock stands still within a pass and counts milliseconds.
    """

    def __init__(self) -> None:
        self.channel = b""  # the private channel; empty: none on this connection yet
        self.live = False  # whether Redis has confirmed it
        self.off = ""  # why this connection can't be probed
        self.returned_at: float | None = None  # when the last one came back; None: none has, on this connection
        self.round_trip = math.nan  # of the last one that came back, in seconds
        self._number = 0  # of the last one sent
        self._sent_at: float | None = None  # None: it came back
        # Whether any other message has come since the probe was sent. Under load the probe waits behind the messages.
        self.delivering = False

    def reset(self) -> None:
        """There is a new connection, or a new private channel."""
        self.channel, self.live, self.off = b"", False, ""
        self.returned_at = self._sent_at = None
        self.round_trip = math.nan

    def changed(self, subscribed: bool) -> None:
        """Redis has subscribed the private channel, or has taken it away."""
        self.live = subscribed
        if not subscribed:
            self.reset()

    def next(self, now: float) -> str:
        """Return the payload to publish now, or ``""`` if it isn't time for one."""
        if not self.live or self.off or self._sent_at is not None:
            return ""
        self._number += 1
        self._sent_at = now
        self.delivering = False
        return str(self._number)

    def returned(self, payload: bytes, now: float) -> None:
        """A message has come on the private channel."""
        if self._sent_at is not None and payload == b"%d" % self._number:
            self.returned_at, self.round_trip = now, now - self._sent_at
            self._sent_at = None

    def overdue(self, now: float, deadline: float) -> str:
        """Say why the subscription must be dead, or ``""``.

        Args:
            now: the time.
            deadline: seconds that a probe may take while nothing else is delivered.
        """
        if self._sent_at is None or now - self._sent_at <= deadline:
            return ""
        if self.delivering:
            self._sent_at, self.delivering = now, False
            return ""
        return f"nothing is delivered: probe {self._number} has not come back for {now - self._sent_at:.1f} s"

    def describe(self, now: float) -> str:
        """Say for people how it stands."""
        if self.off:
            return f"not probed: {self.off}"
        age = self.age(now)
        if age is None:
            return "not probed yet"
        return f"probe came back in {self.round_trip * 1000:.1f} ms, {age:.1f} s ago"

    def age(self, now: float) -> float | None:
        """Seconds since the last one came back; None if none has."""
        return None if self.returned_at is None else now - self.returned_at
