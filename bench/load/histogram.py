"""Latencies in fixed buckets, which add up over connections, processes and machines.

The layout is that of HdrHistogram with five bits: up to 64 µs a bucket is 1 µs wide, then each power of two has 32
buckets, so a value is known to 3 %. Percentiles of merged histograms are exact to that, which percentiles of
percentiles never are.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["Histogram"]

_BITS = 5
_BUCKETS = 1 << _BITS  # per power of two


def bucket(value: int) -> int:
    """Number of the bucket of a value, in microseconds."""
    shift = max(value.bit_length() - _BITS - 1, 0)
    return (shift << _BITS) + (value >> shift)


def middle(number: int) -> float:
    """The value in the middle of a bucket, in microseconds."""
    shift = max((number >> _BITS) - 1, 0)
    low = (number - (shift << _BITS)) << shift
    return low + ((1 << shift) - 1) / 2


class Histogram:
    """Counts values in microseconds.

    Args:
        counts: what :meth:`dump` gave, keys as numbers or as text.
    """

    __slots__ = ("counts",)

    def __init__(self, counts: Mapping[int, int] | Mapping[str, int] | None = None) -> None:
        self.counts: dict[int, int] = {int(number): count for number, count in (counts or {}).items()}

    def __len__(self) -> int:
        return sum(self.counts.values())

    def add(self, value: int) -> None:
        """Count a value; one below zero counts as zero."""
        number = bucket(max(value, 0))
        self.counts[number] = self.counts.get(number, 0) + 1

    def merge(self, other: Histogram) -> None:
        """Add what another counted."""
        for number, count in other.counts.items():
            self.counts[number] = self.counts.get(number, 0) + count

    def since(self, before: Histogram) -> Histogram:
        """What was counted after an earlier copy of this histogram."""
        counts = {number: count - before.counts.get(number, 0) for number, count in self.counts.items()}
        return Histogram({number: count for number, count in counts.items() if count})

    def percentile(self, percent: float, above: int = 0) -> float | None:
        """The value, in microseconds, that so many percent don't exceed; None without values.

        Args:
            percent: of the values.
            above: how many values the other percent must be, for the answer not to be None.
        """
        rank = round(len(self) * percent / 100, 6)
        if not self.counts or len(self) - rank < above:
            return None
        seen = 0
        for number in sorted(self.counts):
            seen += self.counts[number]
            if seen >= rank:
                return middle(number)
        return middle(max(self.counts))

    def dump(self) -> dict[str, int]:
        """The counts, for JSON."""
        return {str(number): self.counts[number] for number in sorted(self.counts)}
