"""The command line: ``python -m tests.handover --help``."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence

from tests.handover.suite import names, run
from tests.handover.table import render
from tests.lib import suites


def main(argv: Sequence[str] | None = None) -> int:
    """Play the scenarios and print the table; return 0 if all is as it must be."""
    parser = suites.parser("tests.handover", "scenarios")
    parser.add_argument("--seed", type=int, help="what is done by chance is done as in the row with this seed")
    args = parser.parse_args(argv)
    seed = args.seed or random.randrange(1, 10_000)
    return suites.play(args, names(), lambda wanted, on_row: run(wanted, seed, args.times, on_row), render)


if __name__ == "__main__":
    sys.exit(main())
