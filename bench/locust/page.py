"""The page /wsd beside Locust's own: deliveries, latencies, the CPU and memory of the daemon and of the generator."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, jsonify, request
from locust.env import Environment
from locust.web import WebUI

from bench.locust.conductor import Conductor

__all__ = ["add_page"]

PAGE = Path(__file__).with_name("page.html")

UNRIPE = 4
"""Seconds before now that aren't shown yet: workers report every 3 seconds, and a second is shown once all have."""

LINK = (
    '<a href="./wsd" style="position:fixed;z-index:2000;left:0;bottom:0;padding:6px 14px;'
    'border-radius:0 8px 0 0;background:#1f6feb;color:#fff;font:600 14px sans-serif;text-decoration:none">'
    "wsd charts</a>"
)
"""Stands on Locust's own page, which is one script without a place for links while no test runs."""


def add_page(environment: Environment, web_ui: WebUI, conductor: Conductor) -> None:
    """Add the page to Locust's, and links to it."""
    parsed = environment.parsed_options
    base = parsed.web_base_path if parsed is not None else ""
    pages = Blueprint("wsd", __name__, url_prefix=base or None)

    @pages.route("/wsd")
    @web_ui.auth_required_if_enabled  # type: ignore[untyped-decorator]
    def page() -> Response:
        return Response(PAGE.read_text(), mimetype="text/html")

    @pages.route("/wsd/data")
    @web_ui.auth_required_if_enabled  # type: ignore[untyped-decorator]
    def data() -> Response:
        return jsonify(_data(environment, conductor, request.args.get("after", 0, type=int)))

    assert web_ui.app is not None
    web_ui.app.register_blueprint(pages)

    @web_ui.app.after_request
    def link(response: Response) -> Response:
        if request.endpoint == "locust.index" and response.mimetype == "text/html":
            response.set_data(response.get_data(as_text=True).replace("</body>", f"{LINK}</body>"))
        return response

    # The documented way to a link: it stands in the tab "Download Data".
    web_ui.template_args["extended_csv_files"] = [{"href": "./wsd/data", "title": "wsd: the data of the charts (JSON)"}]


def _data(environment: Environment, conductor: Conductor, after: int) -> dict[str, Any]:
    runner, options, line = environment.runner, conductor.options, conductor.timeline
    running = conductor.publishing
    latency = {name: line.latencies.percentile(percent) for name, percent in (("p50", 50), ("p99", 99), ("max", 100))}
    return {
        "run": min(line.seconds, default=0),  # tells one run from the next
        "state": runner.state if runner is not None else "missing",
        "publishing": running,
        "failure": conductor.failure,
        "verdicts": conductor.verdicts(),
        "storms": conductor.storms,
        "given_up": conductor.given_up,
        "published": conductor.published,
        "deliveries": line.deliveries,
        "latency": {name: None if value is None else value / 1000 for name, value in latency.items()},
        "faults": environment.stats.num_failures,
        "daemon": bool(options and options.admin),
        "load": ""
        if options is None
        else f"{options.rate:g} messages/s of {options.size} bytes over {options.topics} topics,"
        f" {options.topics_each} per connection, on {len(options.addresses)} wsd",
        "seconds": line.charts(after, int(time.time()) - UNRIPE),
    }
