"""SVG: line charts and bars, with logarithmic axes, that need nothing but a browser.

Drawn here rather than by a library, because the page must be one file that opens offline, follows the reader's light or
dark mode, and can be read on a phone. Plotly brings 4.8 MB of script into each page. Matplotlib installs 185 MB and
writes 28 KB for a plot, in fixed colours. These two kinds of plot are two hundred lines, and 3 KB each. The colours of
the series are Okabe and Ito's, which the colour-blind tell apart; text takes the page's colour.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from math import ceil, floor, log10

__all__ = ["PERCENTILES", "Axis", "Bar", "Bars", "Chart", "Plot", "Series", "short", "standalone"]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c8c8c", "#a08000")
"""By the number of the series."""

WIDTH, HEIGHT = 400, 270
"""Units of a plot: about as many pixels as a phone has, so that letters there are as large as those of the text."""

LEFT, RIGHT, TOP, BOTTOM = 58, 20, 10, 42
"""Margins around a chart: half of a label stands in the right one."""

STEP = 34
"""Height of a bar with its name above it."""

LEAST_TICKS = 3
"""Ticks of an axis, at least: with two, nobody sees whether it is logarithmic."""


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis."""

    title: str
    log: bool = False
    ticks: tuple[tuple[float, str], ...] = ()  # value and label; empty: chosen


PERCENTILES = Axis(
    "percentile", log=True, ticks=tuple((100 / (100 - each), f"p{each:g}") for each in (1, 50, 90, 99, 99.9))
)
"""An axis that widens towards 100 %: the percentile p is at 100 / (100 - p)."""


@dataclass(frozen=True, slots=True)
class Series:
    """Points that belong together."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: int = 0  # number of the colour
    dashed: bool = False


class Plot(ABC):
    """A plot that hasn't been drawn. It is false if there is nothing to draw."""

    title: str

    @abstractmethod
    def __bool__(self) -> bool: ...

    @abstractmethod
    def figure(self) -> str:
        """Draw it: HTML, with SVG inside; "" if there is nothing to draw."""


@dataclass(frozen=True, slots=True)
class Chart(Plot):
    """Lines."""

    title: str
    x: Axis
    y: Axis
    series: Sequence[Series]

    def __bool__(self) -> bool:
        return bool(self.drawable())

    def figure(self) -> str:
        """See :meth:`Plot.figure`."""
        if not (series := self.drawable()):
            return ""
        # A line with gaps is several series with one name.
        legend = {each.name: each.colour for each in series}
        return _figure(self.title, self.draw(), HEIGHT, [*legend.items()])

    def drawable(self) -> list[Series]:
        """The series with the points that can be drawn, and without those that have none."""
        return [
            replace(each, points=points)
            for each in self.series
            if (points := sorted(point for point in each.points if self._fits(point)))
        ]

    def _fits(self, point: tuple[float, float]) -> bool:
        return (point[0] > 0 or not self.x.log) and (point[1] > 0 or not self.y.log)

    def draw(self) -> str:
        """The inside of the SVG."""
        series = self.drawable()
        across = Scale(self.x, [p[0] for each in series for p in each.points], LEFT, WIDTH - RIGHT)
        up = Scale(self.y, [p[1] for each in series for p in each.points], HEIGHT - BOTTOM, TOP)
        drawn = [_grid(self.x, self.y, across, up)]
        for each in series:
            colour = COLOURS[each.colour % len(COLOURS)]
            path = " ".join(f"{across(px):.1f},{up(py):.1f}" for px, py in each.points)
            dash = ' stroke-dasharray="5 4"' if each.dashed else ""
            drawn.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
            if len(each.points) <= 40:
                drawn += [
                    f'<circle cx="{across(px):.1f}" cy="{up(py):.1f}" r="3" fill="{colour}">'
                    f"<title>{escape(each.name)}: {short(px)}, {short(py)}</title></circle>"
                    for px, py in each.points
                ]
        return "".join(drawn)


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar."""

    name: str
    value: float
    colour: int = 0  # number of the colour


@dataclass(frozen=True, slots=True)
class Bars(Plot):
    """Horizontal bars, each below its name and its value, where no line runs through."""

    title: str
    unit: str
    values: Sequence[Bar]
    limit: float | None = None  # where to draw a line

    def __bool__(self) -> bool:
        return bool(self.values)

    def figure(self) -> str:
        """See :meth:`Plot.figure`."""
        if not self.values:
            return ""
        most = max([bar.value for bar in self.values] + ([self.limit] if self.limit else [])) or 1.0
        drawn = []
        for number, bar in enumerate(self.values):
            y = number * STEP
            length = max(bar.value, 0.0) / most * (WIDTH - 4)
            drawn.append(
                f'<text x="2" y="{y + 14}">{escape(bar.name)}</text>'
                f'<text x="{WIDTH - 2}" y="{y + 14}" text-anchor="end">{short(bar.value)} {escape(self.unit)}</text>'
                f'<rect x="2" y="{y + 19}" width="{length:.1f}" height="11" '
                f'fill="{COLOURS[bar.colour % len(COLOURS)]}"/>'
            )
            if self.limit:
                at = 2 + self.limit / most * (WIDTH - 4)
                drawn.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{y + 17}" y2="{y + 32}" class="limit"/>')
        return _figure(self.title, "".join(drawn), STEP * len(self.values), [])


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
        if axis.ticks:  # all of them are seen, whatever the values
            low, high = min(low, axis.ticks[0][0]), max(high, axis.ticks[-1][0])
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
        found: list[float] = []
        if self._log:
            powers = range(floor(low), ceil(high) + 1)
            for digits in ((1,), (1, 2, 5)):
                every = [digit * 10.0**power for power in powers for digit in digits]
                found = [value for value in every if low - 1e-9 <= log10(value) <= high + 1e-9]
                if len(found) >= LEAST_TICKS:
                    break
            low, high = 10.0**low, 10.0**high
        if len(found) < LEAST_TICKS:
            found = _even(low, high)
        return tuple((value, short(value)) for value in found)


def _even(low: float, high: float) -> list[float]:
    """Round values at even distances: as few as there may be."""
    power = floor(log10(high - low))
    while True:
        for digit in (5, 2, 1):
            step = digit * 10.0**power
            first, last = ceil(low / step - 1e-9), floor(high / step + 1e-9)
            if last - first + 1 > LEAST_TICKS:
                return [step * number for number in range(first, last + 1)]
        power -= 1


def short(value: float) -> str:
    """A number in few characters: 1500000 is 1.5M."""
    for factor, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.4g}{suffix}"
    return f"{value:.3g}"


def standalone(charts: Sequence[Chart]) -> str:
    """Line charts beside each other, with one legend, as an SVG file of its own, on white; "" if there is nothing."""
    charts = [chart for chart in charts if chart]
    if not charts:
        return ""
    head, row, columns = 30, 20, 2 * len(charts)
    names = {each.name: each.colour for chart in charts for each in chart.drawable()}
    width, height = WIDTH * len(charts), head + HEIGHT + row * ceil(len(names) / columns)
    drawn = []
    for number, chart in enumerate(charts):
        drawn.append(
            f'<g transform="translate({number * WIDTH} {head - 6})">'
            f'<text x="{LEFT}" y="-6" style="font-weight: 600">{escape(chart.title)}</text>'
            f"{chart.draw()}</g>"
        )
    for number, (name, colour) in enumerate(names.items()):
        at, below = 20 + number % columns * (WIDTH // 2), head + HEIGHT + number // columns * row
        drawn.append(f'<rect x="{at}" y="{below - 1}" width="12" height="9" fill="{COLOURS[colour % len(COLOURS)]}"/>')
        drawn.append(f'<text x="{at + 18}" y="{below + 8}">{escape(name)}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" color="#222">'
        "<style>text { font: 12px system-ui, sans-serif; fill: #222 } .grid { stroke: #222; opacity: .15 }</style>"
        f'<rect width="{width}" height="{height}" fill="#fff"/>{"".join(drawn)}</svg>\n'
    )


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
        f'<span class="key"><i style="background:{COLOURS[colour % len(COLOURS)]}"></i>{escape(name)}</span> '
        for name, colour in legend
    )
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title, quote=True)}">{drawn}</svg>'
        f"<div>{keys}</div></figure>"
    )
