"""SVG: line charts and bars, with logarithmic axes, that need nothing but a browser.

A library would draw more kinds, but the page must be one file without scripts, and these two kinds are two hundred
lines. Colours are Okabe and Ito's, which the colour-blind tell apart; text takes the page's colour, so dark mode
works.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from math import ceil, floor, log10

__all__ = ["Axis", "Chart", "Series", "bars", "lines", "standalone"]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c8c8c", "#a08000")
"""By the number of the series."""

WIDTH, HEIGHT = 560, 340
LEFT, RIGHT, TOP, BOTTOM = 64, 26, 14, 46  # margins around the plot, pixels: half of a label stands in the right one


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis."""

    title: str
    log: bool = False
    ticks: tuple[tuple[float, str], ...] = ()  # value and label; empty: chosen


@dataclass(frozen=True, slots=True)
class Series:
    """Points that belong together."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: int = 0  # number of the colour
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """A line chart that hasn't been drawn."""

    title: str
    x: Axis
    y: Axis
    series: Sequence[Series]


class Scale:
    """Maps values to pixels.

    Args:
        axis: the axis.
        values: all that must fit.
        begin: pixel of the least value.
        end: pixel of the greatest.
    """

    def __init__(self, axis: Axis, values: Sequence[float], begin: float, end: float) -> None:
        self._log = axis.log
        low, high = min(values), max(values)
        if axis.ticks and not axis.log:  # all of them are seen, whatever the values
            high = max(high, axis.ticks[-1][0])
        if axis.log:
            low, high = log10(low), log10(high)
            if high - low < 0.3:
                low, high = low - 0.15, high + 0.15
        else:
            low, high = min(low, 0.0), high * 1.05 or 1.0
        self._low, self._span = low, (high - low) or 1.0
        self._begin, self._length = begin, end - begin
        self.ticks = axis.ticks or self._choose(low, high)

    def __call__(self, value: float) -> float:
        place = (log10(value) if self._log else value) - self._low
        return self._begin + place / self._span * self._length

    def _choose(self, low: float, high: float) -> tuple[tuple[float, str], ...]:
        if self._log:
            digits = (1, 2, 5) if high - low < 3 else (1,)
            found = [digit * 10.0**power for power in range(floor(low), ceil(high) + 1) for digit in digits]
            return tuple((value, short(value)) for value in found if low - 1e-9 <= log10(value) <= high + 1e-9)
        step = 10.0 ** floor(log10((high - low) / 4))
        step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 6)
        return tuple(
            (step * number, short(step * number)) for number in range(ceil(low / step), floor(high / step) + 1)
        )


def short(value: float) -> str:
    """A number in few characters: 1500000 is 1.5M."""
    for factor, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.4g}{suffix}"
    return f"{value:.3g}"


def lines(title: str, x: Axis, y: Axis, series: Sequence[Series]) -> str:
    """A line chart; "" if there is nothing to draw."""
    series = _drawable_series(x, y, series)
    if not series:
        return ""
    return _figure(title, _draw(x, y, series), HEIGHT, [(each.name, each.colour) for each in series])


def standalone(charts: Sequence[Chart]) -> str:
    """Line charts beside each other, with one legend, as an SVG file of its own, on white; "" if there is nothing."""
    charts = [replace(chart, series=_drawable_series(chart.x, chart.y, chart.series)) for chart in charts]
    charts = [chart for chart in charts if chart.series]
    if not charts:
        return ""
    head, row, columns = 30, 20, 2 * len(charts)
    names = {each.name: each.colour for chart in charts for each in chart.series}
    width, height = WIDTH * len(charts), head + HEIGHT + row * ceil(len(names) / columns)
    drawn = []
    for number, chart in enumerate(charts):
        drawn.append(
            f'<g transform="translate({number * WIDTH} {head - 6})">'
            f'<text x="{LEFT}" y="-6" style="font-weight: 600">{escape(chart.title)}</text>'
            f"{_draw(chart.x, chart.y, chart.series)}</g>"
        )
    for number, (name, colour) in enumerate(names.items()):
        at, below = LEFT + number % columns * (WIDTH // 2 - 20), head + HEIGHT + number // columns * row
        drawn.append(f'<rect x="{at}" y="{below - 1}" width="12" height="9" fill="{COLOURS[colour % len(COLOURS)]}"/>')
        drawn.append(f'<text x="{at + 18}" y="{below + 8}">{escape(name)}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" color="#222">'
        "<style>text { font: 14px system-ui, sans-serif; fill: #222 } .grid { stroke: #222; opacity: .15 }</style>"
        f'<rect width="{width}" height="{height}" fill="#fff"/>{"".join(drawn)}</svg>\n'
    )


def _drawable_series(x: Axis, y: Axis, series: Sequence[Series]) -> list[Series]:
    series = [
        Series(each.name, sorted(p for p in each.points if _drawable(p, x, y)), each.colour, each.dashed)
        for each in series
    ]
    return [each for each in series if each.points]


def _draw(x: Axis, y: Axis, series: Sequence[Series]) -> str:
    across = Scale(x, [p[0] for each in series for p in each.points], LEFT, WIDTH - RIGHT)
    up = Scale(y, [p[1] for each in series for p in each.points], HEIGHT - BOTTOM, TOP)
    drawn = [_grid(x, y, across, up)]
    for each in series:
        colour = COLOURS[each.colour % len(COLOURS)]
        path = " ".join(f"{across(px):.1f},{up(py):.1f}" for px, py in each.points)
        dash = ' stroke-dasharray="5 4"' if each.dashed else ""
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        if len(each.points) <= 40:
            drawn += [
                f'<circle cx="{across(px):.1f}" cy="{up(py):.1f}" r="3.5" fill="{colour}">'
                f"<title>{escape(each.name)}: {short(px)}, {short(py)}</title></circle>"
                for px, py in each.points
            ]
    return "".join(drawn)


def bars(title: str, unit: str, values: Sequence[tuple[str, float, int]], limit: float | None = None) -> str:
    """Horizontal bars, with their values in a column beside them, where no line runs through; "" if there are none.

    Args:
        title: what they show.
        unit: of the values.
        values: name, value and number of the colour.
        limit: where to draw a line.
    """
    if not values:
        return ""
    left, right, step = 250, 84, 26
    most = max([value for _, value, _ in values] + ([limit] if limit else [])) or 1.0
    width = WIDTH - left - right
    height = step * len(values) + 12
    drawn = []
    for number, (name, value, colour) in enumerate(values):
        y = 6 + number * step
        length = max(value, 0.0) / most * width
        drawn.append(
            f'<text x="{left - 8}" y="{y + 15}" text-anchor="end">{escape(name)}</text>'
            f'<rect x="{left}" y="{y + 3}" width="{length:.1f}" height="{step - 8}" '
            f'fill="{COLOURS[colour % len(COLOURS)]}"/>'
            f'<text x="{left + width + 8}" y="{y + 15}">{short(value)} {escape(unit)}</text>'
        )
    if limit:
        at = left + limit / most * width
        drawn.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="2" y2="{height - 2}" class="limit"/>')
    return _figure(title, "".join(drawn), height, [])


def _drawable(point: tuple[float, float], x: Axis, y: Axis) -> bool:
    return (point[0] > 0 or not x.log) and (point[1] > 0 or not y.log)


def _grid(x: Axis, y: Axis, across: Scale, up: Scale) -> str:
    drawn = []
    for value, label in across.ticks:
        at = across(value)
        drawn.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" class="grid"/>')
        drawn.append(f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{escape(label)}</text>')
    for value, label in up.ticks:
        at = up(value)
        drawn.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" class="grid"/>')
        drawn.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{escape(label)}</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    drawn.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x.title)}</text>'
    )
    drawn.append(f'<text transform="translate(14 {middle}) rotate(-90)" text-anchor="middle">{escape(y.title)}</text>')
    return "".join(drawn)


def _figure(title: str, drawn: str, height: int, legend: Sequence[tuple[str, int]]) -> str:
    keys = "".join(
        f'<span class="key"><i style="background:{COLOURS[colour % len(COLOURS)]}"></i>{escape(name)}</span>'
        for name, colour in legend
    )
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title, quote=True)}">{drawn}</svg>'
        f"<div>{keys}</div></figure>"
    )
