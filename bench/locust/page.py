"""The page /wsd beside Locust's own: deliveries, latencies, the CPU and memory of the daemon and of the generator.

The page is drawn here, by what draws the bench's own page, and the browser fetches it again every two seconds. Fifteen
minutes of seven plots take a hundredth of a second of the master's core.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, jsonify, request
from jinja2 import Environment as Templates
from jinja2 import FileSystemLoader, StrictUndefined
from locust.env import Environment
from locust.web import WebUI
from markupsafe import Markup

from bench.locust.conductor import Conductor
from bench.report.plots import Axis, Chart, Series, short

__all__ = ["add_page", "plots"]

UNRIPE = 4
"""Seconds before now that aren't shown yet: workers report every 3 seconds, and a second is shown once all have."""

WINDOW = 900
"""Seconds that are drawn."""

NOTHING = "\N{EN DASH}"
"""Stands where nothing was measured."""

LINK = (
    '<a href="./wsd" style="position:fixed;z-index:2000;left:0;bottom:0;padding:6px 14px;'
    'border-radius:0 8px 0 0;background:#1f6feb;color:#fff;font:600 14px sans-serif;text-decoration:none">'
    "wsd charts</a>"
)
"""Stands on Locust's own page, which is one script without a place for links while no test runs."""

_TEMPLATES = Templates(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)


@dataclass(frozen=True, slots=True)
class Plot:
    """What a plot shows of each second."""

    title: str
    unit: str
    lines: dict[str, tuple[str, ...]]  # by the name of the line: where the value is in what is known of a second
    factor: float = 1.0  # from the value to the unit


PLOTS = (
    Plot("Deliveries per second", "messages", {"deliveries": ("deliveries",)}),
    Plot("Latency, publish to receive", "ms", {name: ("latency", name) for name in ("p50", "p99", "p99.9")}),
    Plot("CPU", "% of a core", {who: ("cpu", who) for who in ("wsd", "shards", "locust", "publisher")}, 100),
    Plot("Memory", "MiB", {who: ("memory", who) for who in ("wsd", "shards", "locust")}, 2**-20),
    Plot("Connections that are subscribed", "connections", {"subscribed": ("connections",)}),
    Plot("Connect to subscribed", "ms", {name: ("setup", name) for name in ("p50", "p99")}),
    Plot("Faults, and who came back", "per second", {"faults": ("faults",), "came back": ("returned",)}),
)


def plots(seconds: Sequence[dict[str, Any]]) -> list[Chart]:
    """The plots of some seconds, without those that would be empty.

    Args:
        seconds: see :meth:`bench.locust.stats.Timeline.charts`.
    """
    drawn = []
    for plot in PLOTS:
        series = [
            part
            for colour, (name, path) in enumerate(plot.lines.items())
            for part in _line(name, colour, _points(seconds, path, plot.factor))
        ]
        drawn.append(Chart(plot.title, Axis("seconds"), Axis(plot.unit), series))
    drawn.append(_of_workers(seconds))
    return [chart for chart in drawn if chart]


def _of_workers(seconds: Sequence[dict[str, Any]]) -> Chart:
    """The connections of each worker, if there are several of them."""
    names = list(dict.fromkeys(name for second in seconds for name in second.get("workers", {})))
    series = [
        part
        for colour, name in enumerate(names)
        for part in _line(f"worker {name}:", colour, _points(seconds, ("workers", name), 1))
    ]
    return Chart("Connections by worker", Axis("seconds"), Axis("connections"), series if len(names) > 1 else [])


def _points(seconds: Sequence[dict[str, Any]], path: tuple[str, ...], factor: float) -> Iterator[tuple[float, float]]:
    """The values that were measured, by the second of the run."""
    for second in seconds:
        value: Any = second
        for name in path:
            value = value.get(name, {})
        if value != {}:
            yield second["at"] - seconds[0]["at"], value * factor


def _line(name: str, colour: int, points: Iterator[tuple[float, float]]) -> list[Series]:
    """A line, in parts: it isn't drawn over seconds without a value."""
    parts: list[list[tuple[float, float]]] = []
    for point in points:
        if parts and point[0] == parts[-1][-1][0] + 1:
            parts[-1].append(point)
        else:
            parts.append([point])
    return [Series(f"{name} {short(parts[-1][-1][1])}", part, colour) for part in parts]


def add_page(environment: Environment, web_ui: WebUI, conductor: Conductor) -> None:
    """Add the page to Locust's, and links to it."""
    parsed = environment.parsed_options
    base = parsed.web_base_path if parsed is not None else ""
    pages = Blueprint("wsd", __name__, url_prefix=base or None)

    @pages.route("/wsd")
    @web_ui.auth_required_if_enabled  # type: ignore[untyped-decorator]
    def page() -> Response:
        return Response(_render(_known(environment, conductor)), mimetype="text/html")

    @pages.route("/wsd/data")
    @web_ui.auth_required_if_enabled  # type: ignore[untyped-decorator]
    def data() -> Response:
        return jsonify(_known(environment, conductor))

    assert web_ui.app is not None
    web_ui.app.register_blueprint(pages)

    @web_ui.app.after_request
    def link(response: Response) -> Response:
        if request.endpoint == "locust.index" and response.mimetype == "text/html":
            response.set_data(response.get_data(as_text=True).replace("</body>", f"{LINK}</body>"))
        return response

    # The documented way to a link: it stands in the tab "Download Data".
    web_ui.template_args["extended_csv_files"] = [{"href": "./wsd/data", "title": "wsd: the data of the plots (JSON)"}]


def _known(environment: Environment, conductor: Conductor) -> dict[str, Any]:
    """What is known of the run."""
    runner, options, run = environment.runner, conductor.options, conductor.run
    line = run.timeline
    latency = {name: line.latencies.percentile(percent) for name, percent in (("p50", 50), ("p99", 99), ("max", 100))}
    now = int(time.time())
    return {
        "state": runner.state if runner is not None else "missing",
        "publishing": conductor.publishing,
        "failure": run.failure,
        "verdicts": run.verdicts(),
        "storms": run.storms,
        "given_up": run.given_up,
        "restarts": run.restarts,
        "moved": run.moved,
        "workers": [asdict(worker) for worker in run.workers],
        "returned": line.returned,
        "published": run.published,
        "deliveries": line.deliveries,
        "latency": {name: None if value is None else value / 1000 for name, value in latency.items()},
        "faults": environment.stats.num_failures,
        "daemon": bool(options and options.admin),
        "load": ""
        if options is None
        else f"{options.rate:g} messages/s of {options.size} bytes over {options.topics} topics,"
        f" {options.topics_each} per connection, on {len(options.addresses)} wsd",
        "seconds": line.charts(now - WINDOW, now - UNRIPE),
    }


def _render(known: dict[str, Any]) -> str:
    """The page."""
    times = {name: NOTHING if value is None else f"{short(value)} ms" for name, value in known["latency"].items()}
    figures = [
        ("published", f"{known['published']:,}"),
        ("delivered", f"{known['deliveries']:,}"),
        ("faults", f"{known['faults']:,}"),
        ("latency p50", times["p50"]),
        ("latency p99", times["p99"]),
        ("greatest latency", times["max"]),
    ]
    seldom = (
        ("slow clients given up", "given_up"),
        ("came back", "returned"),
        ("storms", "storms"),
        ("workers restarted", "restarts"),
        ("moved to another process", "moved"),
    )
    figures += [(name, f"{known[key]:,}") for name, key in seldom if known[key]]
    notices = [text for text in (known["failure"], *known["verdicts"]) if text]
    if known["seconds"] and not known["daemon"]:
        notices.append("no --wsd-admin: the daemon's CPU and memory are unknown")
    return _TEMPLATES.get_template("page.html.jinja").render(
        state=known["state"] + (", publishing" if known["publishing"] else ""),
        load=known["load"],
        notices=notices,
        figures=figures,
        workers=[
            (worker["replica"], worker["number"], f"{worker['connections']:,}", _share(worker["cpu"]))
            for worker in known["workers"]
        ],
        plots=[Markup(chart.figure()) for chart in plots(known["seconds"])],
    )


def _share(cores: float | None) -> str:
    return NOTHING if cores is None else f"{cores:.0%}"
