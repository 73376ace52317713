# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Line charts as inline SVG, in the colours of the page around them."""

import math
from dataclasses import dataclass
from html import escape
from typing import List, Sequence, Tuple

from .colors import CURVE_COLORS

Point = Tuple[float, float]

_WIDTH, _HEIGHT = 440, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 14, 40
_LEGEND_ROW = 17
_LEGEND_COLUMNS = 2


@dataclass(frozen=True)
class Series:
    """One line.

    Attributes:
        name (str): For the legend.
        points (Sequence[tuple[float, float]]): (x, y), in the order of x. At
            a value that is not finite the line is interrupted.
    """

    name: str
    points: Sequence[Point]

    @property
    def finite(self) -> List[Point]:
        """Points that can be drawn."""
        return [p for p in self.points if math.isfinite(p[1])]


@dataclass(frozen=True)
class Chart:
    """Some lines with one pair of axes.

    Attributes:
        title (str): Title.
        series (Sequence[Series]): The lines.
        from_zero (bool): Whether the vertical axis begins at 0.
    """

    title: str
    series: Sequence[Series]
    from_zero: bool = False


def nice_ticks(low: float, high: float, count: int = 5) -> List[float]:
    """Round numbers that span a range.

    Args:
        low (float): Least value.
        high (float): Greatest value.
        count (int): About how many steps are wanted. Defaults to 5.

    Returns:
        list[float]: Multiples of 1, 2 or 5 times a power of ten, the first
        not above ``low`` and the last not below ``high``.
    """
    if high <= low:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    raw = (high - low) / count
    power = 10.0**math.floor(math.log10(raw))
    step = next(f * power for f in (1, 2, 5, 10) if f * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    # Rounded, so that 3 * 0.1 is written 0.3.
    return [float(f'{n * step:.10g}') for n in range(first, last + 1)]


class _Axes:
    """Maps values to places in the picture."""

    def __init__(self, chart: Chart) -> None:
        points = [p for s in chart.series for p in s.finite]
        xs, ys = zip(*points, strict=True)
        self.x_ticks = nice_ticks(min(xs), max(xs), 6)
        self.y_ticks = nice_ticks(
            min(0.0, *ys) if chart.from_zero else min(ys), max(ys))

    def place(self, x: float, y: float) -> Point:
        """Place of a value in the picture."""
        return (_scale(x, self.x_ticks, _LEFT, _WIDTH - _RIGHT),
                _scale(y, self.y_ticks, _HEIGHT - _BOTTOM, _TOP))

    def draw(self) -> List[str]:
        """Grid lines and numbers."""
        right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
        parts = []
        for tick in self.y_ticks:
            y = self.place(self.x_ticks[0], tick)[1]
            parts.append(
                f'<path class="grid" d="M{_LEFT} {y:.1f}H{right}"/>'
                f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" '
                f'text-anchor="end">{tick:g}</text>')
        for tick in self.x_ticks:
            x = self.place(tick, self.y_ticks[0])[0]
            parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" '
                         f'text-anchor="middle">{tick:g}</text>')
        parts.append(f'<text x="{(_LEFT + right) / 2}" y="{bottom + 33}" '
                     'text-anchor="middle">iteration</text>')
        return parts


def _scale(value: float, ticks: Sequence[float], start: float,
           end: float) -> float:
    return start + (value - ticks[0]) / (ticks[-1] - ticks[0]) * (end - start)


def _runs(points: Sequence[Point]) -> List[List[Point]]:
    """Pieces between values that are not finite."""
    runs: List[List[Point]] = [[]]
    for point in points:
        if math.isfinite(point[1]):
            runs[-1].append(point)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _line(series: Series, axes: _Axes, color: str) -> str:
    parts = []
    for run in _runs(series.points):
        places = [axes.place(*point) for point in run]
        if len(places) == 1:
            x, y = places[0]
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" '
                         f'fill="{color}"/>')
        else:
            path = 'L'.join(f'{x:.1f} {y:.1f}' for x, y in places)
            parts.append(f'<path class="line" d="M{path}" '
                         f'stroke="{color}"/>')
    return ''.join(parts)


def _legend(series: Sequence[Series]) -> str:
    parts = []
    column = (_WIDTH - _LEFT) / _LEGEND_COLUMNS
    for number, item in enumerate(series):
        row, place = divmod(number, _LEGEND_COLUMNS)
        x = _LEFT + place * column
        y = _HEIGHT + 8 + row * _LEGEND_ROW
        color = CURVE_COLORS[number % len(CURVE_COLORS)]
        last = item.finite[-1][1]
        parts.append(
            f'<path class="line" d="M{x:.0f} {y - 4:.0f}h16" '
            f'stroke="{color}"/><text x="{x + 22:.0f}" y="{y:.0f}">'
            f'{escape(item.name)}: {last:.3g}</text>')
    return ''.join(parts)


def chart_svg(chart: Chart) -> str:
    """Draw a chart.

    Args:
        chart (Chart): What to draw; lines without a finite value are left
            out.

    Returns:
        str: An ``<svg>`` element, which needs the styles of the page
        (classes ``chart``, ``grid``, ``line``); empty if no line is left.
        The legend gives each line's last value.
    """
    series = [s for s in chart.series if s.finite]
    if not series:
        return ''
    chart = Chart(chart.title, series, chart.from_zero)
    axes = _Axes(chart)
    lines = [
        _line(item, axes, CURVE_COLORS[i % len(CURVE_COLORS)])
        for i, item in enumerate(series)
    ]
    rows = -(-len(series) // _LEGEND_COLUMNS)
    return (f'<svg class="chart" role="img" xmlns="http://www.w3.org/2000/svg"'
            f' viewBox="0 0 {_WIDTH} {_HEIGHT + rows * _LEGEND_ROW}">'
            f'<title>{escape(chart.title)}</title>'
            f'{"".join(axes.draw() + lines)}{_legend(series)}</svg>')
