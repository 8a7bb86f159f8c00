"""Measures a suite: chooses what, in which order, and leaves the result."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from pathlib import Path

from bench.load.control import GeneratorError
from bench.measure.cores import Cores
from bench.measure.machine import describe
from bench.measure.work import Result
from bench.names import nearest
from bench.report.page import render
from bench.report.saved import UnusableFile, save
from bench.rows.case import Cell
from bench.rows.registry import SUITES, cells, evaluate, in_turn
from bench.servers.catalogue import SERVERS
from bench.servers.process import ServerError

__all__ = ["Refused", "measure", "print_goals"]


class Refused(Exception):
    """What was asked can't be measured. The text says why."""


def measure(args: Namespace) -> int:
    """Measure what the command line asks for; return the exit status.

    Raises:
        Refused: if that can't be measured.
        UnusableFile: if results can't be kept.
    """
    suite = SUITES[args.command]
    absent = {name: why for name, kind in SERVERS.items() if (why := kind.absent())}
    chosen = _chosen(cells(suite), args, absent)
    _make_directory(args.output)
    for name, why in absent.items():
        print(f"left out: {name}: {why}")
    cores = Cores.split()
    if not cores.server:
        print("This machine has one core: servers and generators get in each other's way. Take only ratios from it.")
    began = datetime.now(UTC)
    results = _measure(chosen, cores, args.again)
    if not results:
        raise UnusableFile("nothing could be measured: no result is kept")
    goals = evaluate(results, suite)
    document = {
        "suite": suite.name,
        "began": began.isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "bench", *sys.argv[1:]]),
        "machine": describe(),
        "cores": {"server": cores.server, "load": cores.load},
        "absent": absent,
        "results": results,
        "goals": goals,
    }
    path = args.output / f"{suite.name}-{began:%Y%m%d-%H%M%S}.json"
    save(path, json.dumps(document, indent=1))
    save(path.with_suffix(".html"), render(document))
    print_goals(goals)
    print(f"\n{path}\n{path.with_suffix('.html')}")
    if len(results) < len(chosen):
        print(f"bench: {len(chosen) - len(results)} of {len(chosen)} measurements failed", file=sys.stderr)
        return 1
    return 0


def _make_directory(path: Path) -> None:
    """Make the directory of the results, before an hour is spent on them."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise UnusableFile(f"{path}: no directory for results: {exc.strerror}") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise UnusableFile(f"{path}: no directory for results: nothing can be written there")


def _check_names(flag: str, given: Collection[str], known: Collection[str]) -> None:
    for name in given:
        if name not in known:
            raise Refused(f"{flag}: there is no {name!r} in this suite; {nearest(name, known)}")


def _chosen(cells: list[Cell], args: Namespace, absent: dict[str, str]) -> list[Cell]:
    _check_names("--rows", args.rows, list(dict.fromkeys(cell.row for cell in cells)))
    _check_names("--servers", args.servers, list(dict.fromkeys(cell.server for cell in cells)))
    for name in args.servers:
        if name in absent:
            raise Refused(f"--servers: {name} can't be measured here: {absent[name]}")
    chosen = [
        cell
        for cell in cells
        if cell.server not in absent
        and (not args.servers or cell.server in args.servers)
        and (not args.rows or cell.row in args.rows)
    ]
    if not chosen:
        where = sorted({cell.row for cell in cells if cell.server in args.servers})
        raise Refused(f"none of these servers is measured in these rows; they are in: {', '.join(where)}")
    return in_turn(chosen, args.repeat)


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
    told = _SUMMARIES.get(result["kind"], _of_traffic)(result)
    return ", ".join([*told, *(f"! {verdict}" for verdict in result["verdicts"])])


def _of_traffic(result: Result) -> list[str]:
    cost, p99 = result["cpu_per_delivery_us"], result["latency_us"]["p99"]
    return [
        f"{result['rate']:,.0f}/s",
        "no delivery" if cost is None else f"{cost:.2f} µs CPU each",
        "too few for a p99" if p99 is None else f"p99 {p99 / 1000:.1f} ms",
    ]


def _of_burst(result: Result) -> list[str]:
    return [
        f"{result['seconds']:.2f} s",
        f"longest stop {1000 * result['stops']['longest']:.1f} ms",
        f"memory +{result['memory_growth'] / 2**20:.1f} MiB",
        f"CPU {result['cpu']:.2f} s",
    ]


def _of_storm(result: Result) -> list[str]:
    setup = result["setup"]
    cost = setup["cpu_per_session_us"]
    told = [f"{setup['subscribed']:,} subscribed in {setup['seconds']:.2f} s"]
    return told if cost is None else [*told, f"{cost:.0f} µs CPU each"]


_SUMMARIES: dict[str, Callable[[Result], list[str]]] = {
    "burst": _of_burst,
    "storm": _of_storm,
    "standing": _of_storm,
}
"""By kind of result; others are traffic."""


def print_goals(goals: list[Result]) -> None:
    """Print a line for each goal."""
    print()
    for goal in goals:
        mark = {True: "met        ", False: "FALLS SHORT", None: "-          "}[goal["met"]]
        value = "not measured" if goal["value"] is None else f"{goal['value']:.2f} {goal['unit']}".strip()
        sign = ">=" if goal["at_least"] else "<="
        print(f"{mark} {goal['work']}: {goal['measure']}: {value} ({sign} {goal['limit']:g}) {goal['note']}".rstrip())
        if goal["tried"]:
            print(f"            tried: {goal['tried']}")
