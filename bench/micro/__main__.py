"""The command line: ``python -m bench.micro --help``.

The suite is run in rounds, and in each round each benchmark has a process. pyperf alone would finish one benchmark
before it begins the next, and on a noisy machine a bad minute would make one side of a ratio worse: the library's
handshake took 44 µs of CPU time in one run and 59 µs in the next.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pyperf

from bench.micro.suite import choose, unknown
from bench.micro.table import render

ROUNDS = 5
"""Each begins with new processes, because other addresses and hash seeds change results by some percent."""

PACE = ("--values=3", "--min-time=0.03")
"""Of a round: values for each benchmark, and the seconds of CPU for each value."""

PACE_FAST = ("--values=3", "--min-time=0.01")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.micro",
        description="Measure what the steps of wsd cost, each with its reference beside it.",
        epilog="Other options go to pyperf: see python -m bench.micro.measure --help.",
        allow_abbrev=False,
    )
    parser.add_argument("--fast", action="store_true", help="rough numbers within a minute or so: one short round")
    parser.add_argument(
        "--rounds", type=_rounds, default=ROUNDS, help="how often to measure all (default: %(default)s)"
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="the benchmarks with these words in their name")
    parser.add_argument("-o", "--output", type=Path, help="keep the results, for python -m pyperf compare_to")
    args, rest = parser.parse_known_args(argv)
    if not choose(args.only):
        parser.error(f"--only: {unknown(args.only)}")
    if args.output is not None and args.output.exists():
        parser.error(f"--output: {args.output} exists already")
    if args.output is not None and not args.output.parent.is_dir():
        parser.error(f"--output: there is no directory {args.output.parent}")
    with tempfile.TemporaryDirectory() as scratch:
        kept = args.output or Path(scratch) / "results.json"
        command = [
            sys.executable,
            "-m",
            "bench.micro.measure",
            f"--only={args.only}",
            f"--append={kept}",
            "--processes=1",
        ]
        command += (*(PACE_FAST if args.fast else PACE), *rest)
        for _ in range(1 if args.fast else args.rounds):
            status = subprocess.run(command, check=False).returncode
            if status:
                return status
        print(_table(kept, args.only))
    return 0


def _rounds(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1")
    return int(text)


def _table(kept: Path, only: str) -> str:
    """The medians of everything that was kept."""
    medians = {benchmark.get_name(): benchmark.median() for benchmark in pyperf.BenchmarkSuite.load(str(kept))}
    results = []
    for comparison in choose(only):
        seconds = {subject: medians[comparison.title(subject)] for subject in comparison.subjects()}
        results.append((comparison, seconds))
    return render(results)


if __name__ == "__main__":
    sys.exit(main())
