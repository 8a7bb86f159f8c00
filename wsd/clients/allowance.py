"""What somebody may still do for now: so much a second, and some at once. A token bucket."""

from __future__ import annotations

__all__ = ["Allowance"]


class Allowance:
    """An allowance that is spent by what is done, and earned back by time.

    Args:
        rate: how much is earned a second; 0 switches the limit off.
        burst: the most that is saved up. At least 1, at any rate.
        now: the monotonic time in seconds; the allowance is full.
    """

    __slots__ = ("_burst", "_charged_at", "_rate", "left")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = max(burst, 1.0)
        self.left = self._burst  # what may be spent now; below 0 when more was spent than there was
        self._charged_at = now  # until when what was earned is counted

    def charge(self, now: float) -> float:
        """Spend 1.

        Returns:
            Seconds until the allowance is not overdrawn any more: 0 if it isn't.
        """
        rate = self._rate
        if not rate:
            return 0.0
        earned = (now - self._charged_at) * rate
        self._charged_at = now
        self.left = min(self.left + earned, self._burst) - 1
        return -self.left / rate if self.left < 0 else 0.0

    def left_at(self, now: float) -> float | None:
        """What may be spent at a time, for a record; None if the limit is off."""
        return min(self.left + (now - self._charged_at) * self._rate, self._burst) if self._rate else None

    def resume(self, left: float | None) -> None:
        """Go on with what was left when a record was made, as far as this limit lets anyone save up."""
        if left is not None and self._rate:
            self.left = min(left, self._burst)
