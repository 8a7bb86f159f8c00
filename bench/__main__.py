"""The command line: ``python -m bench --help``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.measuring import Refused, measure
from bench.report.compare import compare
from bench.report.page import headline, render
from bench.report.saved import UnusableFile, load, save
from bench.report.sizing import table
from bench.rows.registry import SUITES

RESULTS = Path(__file__).parent / "results"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 2 for wrong arguments, 1 for files and runs that are of no use."""
    args = _parser().parse_args(argv)
    try:
        return int(args.run(args))
    except UnusableFile as exc:
        return _fail(1, str(exc))
    except KeyboardInterrupt:
        return _fail(130, "interrupted: nothing is kept")


def _fail(status: int, text: str) -> int:
    print(f"bench: {text}", file=sys.stderr)
    return status


def _measure(args: argparse.Namespace) -> int:
    try:
        return measure(args)
    except Refused as exc:
        args.refuse(str(exc))
        raise AssertionError("it exits") from exc


def _compare(args: argparse.Namespace) -> int:
    print(compare(load(args.before), load(args.after)))
    return 0


def _size(args: argparse.Namespace) -> int:
    try:
        print(table(load(args.result)["results"]))
    except ValueError as exc:
        raise UnusableFile(f"{args.result}: {exc}") from None
    return 0


def _headline(args: argparse.Namespace) -> int:
    drawn = headline(load(args.result))
    if not drawn:
        raise UnusableFile(f"{args.result}: nothing to draw: no row with 1,000 subscribers of 100 bytes was measured")
    save(args.plot, drawn)
    return 0


def _report(args: argparse.Namespace) -> int:
    document = load(args.result)
    page = args.result.with_suffix(".html")
    save(page, render(document))
    print(page)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure wsd, and others beside it.")
    commands = parser.add_subparsers(dest="command", required=True)
    for suite in SUITES.values():
        run = commands.add_parser(suite.name, help=f"measure: {suite.words}")
        run.add_argument("--output", type=Path, default=RESULTS, help="directory for the JSON and the HTML page")
        run.add_argument("--servers", type=_names, default=(), help="comma list; default: all that are installed")
        run.add_argument(
            "--rows", type=_names, default=(), help="comma list of rows, such as single,storm; default: all"
        )
        run.add_argument(
            "--again", type=_count, default=0, help="times to measure again what was disturbed; default: 0"
        )
        run.add_argument(
            "--repeat", type=_count, default=0, help="repetitions of every cell; default: as the suite has it"
        )
        run.set_defaults(run=_measure, refuse=run.error)
    both = commands.add_parser("compare", help="set two results side by side")
    both.add_argument("before", type=Path)
    both.add_argument("after", type=Path)
    both.set_defaults(run=_compare)
    plot = commands.add_parser("headline", help="draw the README's plot: share of a core, and latency, against rate")
    plot.add_argument("result", type=Path)
    plot.add_argument("plot", type=Path, help="the SVG file")
    plot.set_defaults(run=_headline)
    one = commands.add_parser("report", help="make the HTML page of a result anew")
    one.add_argument("result", type=Path)
    one.set_defaults(run=_report)
    size = commands.add_parser("size", help="how many cores and how much memory a fleet needs, from a result")
    size.add_argument("result", type=Path)
    size.set_defaults(run=_size)
    return parser


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise argparse.ArgumentTypeError(f"{text!r} names nothing")
    return names


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
