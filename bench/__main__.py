"""The command line: ``python -m bench --help``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.measuring import Refused, Wanted, check, measure, print_goals, publish
from bench.report.compare import Comparison
from bench.report.page import headline
from bench.report.saved import UnusableFile, load, save
from bench.report.sizing import table
from bench.rows.listing import listing
from bench.rows.registry import SUITES

RESULTS = Path(__file__).parent / "results"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status.

    It is 2 for wrong arguments; 1 for files and runs that are of no use, for goals that fall short (``--check``), and
    for what got worse (``compare``, ``--against``).
    """
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
    wanted = Wanted(
        suite=SUITES[args.command],
        output=args.output,
        rows=args.rows,
        servers=args.servers,
        again=args.again,
        repeat=args.repeat,
        against=args.against,
        threshold=args.threshold / 100,
        check=args.check,
        csv=args.csv,
        hdr=args.hdr,
        profile=args.profile,
    )
    try:
        return measure(wanted)
    except Refused as exc:
        args.refuse(str(exc))
        raise AssertionError("it exits") from exc


def _compare(args: argparse.Namespace) -> int:
    comparison = Comparison(load(args.before), load(args.after))
    print(comparison.text(args.threshold / 100))
    return comparison.status(args.threshold / 100)


def _check(args: argparse.Namespace) -> int:
    document = load(args.result)
    print_goals(document["goals"])
    return check(document)


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
    for made in publish(args.result, load(args.result), csv=args.csv, hdr=args.hdr):
        print(made)
    return 0


class _List(argparse.Action):
    """``--list``: like ``--help``, it prints and ends."""

    def __call__(self, parser: argparse.ArgumentParser, *rest: object) -> None:
        print(listing())
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure wsd, and others beside it.")
    parser.add_argument("--list", action=_List, nargs=0, help="print the rows, their loads, servers and goals")
    commands = parser.add_subparsers(dest="command", required=True)
    for suite in SUITES.values():
        _add_suite(commands.add_parser(suite.name, help=f"measure: {suite.words}"))
    both = commands.add_parser("compare", help="set two results side by side; 1 if the second is worse")
    both.add_argument("before", type=Path)
    both.add_argument("after", type=Path)
    _add_threshold(both)
    both.set_defaults(run=_compare)
    held = commands.add_parser("check", help="print the goals of a result; 1 if one falls short")
    held.add_argument("result", type=Path)
    held.set_defaults(run=_check)
    plot = commands.add_parser("headline", help="draw the README's plot: share of a core, and latency, against rate")
    plot.add_argument("result", type=Path)
    plot.add_argument("plot", type=Path, help="the SVG file")
    plot.set_defaults(run=_headline)
    one = commands.add_parser("report", help="make the HTML page of a result anew")
    one.add_argument("result", type=Path)
    _add_formats(one)
    one.set_defaults(run=_report)
    size = commands.add_parser("size", help="how many cores and how much memory a fleet needs, from a result")
    size.add_argument("result", type=Path)
    size.set_defaults(run=_size)
    return parser


def _add_suite(run: argparse.ArgumentParser) -> None:
    add = run.add_argument
    add("--output", type=Path, default=RESULTS, metavar="DIRECTORY", help="where results are left")
    add("--servers", type=_names, default=(), help="comma list; default: all that are installed")
    add("--rows", type=_names, default=(), help="comma list of rows, such as single,storm; default: all")
    add("--again", type=_count, default=0, help="times to measure again what was disturbed; default: 0")
    add("--repeat", type=_count, default=0, help="repetitions of every cell; default: as the suite has it")
    add("--check", action="store_true", help="exit with 1 if a goal falls short, with 2 if none was measured")
    add(
        "--against",
        type=Path,
        metavar="CHECKOUT",
        help="another checkout, whose wsd is measured in turn with this one; exit with 1 if this one is worse",
    )
    _add_threshold(run)
    _add_formats(run)
    add("--profile", action="store_true", help="leave a flame graph of each server that is a program of Python")
    run.set_defaults(run=_measure, refuse=run.error)


def _add_threshold(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threshold",
        type=_percent,
        default=5.0,
        metavar="PERCENT",
        help="how much worse it may be, if that is more than noise; default: 5",
    )


def _add_formats(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--csv", action="store_true", help="leave a table of all numbers, too")
    parser.add_argument("--hdr", action="store_true", help="leave the latencies as logs of HdrHistogram, too")


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise argparse.ArgumentTypeError(f"{text!r} names nothing")
    return names


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0")
    return int(text)


def _percent(text: str) -> float:
    try:
        percent = float(text)
    except ValueError:
        percent = -1.0
    if not 0 <= percent < 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is no percentage from 0")
    return percent


if __name__ == "__main__":
    sys.exit(main())
