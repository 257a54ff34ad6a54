"""Charts as inline SVG, with the font and colours of the page, so that dark mode and print work.

No plotting library is used: its SVG has its own fonts and colours, and its identifiers clash on a page with several.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

_WIDTH, _HEIGHT = 420, 230  # SVG units, about pixels
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 10, 12, 34
_MOST_POINTS = 240  # per line; longer lines are averaged
_NUM_STYLES = 6  # line styles in the style sheet (.s0 to .s5)
_START = 0.1  # largest fraction of the x axis that may be empty so that it starts at 0
_DECADES = 1.5  # powers of ten above which the axis of a positive quantity is logarithmic


@dataclass(frozen=True)
class Series:
    """One line. x, y: of equal length; values that are not finite are left out. low, high: a band around the line."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    style: int | None = None
    """Number of the line style; default: position among the lines of the chart."""

    def columns(self) -> np.ndarray:
        """(4, N): x, y, low, high; finite, at most `_MOST_POINTS` points."""
        low, high = (self.y if side is None else side for side in (self.low, self.high))
        table = np.array([self.x, self.y, low, high], np.float64)
        table = table[:, np.isfinite(table).all(axis=0)]
        if table.shape[1] > _MOST_POINTS:
            table = np.stack([part.mean(axis=1) for part in np.array_split(table, _MOST_POINTS, axis=1)], axis=1)
        return table


@dataclass(frozen=True)
class Chart:
    """An SVG with caption and legend."""

    svg: Markup
    caption: str
    legend: list[tuple[int, str]]
    """(line style, name) of each line; empty for a single line."""


def line_chart(
    caption: str,
    lines: Sequence[Series],
    x_label: str = "images seen",
    y_label: str = "",
    log_y: bool | None = None,
    points: bool = False,
    unit_range: bool = False,
) -> Chart | None:
    """Draw the lines; None if no line has two points.

    caption: one sentence, also read by screen readers. log_y: logarithmic y axis; default: if all values are positive
    and span more than 1.5 powers of ten. points: mark each value. unit_range: y axis from 0 to 1.
    """
    tables = [(series, series.columns()) for series in lines]
    tables = [(series, table) for series, table in tables if table.shape[1] > 1]
    if not tables:
        return None
    every = np.concatenate([table for _, table in tables], axis=1)
    if log_y is None:
        log_y = not unit_range and bool((every[2] > 0).all() and np.log10(every[3].max() / every[2].min()) > _DECADES)
    first, last = every[0].min(), every[0].max()
    x_axis = _Axis.over(0.0 if 0 < first < _START * last else first, last, False, _LEFT, _WIDTH - _RIGHT, exact=True)
    bottom, top = (0.0, 1.0) if unit_range else (every[2].min(), every[3].max())
    y_axis = _Axis.over(bottom, top, log_y, _HEIGHT - _BOTTOM, _TOP)
    parts = [*_frame(x_axis, y_axis, x_label, y_label)]
    legend = []
    for i, (series, table) in enumerate(tables):
        style = (i if series.style is None else series.style) % _NUM_STYLES
        legend.append((style, series.name))
        x, y, low, high = x_axis(table[0]), y_axis(table[1]), y_axis(table[2]), y_axis(table[3])
        if series.low is not None:
            outline = " ".join([*_coordinates(x, high), *_coordinates(x[::-1], low[::-1])])
            parts.append(f'<polygon class="band s{style}" points="{outline}"/>')
        parts.append(f'<polyline class="line s{style}" points="{" ".join(_coordinates(x, y))}"/>')
        if points:
            parts += [
                f'<circle class="dot s{style}" cx="{a:.1f}" cy="{b:.1f}" r="2.4"/>' for a, b in zip(x, y, strict=True)
            ]
    described = f"{caption} {'; '.join(_summary(series, table) for series, table in tables)}."
    svg = (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(described)}">'
        f"<title>{escape(caption)}</title>{''.join(parts)}</svg>"
    )
    return Chart(Markup(svg), caption, legend if len(legend) > 1 else [])


def scatter_chart(caption: str, real: Sequence[Sequence[float]], generated: Sequence[Sequence[float]]) -> Chart | None:
    """Draw points [x, y] in [-1, 1] of real images as dots and of generated images as crosses; None without points."""
    if not (len(real) and len(generated)):
        return None
    middle, side = _WIDTH / 2, _WIDTH / 2 - _RIGHT
    height = 2 * max((abs(y) for _, y in (*real, *generated)), default=0.0) * side + 2 * (_TOP + _RIGHT)
    parts = [f'<rect class="axis" fill="none" x="1" y="1" width="{_WIDTH - 2}" height="{height - 2:.1f}"/>']
    for x, y in real:
        parts.append(f'<circle class="dot s0" cx="{middle + side * x:.1f}" cy="{height / 2 - side * y:.1f}" r="2.4"/>')
    crosses = "".join(
        f"M{middle + side * x - 2.5:.1f} {height / 2 - side * y - 2.5:.1f}l5 5m0-5l-5 5" for x, y in generated
    )
    parts.append(f'<path class="cross s1" d="{crosses}"/>')
    described = f"{caption} {len(real)} real and {len(generated)} generated images."
    svg = (
        f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-label="{escape(described)}">'
        f"<title>{escape(caption)}</title>{''.join(parts)}</svg>"
    )
    return Chart(Markup(svg), caption, [(0, "real (dots)"), (1, "generated (crosses)")])


def _summary(series: Series, table: np.ndarray) -> str:
    """Text description of a line for screen readers."""
    first, last = table[:, 0], table[:, -1]
    return f"{series.name}: {label(first[1])} at {label(first[0])}, {label(last[1])} at {label(last[0])}"


def _coordinates(x: np.ndarray, y: np.ndarray) -> list[str]:
    return [f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True)]


def _frame(x_axis: _Axis, y_axis: _Axis, x_label: str, y_label: str) -> list[str]:
    """Grid lines, tick labels and axis names."""
    parts = []
    for value in y_axis.ticks:
        y = float(y_axis(value))
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{label(value)}</text>')
    for value in x_axis.ticks:
        x = float(x_axis(value))
        place = "end" if x > _WIDTH - _RIGHT - 12 else "middle"
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 15}" text-anchor="{place}">{label(value)}</text>'
        )
    edge = _HEIGHT - _BOTTOM
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{edge}" y2="{edge}"/>')
    parts.append(
        f'<text class="name" x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 3}" text-anchor="end">{escape(x_label)}</text>'
    )
    if y_label:
        parts.append(f'<text class="name" x="{_LEFT}" y="{_HEIGHT - 3}">↑ {escape(y_label)}</text>')
    return parts


@dataclass(frozen=True)
class _Axis:
    """Map a quantity to a position in the drawing."""

    low: float
    high: float
    log: bool
    start: float
    stop: float
    ticks: list[float]

    @classmethod
    def over(cls, low: float, high: float, log: bool, start: float, stop: float, exact: bool = False) -> _Axis:
        """An axis over [low, high], extended to its outer ticks unless `exact`."""
        if high <= low:
            around = abs(low) / 2 or 0.5
            low, high = (low / 2, high * 2) if log else (low - around, high + around)
        if log:
            ticks = _decades(low, high)
        else:
            step = _nice_step((high - low) / 4)
            first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
            ticks = [i * step for i in range(first, last + 1)]
        if exact:
            slack = 1e-9 * (high - low)
            ticks = [tick for tick in ticks if low - slack <= tick <= high + slack]
        else:
            low, high = min(low, ticks[0]), max(high, ticks[-1])
        return cls(low, high, log, start, stop, ticks)

    def __call__(self, values: np.ndarray | float) -> np.ndarray:
        scale = np.log10 if self.log else np.asarray
        low, high = scale(self.low), scale(self.high)
        return self.start + (scale(values) - low) / (high - low) * (self.stop - self.start)


def _nice_step(step: float) -> float:
    """The smallest of 1, 2 or 5 times a power of ten that is at least `step`."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= step * (1 - 1e-9))


def _decades(low: float, high: float) -> list[float]:
    """Powers of ten from below `low` to above `high`, at most six; a few also get 2 and 5 times them."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    if last - first > 2:
        stride = -(-(last - first) // 6)
        return [10.0**i for i in range(first, last + stride, stride)]
    ticks = [10.0**i * factor for i in range(first, last + 1) for factor in (1, 2, 5)]
    start = max(i for i, tick in enumerate(ticks) if tick <= low * (1 + 1e-9))
    stop = min(i for i, tick in enumerate(ticks) if tick >= high * (1 - 1e-9))
    return ticks[start : stop + 1]


def label(value: float) -> str:
    """Format a tick: 0.002, 50, 20k, 1.5M."""
    size = abs(value)
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= 0.9995 * limit:  # which is rounded to 1 of this unit
            return f"{value / limit:.3g}{unit}".replace("-", "−")
    if 0 < size < 1e-4:
        return f"{value:.0e}".replace("e-0", "e-").replace("-", "−")
    return f"{value:.3g}".replace("-", "−")
