"""Tables in Markdown that can be read as they are, so that a paper can have them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

__all__ = ["table"]

NARROWEST = 3
"""Letters of a column: three hyphens are a rule for every reader of Markdown."""


def table(head: Sequence[str], lines: Sequence[Sequence[str]], text: Collection[int]) -> str:
    """Make a table.

    Args:
        head: the names of the columns.
        lines: their cells. The last column is not padded, because what is remarkable is seldom short.
        text: columns that begin at the left; the others are numbers.
    """
    widths = [max(NARROWEST, *(len(line[column]) for line in (head, *lines))) for column in range(len(head))]
    widths[-1] = NARROWEST
    rule = ["-" * width if column in text else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    return "".join(_line(cells, widths, text) for cells in (head, rule, *lines))


def _line(cells: Sequence[str], widths: Sequence[int], text: Collection[int]) -> str:
    aligned = (
        cell.ljust(width) if column in text else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return f"| {' | '.join(aligned)} |\n"
