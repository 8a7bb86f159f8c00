"""The command line: ``python -m tests.faults --help``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tests.faults.scene import Row
from tests.faults.suite import names, run
from tests.faults.table import render


def main(argv: Sequence[str] | None = None) -> int:
    """Play the faults and print the table; return 0 if all is as it must be."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="Play faults and print what happened.")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="faults whose names contain one of these")
    parser.add_argument("--times", type=int, default=1, metavar="N", help="let each strike N times, and look for leaks")
    parser.add_argument("--log", action="store_true", help="print the daemon's log of what failed")
    parser.add_argument("--list", action="store_true", help="list the names")
    args = parser.parse_args(argv)
    if args.list:
        sys.stdout.write("\n".join(names()) + "\n")
        return 0
    rows = run(lambda name: not args.only or any(part in name for part in args.only), args.times, _report)
    sys.stdout.write(render(rows))
    for row in rows:
        if args.log and row.problems:
            sys.stdout.write(f"\n{row.name}:\n{''.join(row.log)}")
    return int(any(row.problems for row in rows))


def _report(row: Row) -> None:
    """Say that a fault has been played: the table comes at the end, and that may be an hour away."""
    sys.stderr.write(f"{row.name}: {'FAILED' if row.problems else 'skipped' if row.skipped else 'ok'}\n")


if __name__ == "__main__":
    sys.exit(main())
