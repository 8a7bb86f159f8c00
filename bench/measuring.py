"""Measures a suite: chooses what, in which order, and leaves the result."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.load.control import GeneratorError
from bench.measure.cores import Cores
from bench.measure.machine import describe
from bench.measure.verdicts import UNRELIABLE
from bench.measure.work import Result
from bench.names import nearest
from bench.processes import ROOT
from bench.report.compare import Comparison
from bench.report.export import save_csv, save_hdr
from bench.report.page import render, value_of
from bench.report.saved import UnusableFile, save
from bench.rows.case import Cell, Suite
from bench.rows.registry import cells, evaluate, in_turn
from bench.servers.catalogue import SERVERS
from bench.servers.process import ServerError
from bench.servers.profiler import ProfilerError, py_spy

__all__ = ["Refused", "Wanted", "check", "measure", "print_goals", "publish"]

AGAINST = 5
"""Repetitions of a comparison: enough to tell a difference from noise even if one goes wrong."""


class Refused(Exception):
    """What was asked can't be measured. The text says why."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line asks for."""

    suite: Suite
    output: Path  # the directory for results
    rows: tuple[str, ...] = ()  # empty: all
    servers: tuple[str, ...] = ()  # empty: all that are installed
    again: int = 0  # times to measure again what was disturbed
    repeat: int = 0  # repetitions; 0: as the suite has it
    against: Path | None = None  # another checkout, whose wsd is measured in turn with this one
    threshold: float = 0.05  # how much worse wsd may be than that, as a share
    check: bool = False  # whether goals that fall short are a failure
    csv: bool = False  # whether to leave a table, too
    hdr: bool = False  # whether to leave logs of latencies, too
    profile: bool = False  # whether to leave flame graphs, too

    @property
    def repetitions(self) -> int:
        """Repetitions; 0: as the suite has it."""
        if self.profile:  # one graph of each
            return self.repeat or 1
        return self.repeat or (AGAINST if self.against else 0)


def measure(wanted: Wanted) -> int:
    """Measure, and leave the results; return the exit status.

    Raises:
        Refused: if that can't be measured.
        UnusableFile: if results can't be kept.
    """
    absent = {name: why for name, kind in SERVERS.items() if (why := kind.absent())}
    chosen = _chosen(wanted, absent)
    _make_directory(wanted.output)
    for name, why in absent.items():
        print(f"left out: {name}: {why}")
    cores = Cores.split()
    if not cores.server:
        print("This machine has one core: servers and generators get in each other's way. Take only ratios from it.")
    began = datetime.now(UTC)
    path = wanted.output / f"{wanted.suite.name}-{began:%Y%m%d-%H%M%S}.json"
    flames = path.with_name(f"{path.stem}-profile") if wanted.profile else None
    if flames is not None:
        _make_directory(flames)
    checkouts = [ROOT] if wanted.against is None else [ROOT, wanted.against]
    found = _measure(chosen, checkouts, cores, wanted.again, flames)
    if not all(found):
        raise UnusableFile("nothing could be measured: no result is kept")
    documents: list[dict[str, Any]] = []
    for checkout, results in zip(checkouts, found, strict=True):
        document: dict[str, Any] = {
            "suite": wanted.suite.name,
            "began": began.isoformat(timespec="seconds"),
            "command": shlex.join(["python", "-m", "bench", *sys.argv[1:]]),
            "machine": describe(checkout),
            "cores": {"server": cores.server, "load": cores.load},
            "absent": absent,
            "results": results,
            "goals": evaluate(results, wanted.suite),
        }
        documents.append(document)
    here, *others = documents
    measured = {result["row"] for result in here["results"]}
    print_goals([goal for goal in here["goals"] if goal["row"] in measured])
    print()
    _leave(path, here, csv=wanted.csv, hdr=wanted.hdr)
    if flames is not None:
        print(flames)
    status = 0
    for other in others:
        _leave(path.with_name(f"{path.stem}-against.json"), other, csv=wanted.csv, hdr=wanted.hdr)
        comparison = Comparison(before=other, after=here)
        print("", comparison.text(wanted.threshold), sep="\n")
        status = comparison.status(wanted.threshold)
    if wanted.check:
        status = check(here) or status
    if failed := len(chosen) * len(checkouts) - sum(map(len, found)):
        print(f"bench: {failed} of {len(chosen) * len(checkouts)} measurements failed", file=sys.stderr)
        status = 1
    return status


def _leave(path: Path, document: dict[str, Any], *, csv: bool, hdr: bool) -> None:
    save(path, json.dumps(document, indent=1))
    print(path)
    for made in publish(path, document, csv=csv, hdr=hdr):
        print(made)


def publish(path: Path, document: dict[str, Any], *, csv: bool, hdr: bool) -> list[Path]:
    """Write what is made from a result, beside it; return the paths.

    Args:
        path: of the result.
        document: the result.
        csv: whether to write the table.
        hdr: whether to write the logs of latencies.

    Raises:
        UnusableFile: if that can't be.
    """
    made = [path.with_suffix(".html")]
    save(made[0], render(document))
    if csv:
        made.append(path.with_suffix(".csv"))
        save_csv(made[-1], document["results"])
    if hdr:
        made.append(path.with_name(f"{path.stem}-hdr"))
        save_hdr(made[-1], document["results"])
    return made


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


def _chosen(wanted: Wanted, absent: dict[str, str]) -> list[Cell]:
    every = cells(wanted.suite)
    servers = wanted.servers
    _check_names("--rows", wanted.rows, list(dict.fromkeys(cell.row for cell in every)))
    _check_names("--servers", servers, list(dict.fromkeys(cell.server for cell in every)))
    for name in servers:
        if name in absent:
            raise Refused(f"--servers: {name} can't be measured here: {absent[name]}")
    if wanted.profile and py_spy() is None:
        raise Refused("--profile: py-spy is not installed: pip install '.[bench]'")
    if wanted.hdr and find_spec("hdrh") is None:
        raise Refused("--hdr: hdrhistogram is not installed: pip install '.[bench]'")
    if wanted.against is not None:
        if not (wanted.against / "wsd" / "__main__.py").is_file():
            raise Refused(f"--against: {wanted.against} is no checkout of wsd")
        if set(servers) - {"wsd"}:
            raise Refused("--against: it is wsd that is measured against wsd: leave out --servers")
        servers = ("wsd",)
    chosen = [
        cell
        for cell in every
        if cell.server not in absent
        and (not servers or cell.server in servers)
        and (not wanted.rows or cell.row in wanted.rows)
    ]
    if not chosen:
        where = sorted({cell.row for cell in every if cell.server in servers})
        raise Refused(f"none of these servers is measured in these rows; they are in: {', '.join(where)}")
    return in_turn(chosen, wanted.repetitions)


def _measure(
    cells: list[Cell], checkouts: list[Path], cores: Cores, again: int, flames: Path | None
) -> list[list[Result]]:
    """Measure all; return the results of each checkout."""
    found: list[list[Result]] = [[] for _ in checkouts]
    for number, cell in enumerate(cells, 1):
        # Who comes first changes, so that neither is always the one that finds the machine as the other left it.
        for side in sorted(range(len(checkouts)), reverse=number % 2 == 0):
            begin = time.monotonic()
            title = f"{number:3}/{len(cells)} {cell.title}{' (against)' if side else ''}"
            profile = None if flames is None else flames / f"{cell.case}-{cell.server}.svg"
            try:
                for _ in range(again + 1):
                    result = cell.measure(cores, checkout=checkouts[side], profile=profile)
                    if "disturbed" not in result["verdicts"]:
                        break
            except (ServerError, GeneratorError, ProfilerError) as exc:
                # One server that fails isn't worth the hour that the others took.
                print(f"{title}: FAILED: {exc}", flush=True)
                continue
            found[side].append(result)
            print(f"{title}: {_summary(result)} ({time.monotonic() - begin:.1f} s)", flush=True)
    return found


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


def _of_restart(result: Result) -> list[str]:
    return [
        f"down for {result['down']:.2f} s",
        f"{result['returned']:,} back after {result['seconds']:.1f} s",
        f"{result['cpu_per_return_us']:.0f} µs CPU each",
    ]


def _of_feeding(result: Result) -> list[str]:
    return [
        f"{result['subscribers']:g} subscribers",
        f"{result['cpu_per_message_us']:.1f} µs CPU of Redis per message",
        f"{result['shares']['redis']:.0%} of its core",
    ]


def _of_handover(result: Result) -> list[str]:
    checks, pauses = result["checks"], result["pauses"]
    before, longest = (pauses[window]["longest"] / 1000 for window in ("calm_us", "reload_us"))
    return [
        f"{result['moved']:,} moved in {result['seconds']:.2f} s",
        f"{result['cpu_per_moved_us']:.0f} µs CPU each ({result['cpu_per_moved_more_us']:.0f} without the start)",
        f"longest pause {longest:.0f} ms (before {before:.0f})",
        f"lost {checks['lost']}, doubled {checks['duplicated']}, late {checks['out_of_order']}",
        f"closed {result['closed']}",
    ]


_SUMMARIES: dict[str, Callable[[Result], list[str]]] = {
    "burst": _of_burst,
    "feeding": _of_feeding,
    "handover": _of_handover,
    "restart": _of_restart,
    "storm": _of_storm,
    "standing": _of_storm,
}
"""By kind of result; others are traffic."""


def print_goals(goals: list[dict[str, Any]]) -> None:
    """Print a line for each goal."""
    print()
    for goal in goals:
        mark = {True: "met        ", False: "FALLS SHORT", None: "-          "}[goal["met"]]
        value = "not measured" if goal["value"] is None else value_of(goal)
        sign = ">=" if goal["at_least"] else "<="
        print(f"{mark} {goal['work']}: {goal['measure']}: {value} ({sign} {goal['limit']:g}) {goal['note']}".rstrip())
        if goal["tried"]:
            print(f"            tried: {goal['tried']}")


def check(document: dict[str, Any]) -> int:
    """Say how many goals hold; return the exit status: 1 if one falls short, 2 if none was measured, else 0."""
    goals, results = document["goals"], document["results"]
    met, missed = sum(goal["met"] is True for goal in goals), sum(goal["met"] is False for goal in goals)
    print(f"\ncheck: {met} goals met, {missed} fall short, {len(goals) - met - missed} not measured")
    if doubtful := sum(not UNRELIABLE.isdisjoint(result["verdicts"]) for result in results):
        print(f"       {doubtful} of {len(results)} measurements can't be relied on: see their words, and --again")
    if missed:
        return 1
    return 0 if met else 2
