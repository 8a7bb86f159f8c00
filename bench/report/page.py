"""One HTML page of a result: self-contained, without scripts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from bench.measure.work import Result
from bench.report.plots import short, standalone
from bench.rows.grid import headline as _headline
from bench.rows.registry import ROWS, SUITES

__all__ = ["headline", "render", "value_of"]

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)

NOTHING = "\N{EN DASH}"
"""Stands where a number wasn't measured, or rests on too few values."""


def render(document: dict[str, Any]) -> str:
    """Make the page.

    Args:
        document: the JSON that a run leaves.
    """
    results: list[Result] = document["results"]
    goals = document["goals"]
    sections = []
    for row in ROWS.values():
        plots = [Markup(plot.figure()) for plot in row.plots(results)]
        asked = _said_once([_goal(goal) for goal in goals if goal.get("row") == row.name])
        if plots or any(goal["kind"] != "unknown" for goal in asked):
            sections.append({"name": row.name, "words": row.words, "plots": plots, "goals": asked})
    return _TEMPLATES.get_template("page.html.jinja").render(
        document=document,
        machine=_machine(document),
        shrunk=SUITES[document["suite"]].shrunk if document["suite"] in SUITES else 1,
        headline=[Markup(chart.figure()) for chart in _headline(results) if chart],
        counts={kind: sum(_kind(goal) == kind for goal in goals) for kind in ("met", "missed", "unknown")},
        sections=sections,
        measurements=[_measurement(result) for result in results],
    )


def headline(document: dict[str, Any]) -> str:
    """Make the plot for the README: an SVG file; "" if there is nothing to draw."""
    return standalone(_headline(document["results"]))


def _machine(document: dict[str, Any]) -> list[str]:
    machine = document["machine"]
    cores = document["cores"]
    return [
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory'] / 2**30:.0f} GiB",
        f"{machine['system']} {machine['kernel']}",
        f"server on {_cores(cores['server'])}, load on {_cores(cores['load'])}" if cores["server"] else "not pinned",
        f"Python {machine['python']}, "
        + ", ".join(f"{name} {version}" for name, version in machine["libraries"].items()),
        "; ".join(_named(name, machine[name]) for name in ("redis", "nats-server", "nginx", "node") if machine[name]),
        f"revision {machine['revision'] or 'unknown'}, load average at the end {machine['load']:.1f}",
        *(f"left out: {name}: {why}" for name, why in document["absent"].items()),
    ]


def _cores(numbers: Sequence[int]) -> str:
    return f"{'core' if len(numbers) == 1 else 'cores'} {', '.join(map(str, numbers))}"


def _named(name: str, version: str) -> str:
    """What a program says of its version, with its name, which not all say."""
    return version if name in version.lower() else f"{name} {version}"


def _kind(goal: dict[str, Any]) -> str:
    return {True: "met", False: "missed", None: "unknown"}[goal["met"]]


def _said_once(goals: list[dict[str, str]]) -> list[dict[str, str]]:
    """Goals of one row, without what was tried where that stands at one before."""
    said: set[str] = set()
    for goal in goals:
        if goal["tried"] in said:
            goal["tried"] = ""
        said.add(goal["tried"])
    return goals


def value_of(goal: dict[str, Any]) -> str:
    """What was measured, with its unit. What is counted is a whole number."""
    value = goal["value"]
    return f"{value:,.0f}" if not goal["unit"] and value == int(value) else f"{value:,.2f} {goal['unit']}".strip()


def _goal(goal: dict[str, Any]) -> dict[str, str]:
    kind = _kind(goal)
    sign = "≥" if goal["at_least"] else "≤"
    return {
        "work": goal["work"],
        "measure": goal["measure"],
        "value": NOTHING if goal["value"] is None else value_of(goal),
        "limit": f"{sign} {goal['limit']:g} {goal['unit']}".strip(),
        "kind": kind,
        "mark": {"met": "✓ met", "missed": "✗ falls short", "unknown": "not measured"}[kind],
        "note": goal["note"],
        "tried": goal.get("tried", ""),
    }


def _measurement(result: Result) -> dict[str, Any]:
    load = result["load"]
    topics = "" if load["topics"] == 1 else f", {load['topics_each']} of {load['topics']:,} topics"
    latency = result.get("latency_us") or result.get("setup", {}).get("latency_us") or {}
    return {
        "row": result["row"],
        "server": result["server"],
        "load": f"{load['connections']:,} clients, {load['rate']:g}/s of {load['size']} B{topics}",
        "numbers": [
            short(result["rate"]) if "rate" in result else NOTHING,
            short(result["offered"]) if "offered" in result else NOTHING,
            _number(_cost(result)),
            *(_number(latency.get(name), 1000) for name in ("p50", "p99", "p99.9")),
            _number(result.get("joined")),
            f"{result['shares']['generator']:.0%}" if "shares" in result else NOTHING,
            f"{result['disturbance']:.0%}" if "disturbance" in result else NOTHING,
        ],
        "verdicts": ", ".join(result["verdicts"]),
    }


def _cost(result: Result) -> float | None:
    """Microseconds of what the kind of work is about: a delivery, or what else the page names."""
    for name in ("cpu_per_moved_us", "cpu_per_message_us", "cpu_per_delivery_us"):
        if name in result and result["kind"] != "storm":
            found: float | None = result[name]
            return found
    cost: float | None = result.get("setup", {}).get("cpu_per_session_us")
    return cost


def _number(value: float | None, divisor: float = 1.0) -> str:
    return NOTHING if value is None else f"{value / divisor:,.2f}"
