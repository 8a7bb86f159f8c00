"""The command line: ``python -m bench --help``."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.load.control import GeneratorError
from bench.measure.machine import describe
from bench.measure.run import Cores, Result
from bench.names import nearest
from bench.report.compare import compare
from bench.report.page import headline, render
from bench.report.saved import UnusableFile, load, save
from bench.report.sizing import table
from bench.rows.goals import evaluate
from bench.rows.scenarios import SUITES, Cell, in_turn
from bench.servers.catalogue import SERVERS
from bench.servers.process import ServerError

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
    for name, text in (("quick", "about two minutes on two cores"), ("full", "the grid: about forty minutes")):
        run = commands.add_parser(name, help=f"measure: {text}")
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
        run.set_defaults(run=_run, refuse=run.error)
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


def _run(args: argparse.Namespace) -> int:
    absent = {name: why for name, kind in SERVERS.items() if (why := kind.absent())}
    cells = _chosen(SUITES[args.command](), args, absent)
    _make_directory(args.output)
    for name, why in absent.items():
        print(f"left out: {name}: {why}")
    cores = Cores.split()
    if not cores.server:
        print("This machine has one core: servers and generators get in each other's way. Take only ratios from it.")
    began = datetime.now(UTC)
    results = _measure(cells, cores, args.again)
    if not results:
        return _fail(1, "nothing could be measured: no result is kept")
    document = {
        "suite": args.command,
        "began": began.isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "bench", *sys.argv[1:]]),
        "machine": describe(),
        "cores": {"server": cores.server, "load": cores.load},
        "absent": absent,
        "results": results,
        "goals": [goal.dump() for goal in evaluate(results)],
    }
    path = args.output / f"{args.command}-{began:%Y%m%d-%H%M%S}.json"
    save(path, json.dumps(document, indent=1))
    save(path.with_suffix(".html"), render(document))
    _print_goals(document)
    print(f"\n{path}\n{path.with_suffix('.html')}")
    if len(results) < len(cells):
        return _fail(1, f"{len(cells) - len(results)} of {len(cells)} measurements failed")
    return 0


def _make_directory(path: Path) -> None:
    """Make the directory of the results, before an hour is spent on them."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise UnusableFile(f"{path}: no directory for results: {exc.strerror}") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise UnusableFile(f"{path}: no directory for results: nothing can be written there")


def _check_names(args: argparse.Namespace, flag: str, given: Collection[str], known: Collection[str]) -> None:
    for name in given:
        if name not in known:
            args.refuse(f"{flag}: there is no {name!r} in this suite; {nearest(name, known)}")


def _chosen(cells: list[Cell], args: argparse.Namespace, absent: dict[str, str]) -> list[Cell]:
    _check_names(args, "--rows", args.rows, list(dict.fromkeys(cell.row for cell in cells)))
    _check_names(args, "--servers", args.servers, list(dict.fromkeys(cell.server for cell in cells)))
    for name in args.servers:
        if name in absent:
            args.refuse(f"--servers: {name} can't be measured here: {absent[name]}")
    chosen = [
        cell
        for cell in cells
        if cell.server not in absent
        and (not args.servers or cell.server in args.servers)
        and (not args.rows or cell.row in args.rows)
    ]
    if not chosen:
        where = sorted({cell.row for cell in cells if cell.server in args.servers})
        args.refuse(f"none of these servers is measured in these rows; they are in: {', '.join(where)}")
    ordered = in_turn(chosen)
    return [cell for cell in dict.fromkeys(ordered) for _ in range(args.repeat)] if args.repeat else ordered


def _measure(cells: list[Cell], cores: Cores, again: int) -> list[Result]:
    results = []
    for number, cell in enumerate(cells, 1):
        begin = time.monotonic()
        try:
            for _ in range(again + 1):
                result = cell.measure(cores)
                if "disturbed" not in result["verdicts"]:
                    break
        except (ServerError, GeneratorError) as exc:
            # One server that fails isn't worth the hour that the others took.
            print(f"{number:3}/{len(cells)} {cell.title}: FAILED: {exc}", flush=True)
            continue
        results.append(result)
        took = time.monotonic() - begin
        print(f"{number:3}/{len(cells)} {cell.title}: {_summary(result)} ({took:.1f} s)", flush=True)
    return results


def _summary(result: Result) -> str:
    parts = []
    if cost := result.get("cpu_per_delivery_us"):
        parts += [f"{result['rate']:,.0f}/s", f"{cost:.2f} µs CPU each"]
        if (p99 := result["latency_us"]["p99"]) is not None:
            parts.append(f"p99 {p99 / 1000:.1f} ms")
    elif result["kind"] == "burst":
        parts += [f"{result['seconds']:.2f} s", f"longest stop {1000 * result['stops']['longest']:.1f} ms"]
        parts += [f"memory +{result['memory_growth'] / 2**20:.1f} MiB", f"CPU {result['cpu']:.2f} s"]
    else:
        parts += [f"{result['setup']['subscribed']:,} subscribed in {result['setup']['seconds']:.2f} s"]
        if cost := result["setup"]["cpu_per_session_us"]:
            parts.append(f"{cost:.0f} µs CPU each")
    return ", ".join([*parts, *(f"! {verdict}" for verdict in result["verdicts"])])


def _print_goals(document: dict[str, Any]) -> None:
    print()
    for goal in document["goals"]:
        mark = {True: "met        ", False: "FALLS SHORT", None: "-          "}[goal["met"]]
        value = "not measured" if goal["value"] is None else f"{goal['value']:.2f} {goal['unit']}"
        sign = ">=" if goal["at_least"] else "<="
        print(f"{mark} {goal['work']}: {goal['measure']}: {value} ({sign} {goal['limit']:g}) {goal['note']}")
        if goal["tried"]:
            print(f"            tried: {goal['tried']}")


if __name__ == "__main__":
    sys.exit(main())
