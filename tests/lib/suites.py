"""The command of a suite: play things by their names, print the table of what happened, fail if anything did."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

__all__ = ["Outcome", "parser", "play", "verdict"]


class Outcome(Protocol):
    """What a row of the table tells."""

    name: str
    problems: list[str]
    remarks: list[str]
    skipped: str
    log: list[str]


R = TypeVar("R", bound=Outcome)


def parser(module: str, things: str) -> argparse.ArgumentParser:
    """The options that all suites have.

    Args:
        module: the suite.
        things: what it plays.
    """
    made = argparse.ArgumentParser(prog=f"python -m {module}", description=f"Play {things} and print what happened.")
    made.add_argument("--only", nargs="+", metavar="NAME", help=f"{things} whose names contain one of these")
    made.add_argument("--times", type=int, default=1, metavar="N", help="let each happen N times, and look for leaks")
    made.add_argument("--log", action="store_true", help="print the daemon's log of what failed")
    made.add_argument("--list", action="store_true", help="list the names")
    return made


def play(
    args: argparse.Namespace,
    names: Sequence[str],
    run: Callable[[Callable[[str], bool], Callable[[R], object]], list[R]],
    render: Callable[[Sequence[R]], str],
) -> int:
    """Play what was chosen and print the table; return 0 if all is as it must be.

    Args:
        args: what the :func:`parser` has made of the command line.
        names: of all that can be played.
        run: plays; it takes what says whether a name is wanted, and what is to be called with each row.
        render: makes the table.
    """
    if args.list:
        sys.stdout.write("\n".join(names) + "\n")
        return 0
    rows = run(lambda name: not args.only or any(part in name for part in args.only), _report)
    sys.stdout.write(render(rows))
    for row in rows:
        if args.log and row.problems:
            sys.stdout.write(f"\n{row.name}:\n{''.join(row.log)}")
    return int(any(row.problems for row in rows))


def _report(row: Outcome) -> None:
    """Say that one has been played: the table comes at the end, and that may be an hour away."""
    sys.stderr.write(f"{row.name}: {'FAILED' if row.problems else 'skipped' if row.skipped else 'ok'}\n")


def verdict(row: Outcome) -> str:
    """The last cell of a row."""
    if row.skipped:
        return f"skipped: {row.skipped}"
    return "; ".join([*(f"FAILED: {problem}" for problem in row.problems), *row.remarks]) or "ok"
