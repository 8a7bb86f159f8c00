"""Sets two results side by side: what changed from one to the other."""

from __future__ import annotations

from statistics import median
from typing import Any

__all__ = ["compare", "compared"]

COLUMNS = (
    ("CPU/delivery µs", ("cpu_per_delivery_us",)),
    ("deliveries/s", ("rate",)),
    ("p50 ms", ("latency_us", "p50")),
    ("p99 ms", ("latency_us", "p99")),
    ("CPU/session µs", ("setup", "cpu_per_session_us")),
)
"""What is compared: a title, and where it is in a result."""


def compared(before: dict[str, Any], after: dict[str, Any]) -> list[tuple[str, str, float, float]]:
    """What both results measured.

    Returns:
        Rows of: load and server, what is measured, the median before, the median after.
    """
    old, new = _medians(before), _medians(after)
    return [(*key, old[key], new[key]) for key in old if key in new]


def compare(before: dict[str, Any], after: dict[str, Any]) -> str:
    """The comparison as text."""
    lines = []
    for title, document in (("before", before), ("after", after)):
        machine = document["machine"]
        lines.append(f"{title:6}: {document['began']} {machine['revision']} {machine['cpu']} {machine['kernel']}")
    lines += [
        f"NOT THE SAME {name.upper()}: only the ratios to the floor can be compared"
        for name in ("cpu", "cores", "kernel", "python", "libraries")
        if before["machine"][name] != after["machine"][name]
    ]
    lines.append("")
    last, both = "", compared(before, after)
    if not both:
        lines.append("Nothing was measured in both: the rows, servers and loads differ.")
    for where, what, old, new in both:
        if where != last:
            lines.append(where)
            last = where
        change = f"{(new / old - 1) * 100:+6.1f} %" if old else ""
        lines.append(f"    {what:16} {old:14,.2f} {new:14,.2f} {change}")
    return "\n".join(lines)


def _medians(document: dict[str, Any]) -> dict[tuple[str, str], float]:
    values: dict[tuple[str, str], list[float]] = {}
    for result in document["results"]:
        load = result["load"]
        where = (
            f"{result['row']}: {result['server']}, {load['connections']} connections, "
            f"{load['topics']} topics, {load['rate']:g}/s, {load['size']} B"
        )
        for title, path in COLUMNS:
            value: Any = result
            for name in path:
                value = None if value is None else value.get(name)
            if value is not None:
                values.setdefault((where, title), []).append(value / 1000 if title.endswith(" ms") else value)
    return {key: median(numbers) for key, numbers in values.items()}
