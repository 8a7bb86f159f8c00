"""The results as text: one line for each reference."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from bench.micro.work import Comparison

__all__ = ["Seconds", "render"]

Seconds = Mapping[str, float]
"""What was measured, per unit, by the name of the subject."""

HEADINGS = ("benchmark", "per", "wsd", "reference", "", "wsd/reference")


def render(results: Iterable[tuple[Comparison, Seconds]]) -> str:
    """Draw the table.

    Args:
        results: comparisons with what was measured.
    """
    rows = [HEADINGS, *(row for comparison, seconds in results for row in _rows(comparison, seconds))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    # Names to the left, numbers to the right.
    sides = "<<><>>"
    lines = [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)) for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _rows(comparison: Comparison, seconds: Seconds) -> Iterator[tuple[str, ...]]:
    first = (comparison.name, comparison.unit, _time(seconds["wsd"]))
    for reference in comparison.references:
        ratio = seconds["wsd"] / seconds[reference]
        yield *first, reference, _time(seconds[reference]), f"{ratio:.3f}"
        first = ("", "", "")


def _time(seconds: float) -> str:
    """Three digits."""
    if seconds < 1e-6:
        return f"{seconds * 1e9:.3g} ns"
    microseconds = seconds * 1e6
    return f"{microseconds:.0f} µs" if microseconds >= 100 else f"{microseconds:.3g} µs"
