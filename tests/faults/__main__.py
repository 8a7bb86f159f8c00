"""The command line: ``python -m tests.faults --help``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tests.faults.suite import names, run
from tests.faults.table import render
from tests.lib import suites


def main(argv: Sequence[str] | None = None) -> int:
    """Play the faults and print the table; return 0 if all is as it must be."""
    args = suites.parser("tests.faults", "faults").parse_args(argv)
    return suites.play(args, names(), lambda wanted, on_row: run(wanted, args.times, on_row), render)


if __name__ == "__main__":
    sys.exit(main())
