"""The command line: ``python -m bench --help``."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.compare import compare
from bench.control import GeneratorError
from bench.goals import evaluate
from bench.machine import describe
from bench.report import headline, render
from bench.run import Cores, Result
from bench.scenarios import SUITES, Cell, in_turn
from bench.servers import SERVERS, ServerError
from bench.sizing import table

RESULTS = Path(__file__).parent / "results"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    args = _parser().parse_args(argv)
    if args.command == "compare":
        print(compare(_load(args.before), _load(args.after)))
    elif args.command == "size":
        print(table(_load(args.result)["results"]))
    elif args.command == "headline":
        args.plot.write_text(headline(_load(args.result)))
    elif args.command == "report":
        page = args.result.with_suffix(".html")
        page.write_text(render(_load(args.result)))
        print(page)
    else:
        return _run(args)
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
        run.add_argument("--again", type=int, default=0, help="times to measure again what was disturbed; default: 0")
        run.add_argument(
            "--repeat", type=int, default=0, help="repetitions of every cell; default: as the suite has it"
        )
    both = commands.add_parser("compare", help="set two results side by side")
    both.add_argument("before", type=Path)
    both.add_argument("after", type=Path)
    plot = commands.add_parser("headline", help="draw the README's plot: CPU per delivery against rate")
    plot.add_argument("result", type=Path)
    plot.add_argument("plot", type=Path, help="the SVG file")
    one = commands.add_parser("report", help="make the HTML page of a result anew")
    one.add_argument("result", type=Path)
    size = commands.add_parser("size", help="how many cores and how much memory a fleet needs, from a result")
    size.add_argument("result", type=Path)
    return parser


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _load(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


def _run(args: argparse.Namespace) -> int:
    absent = {name: why for name, kind in SERVERS.items() if (why := kind.absent())}
    for name, why in absent.items():
        print(f"left out: {name}: {why}")
    cells = _chosen(SUITES[args.command](), args, absent)
    cores = Cores.split()
    if not cores.server:
        print("This machine has one core: servers and generators get in each other's way. Take only ratios from it.")
    began = datetime.now(UTC)
    results = _measure(cells, cores, args.again)
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
    args.output.mkdir(parents=True, exist_ok=True)
    path = args.output / f"{args.command}-{began:%Y%m%d-%H%M%S}.json"
    path.write_text(json.dumps(document, indent=1))
    path.with_suffix(".html").write_text(render(document))
    _print_goals(document)
    print(f"\n{path}\n{path.with_suffix('.html')}")
    return 0


def _chosen(cells: list[Cell], args: argparse.Namespace, absent: dict[str, str]) -> list[Cell]:
    chosen = [
        cell
        for cell in cells
        if cell.server not in absent
        and (not args.servers or cell.server in args.servers)
        and (not args.rows or cell.row in args.rows)
    ]
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
