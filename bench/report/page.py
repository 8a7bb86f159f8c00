"""One HTML page of a result: self-contained, without scripts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape
from statistics import median
from typing import Any

from bench.load.histogram import Histogram
from bench.measure.run import Result
from bench.report.plots import Axis, Chart, Series, bars, lines, short, standalone
from bench.servers.catalogue import SERVERS

__all__ = ["headline", "render"]

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1180px; margin: 2em auto; padding: 0 1em;
  overflow-wrap: anywhere; }
h1 { margin-bottom: 0; } h2 { margin-top: 2em; }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { text-align: left; padding: .3em .6em; border-bottom: 1px solid #8886; overflow-wrap: normal; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.met { color: #00875a; font-weight: 600; } .missed { color: #d5480b; font-weight: 600; } .unknown { opacity: .6; }
td:last-child { min-width: 14em; } .missed, .met { white-space: nowrap; } .tried { font-size: 13px; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(480px, 100%), 1fr)); gap: 1.5em; }
figure { margin: 0; } figcaption { font-weight: 600; }
svg { width: 100%; height: auto; } svg text { font-size: 12px; fill: currentColor; }
svg .grid { stroke: currentColor; opacity: .15; } svg .limit { stroke: #d5480b; stroke-width: 2; }
.key { margin-right: 1.2em; font-size: 13px; }
.key i { display: inline-block; width: 1em; height: .7em; margin-right: .4em; }
code { font-size: 13px; }
"""

EXPLANATION = """<p>CPU is the server's own, user and system mode, of all its processes. Latency counts from the time
at which a message was due. A generator-bound row is no statement about the server.</p>"""

_SHARE = Axis("share of a core", ticks=tuple((percent / 100, f"{percent} %") for percent in range(0, 101, 20)))

_ORDER = {name: number for number, name in enumerate(SERVERS)}

PERCENTS = (1, 10, 25, 50, 75, 90, 95, 99, 99.5, 99.9)


def render(document: dict[str, Any]) -> str:
    """Make the page.

    Args:
        document: the JSON that a run leaves.
    """
    results: list[Result] = document["results"]
    return "\n".join(
        [
            '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>wsd bench, {escape(document['began'])}</title><style>{STYLE}</style></head><body>",
            f"<h1>wsd bench: {escape(document['suite'])}</h1>",
            _machine(document),
            "<h2>Goals</h2>",
            _goals(document["goals"]),
            _section("Throughput and its cost", _fan_outs(results)),
            _section("Latency, publish to receive", _latencies(results)),
            _section("Connections: memory, and a storm of them", _connections(results)),
            _section("Topics", _topics(results)),
            _section("Bursts", _bursts(results)),
            _section("Soak", _soaks(results)),
            "<h2>All measurements</h2>",
            EXPLANATION,
            _measurements(results),
            "</body></html>",
        ]
    )


def headline(document: dict[str, Any]) -> str:
    """Make the plot for the README: how full a core is, and how late messages are, against the rate. SVG.

    What a delivery costs would say the same of all whose core is full. Without the floors, which drop what a client
    can't take: beyond their pace a "delivery" is something else there.
    """
    servers = [result for result in document["results"] if not result["server"].startswith("floor")]
    rates = _plain(servers, connections=1000, size=100)
    rate = Axis("messages per second to each of 1,000 subscribers", log=True)
    return standalone(
        [
            Chart("Share of a core that the server takes", rate, _SHARE, _series(rates, "rate", _share)),
            Chart("Latency, publish to receive: p99", rate, Axis("ms", log=True), _series(rates, "rate", _p99)),
        ]
    )


def _machine(document: dict[str, Any]) -> str:
    machine = document["machine"]
    cores = document["cores"]
    facts = [
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory'] / 2**30:.0f} GiB",
        f"{machine['system']} {machine['kernel']}",
        f"server on {_cores(cores['server'])}, load on {_cores(cores['load'])}" if cores["server"] else "not pinned",
        f"Python {machine['python']}, "
        + ", ".join(f"{name} {version}" for name, version in machine["libraries"].items()),
        "; ".join(_named(name, machine[name]) for name in ("redis", "nats-server", "nginx", "node") if machine[name]),
        f"revision {machine['revision'] or 'unknown'}, load average at the end {machine['load']:.1f}",
        *(f"left out: {name}: {why}" for name, why in document["absent"].items()),
    ]
    lines_ = "<br>".join(map(escape, facts))
    return f"<p>{escape(document['began'])} <code>{escape(document['command'])}</code></p><p>{lines_}</p>"


def _cores(numbers: Sequence[int]) -> str:
    return f"{'core' if len(numbers) == 1 else 'cores'} {', '.join(map(str, numbers))}"


def _named(name: str, version: str) -> str:
    """What a program says of its version, with its name, which not all say."""
    return version if name in version.lower() else f"{name} {version}"


def _goals(goals: Iterable[dict[str, Any]]) -> str:
    rows = []
    for goal in goals:
        kind, mark = {True: ("met", "✓ met"), False: ("missed", "✗ falls short"), None: ("unknown", "not measured")}[
            goal["met"]
        ]
        value = "" if goal["value"] is None else f"{goal['value']:,.2f} {goal['unit']}"
        sign = "≥" if goal["at_least"] else "≤"
        rows.append(
            f"<tr><td>{escape(goal['work'])}</td><td>{escape(goal['measure'])}</td>"
            f'<td class="number">{escape(value)}</td>'
            f'<td class="number">{sign} {goal["limit"]:g} {escape(goal["unit"])}</td>'
            f'<td class="{kind}">{mark}</td><td>{_remarks(goal)}</td></tr>'
        )
    head = "<tr><th>Work</th><th>Measure</th><th>Measured</th><th>Goal</th><th></th><th>Note</th></tr>"
    return f'<div class="wide"><table>{head}{"".join(rows)}</table></div>'


def _remarks(goal: dict[str, Any]) -> str:
    tried = goal.get("tried")
    more = f'<div class="tried"><b>Tried:</b> {escape(tried)}</div>' if tried else ""
    return escape(goal["note"]) + more


def _section(title: str, plots: Iterable[str]) -> str:
    drawn = [plot for plot in plots if plot]
    return f'<h2>{escape(title)}</h2><div class="plots">{"".join(drawn)}</div>' if drawn else ""


# Which results go into which plot.


def _plain(results: Sequence[Result], **load: object) -> list[Result]:
    """Fan-outs of one topic with these values."""
    fixed = {"topics": 1, **load}
    return [
        result
        for result in results
        if result["kind"] == "fan-out" and all(result["load"][name] == value for name, value in fixed.items())
    ]


def _series(results: Sequence[Result], by: str, value: Callable[[Result], float | None]) -> list[Series]:
    """A series per server: the median of the repetitions at each value of the load's field."""
    found: dict[str, dict[float, list[float]]] = {}
    for result in results:
        number = value(result)
        if number is not None:
            found.setdefault(result["server"], {}).setdefault(result["load"][by], []).append(number)
    return [
        Series(_title(server), [(at, median(numbers)) for at, numbers in found[server].items()], _ORDER.get(server, 0))
        for server in sorted(found, key=lambda name: _ORDER.get(name, 99))
    ]


def _title(server: str) -> str:
    return SERVERS[server].title if server in SERVERS else server


def _cost(result: Result) -> float | None:
    cost: float | None = result["cpu_per_delivery_us"]
    return cost


def _share(result: Result) -> float | None:
    share: float = result["server_share"]
    return min(share, 1.0)  # the clocks of CPU and of time are read one after the other


def _rate(result: Result) -> float | None:
    rate: float = result["rate"]
    return rate


def _p99(result: Result) -> float | None:
    p99: float | None = result["latency_us"]["p99"]
    return None if p99 is None else p99 / 1000


def _fan_outs(results: Sequence[Result]) -> list[str]:
    rates = _plain(results, connections=1000, size=100)
    clients = _plain(results, rate=20, size=100)
    sizes = _plain(results, connections=1000, rate=20)
    rate = Axis("messages per second, to 1,000 subscribers of 100 B", log=True)
    many = Axis("subscribers, 20 messages per second of 100 B", log=True)
    size = Axis("bytes of payload, 20 messages per second to 1,000", log=True)
    cost = Axis("µs of CPU per delivery", log=True)
    drawn = [
        lines("Throughput against rate", rate, Axis("deliveries per second", log=True), _series(rates, "rate", _rate)),
        lines("Share of a core against rate", rate, _SHARE, _series(rates, "rate", _share)),
        lines("CPU per delivery against rate", rate, cost, _series(rates, "rate", _cost)),
        lines(
            "Throughput against connections",
            many,
            Axis("deliveries per second"),
            _series(clients, "connections", _rate),
        ),
        lines(
            "CPU per delivery against connections",
            many,
            Axis("µs of CPU per delivery"),
            _series(clients, "connections", _cost),
        ),
    ]
    if len({result["load"]["size"] for result in sizes}) > 1:
        drawn.append(lines("CPU per delivery against payload", size, cost, _series(sizes, "size", _cost)))
    return drawn


def _latencies(results: Sequence[Result]) -> list[str]:
    clients = _plain(results, rate=20, size=100)
    drawn = []
    for row, connections, rate in (
        ("single", 1000, 100),
        ("joined", 1000, 2000),
        ("round", 5000, 20),
        ("round", 10_000, 20),
    ):
        chosen = [result for result in _plain(results, connections=connections, rate=rate) if result["row"] == row]
        drawn.append(_distribution(f"{connections:,} subscribers, {rate:,} messages per second", chosen))
    many = Axis("subscribers, 20 messages per second", log=True)
    drawn.append(lines("p99 against connections", many, Axis("ms", log=True), _series(clients, "connections", _p99)))
    return drawn


def _distribution(title: str, results: Sequence[Result]) -> str:
    """Percentiles, on an axis that widens towards 100 %."""
    merged: dict[str, Histogram] = {}
    for result in results:
        merged.setdefault(result["server"], Histogram()).merge(Histogram(result["histogram"]))
    series = [
        Series(_title(server), _percentile_points(histogram), _ORDER.get(server, 0))
        for server, histogram in merged.items()
    ]
    ticks = tuple((100 / (100 - percent), f"p{percent:g}") for percent in (1, 50, 90, 99, 99.9))
    return lines(title, Axis("percentile", log=True, ticks=ticks), Axis("ms", log=True), series)


def _percentile_points(histogram: Histogram) -> list[tuple[float, float]]:
    values = [(percent, histogram.percentile(percent)) for percent in PERCENTS]
    return [(100 / (100 - percent), value / 1000) for percent, value in values if value is not None]


def _connections(results: Sequence[Result]) -> list[str]:
    storms = [result for result in results if result["row"] == "storm"]
    many = [result for result in results if "memory" in result and result["load"]["connections"] >= 5000]
    memory = _medians(many, lambda result: float(result["memory"]["per_connection"]) / 1024)
    cost = _medians(storms, lambda result: result["setup"]["cpu_per_session_us"])
    drawn = [
        bars("Memory per subscribed idle connection (PSS; the line is the goal)", "KiB", memory, limit=8),
        bars("CPU per session of a storm of 10,000 (the line is the goal)", "µs", cost, limit=200),
    ]
    series = [
        Series(
            _title(result["server"]),
            _percentile_points(Histogram(result["setup"]["histogram"])),
            _ORDER.get(result["server"], 0),
        )
        for result in storms
    ]
    ticks = tuple((100 / (100 - percent), f"p{percent:g}") for percent in (1, 50, 90, 99, 99.9))
    percent = Axis("percentile of 10,000 clients", log=True, ticks=ticks)
    drawn.append(lines("Storm: from connect to subscribed", percent, Axis("ms", log=True), series))
    for result in [result for result in results if result["row"] == "standing"][:1]:
        values = [
            (name, result[key][percentile] / 1000, colour)
            for key, colour, when in (("calm_us", 2, "before"), ("storm_us", 1, "meanwhile"))
            for percentile, name in (("p50", f"p50 {when}"), ("p99", f"p99 {when}"))
            if result[key][percentile] is not None
        ]
        drawn.append(bars("Latency of 5,000 others before and during a storm", "ms", values))
    return drawn


def _medians(results: Sequence[Result], value: Callable[[Result], float | None]) -> list[tuple[str, float, int]]:
    found: dict[str, list[float]] = {}
    for result in results:
        if (number := value(result)) is not None:
            found.setdefault(result["server"], []).append(number)
    return [(_title(server), median(numbers), _ORDER.get(server, 0)) for server, numbers in found.items()]


def _topics(results: Sequence[Result]) -> list[str]:
    drawn = []
    topics = [result for result in results if result["row"] == "topics"]
    for load in dict.fromkeys(
        (r["load"]["connections"], r["load"]["topics"], r["load"]["topics_each"]) for r in topics
    ):
        same = [r for r in topics if (r["load"]["connections"], r["load"]["topics"], r["load"]["topics_each"]) == load]
        title = f"{load[0]:,} clients on {load[2]} of {load[1]:,} topics"
        drawn.append(bars(f"{title}: CPU per delivery", "µs", _medians(same, _cost)))
        drawn.append(bars(f"{title}: deliveries per second", "/s", _medians(same, _rate)))
    return drawn


def _bursts(results: Sequence[Result]) -> list[str]:
    drawn = []
    bursts = [result for result in results if result["kind"] == "burst"]
    for load in dict.fromkeys((r["load"]["connections"], r["load"]["topics"], r["stalled"]) for r in bursts):
        same = [r for r in bursts if (r["load"]["connections"], r["load"]["topics"], r["stalled"]) == load]
        stalled = f" and {load[2]} that don't read" if load[2] else ""
        title = f"{same[0]['messages']:,} messages at once over {load[1]} topics, to {load[0]:,}{stalled}"
        drawn.append(bars(f"{title}: longest stop", "ms", _medians(same, lambda r: 1000 * r["stops"]["longest"])))
        drawn.append(bars(f"{title}: memory", "MiB", _medians(same, lambda r: r["memory_growth"] / 2**20)))
    return drawn


def _soaks(results: Sequence[Result]) -> list[str]:
    drawn = []
    for result in (result for result in results if result["kind"] == "soak"):
        memory = [(sample["at"], sample["memory"] / 2**20) for sample in result["samples"]]
        held = [(sample["at"], float(sample["descriptors"])) for sample in result["samples"]]
        drawn.append(lines("Memory while clients come and go", Axis("s"), Axis("MiB"), [Series("PSS", memory)]))
        drawn.append(lines("Descriptors meanwhile", Axis("s"), Axis("open"), [Series("descriptors", held, 1)]))
        counts = []
        for colour, name in ((2, "threads"), (3, "tasks")):
            known = [(sample["at"], sample[name]) for sample in result["samples"] if sample.get(name) is not None]
            if known:
                counts.append(Series(name, [(at, float(count)) for at, count in known], colour))
        drawn.append(lines("Tasks and threads meanwhile", Axis("s"), Axis("alive"), counts))
    return drawn


def _measurements(results: Sequence[Result]) -> str:
    heads = (
        "row",
        "server",
        "load",
        "deliveries/s",
        "offered/s",
        "CPU µs each",
        "p50 ms",
        "p99 ms",
        "per read",
        "generator",
        "verdicts",
    )
    rows = []
    for result in results:
        load = result["load"]
        topics = "" if load["topics"] == 1 else f", {load['topics_each']} of {load['topics']:,} topics"
        latency = result.get("latency_us") or result.get("setup", {}).get("latency_us") or {}
        numbers = [
            short(result["rate"]) if "rate" in result else "",
            short(result["offered"]) if "offered" in result else "",
            _number(result.get("cpu_per_delivery_us") or result.get("setup", {}).get("cpu_per_session_us")),
            _number(latency.get("p50"), 1000),
            _number(latency.get("p99"), 1000),
            _number(result.get("joined")),
            f"{result['shares']['generator']:.0%}" if "shares" in result else "",
        ]
        described = f"{load['connections']:,} clients, {load['rate']:g}/s of {load['size']} B{topics}"
        rows.append(
            f"<tr><td>{escape(result['row'])}</td><td>{escape(result['server'])}</td><td>{escape(described)}</td>"
            + "".join(f'<td class="number">{number}</td>' for number in numbers)
            + f"<td>{escape(', '.join(result['verdicts']))}</td></tr>"
        )
    head = "".join(f"<th>{escape(head)}</th>" for head in heads)
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _number(value: float | None, divisor: float = 1.0) -> str:
    return "" if value is None else f"{value / divisor:,.2f}"
