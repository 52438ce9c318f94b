"""Line charts as geometry: ticks, paths and bands in the units of an SVG, ready for `templates/chart.svg`.

Curves differ by colour and by dash, so that a printed or colour-blind reading loses nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from flyball.errors import ConfigError
from flyball.stats.written import significant, with_minus

WIDTH, HEIGHT = 480, 236
LEFT, RIGHT, TOP, BOTTOM = 50, 14, 12, 42
MAX_CURVES = 6

Scale = Literal["number", "share"]


@dataclass(frozen=True)
class Curve:
    """Points in order of x. `low` and `high`, when given, are the interval at each x. NaN leaves a gap."""

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        lengths = {len(self.x), len(self.y), *(len(band) for band in (self.low, self.high) if band)}
        if len(lengths) > 1 or bool(self.low) != bool(self.high):
            raise ConfigError(
                f"curve {self.label!r} has {len(self.x)} x, {len(self.y)} y, {len(self.low)} low and {len(self.high)} "
                "high; give as many of each, or neither bound"
            )


@dataclass(frozen=True)
class Mark:
    """A vertical line with a word, such as the step of the checkpoint that was picked."""

    x: float
    label: str


@dataclass(frozen=True)
class Chart:
    """`scale` share shows 0 to 1 as per cent on the whole axis; number fits the axis to the curves."""

    title: str
    x_label: str
    y_label: str
    curves: tuple[Curve, ...]
    scale: Scale = "number"
    marks: tuple[Mark, ...] = ()
    note: str = ""


def curve(label: str, points: Iterable[tuple[float, float]]) -> Curve:
    """A curve from (x, y) pairs, sorted by x."""
    ordered = sorted(points)
    return Curve(label, tuple(x for x, _ in ordered), tuple(y for _, y in ordered))


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: where it is, in pixels, and what is written there."""

    at: float
    label: str


@dataclass(frozen=True)
class Line:
    """One curve as SVG: `style` numbers its colour and dash, `dots` are points that no line would show."""

    label: str
    style: int
    path: str
    band: str
    dots: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Plot:
    """All that the template draws."""

    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    marks: tuple[Tick, ...]
    summary: str


def lay_out(chart: Chart) -> Plot | None:
    """Place a chart in WIDTH x HEIGHT, or None when no curve has a finite point."""
    if len(chart.curves) > MAX_CURVES:
        raise ConfigError(
            f"chart {chart.title!r} has {len(chart.curves)} curves; at most {MAX_CURVES} can be told apart, so split it"
        )
    xs = [x for one in chart.curves for x, y in zip(one.x, one.y, strict=True) if math.isfinite(y)]
    ys = [y for one in chart.curves for y in (*one.y, *one.low, *one.high) if math.isfinite(y)]
    if not xs:
        return None
    wide = nice_ticks(min(xs), max(xs), 7)
    x_ticks = [(x, label) for x, label in zip(wide, _labels(wide), strict=True) if min(xs) <= x <= max(xs)]
    y_ticks = [0.0, 0.25, 0.5, 0.75, 1.0] if chart.scale == "share" else nice_ticks(min(ys), max(ys), 5)
    across = _Axis(min(xs), max(xs), LEFT, WIDTH - RIGHT)
    up = _Axis(min(y_ticks), max(y_ticks), HEIGHT - BOTTOM, TOP)
    return Plot(
        lines=tuple(_line(one, i, across, up) for i, one in enumerate(chart.curves)),
        x_ticks=tuple(Tick(across.at(x), label) for x, label in x_ticks),
        y_ticks=tuple(Tick(up.at(y), _y_label(y, y_ticks, chart.scale)) for y in y_ticks),
        marks=tuple(Tick(across.at(mark.x), mark.label) for mark in chart.marks if min(xs) <= mark.x <= max(xs)),
        summary="; ".join(_summary(one, chart.scale) for one in chart.curves),
    )


def nice_ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers that cover low to high: steps of 1, 2 or 5 times a power of ten."""
    if high == low:
        low, high = low - abs(low or 1.0) / 2, high + abs(high or 1.0) / 2
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        width = self.high - self.low
        share = (value - self.low) / width if width else 0.5
        return round(self.start + (self.end - self.start) * min(max(share, 0.0), 1.0), 1)


def _line(one: Curve, style: int, across: _Axis, up: _Axis) -> Line:
    runs = _finite_runs(one)
    path = " ".join(_path([(across.at(one.x[i]), up.at(one.y[i])) for i in run]) for run in runs)
    dots = tuple((across.at(one.x[run[0]]), up.at(one.y[run[0]])) for run in runs if len(run) == 1)
    band = ""
    if one.low:
        band = " ".join(_band(one, run, across, up) for run in runs if len(run) > 1)
    return Line(one.label, style, path, band, dots)


def _finite_runs(one: Curve) -> list[list[int]]:
    """Indices of the stretches without a gap."""
    runs: list[list[int]] = [[]]
    for i, y in enumerate(one.y):
        bounds = (one.low[i], one.high[i]) if one.low else ()
        if all(map(math.isfinite, (y, *bounds))):
            runs[-1].append(i)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + " L".join(f"{x:g} {y:g}" for x, y in points)


def _band(one: Curve, run: list[int], across: _Axis, up: _Axis) -> str:
    top = [(across.at(one.x[i]), up.at(one.high[i])) for i in run]
    bottom = [(across.at(one.x[i]), up.at(one.low[i])) for i in reversed(run)]
    return _path([*top, *bottom]) + "Z"


def _labels(ticks: Sequence[float]) -> list[str]:
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return [with_minus(f"{tick:,.{digits}f}".replace(",", " ")) for tick in ticks]


def _y_label(value: float, ticks: Sequence[float], scale: Scale) -> str:
    return f"{100 * value:.0f} %" if scale == "share" else _labels(ticks)[list(ticks).index(value)]


def _summary(one: Curve, scale: Scale) -> str:
    """First and last value in words, for readers who do not see the drawing."""
    finite = [y for y in one.y if math.isfinite(y)]
    if not finite:
        return f"{one.label}: no values"
    first, last = (f"{100 * y:.1f} %" if scale == "share" else significant(y) for y in (finite[0], finite[-1]))
    return f"{one.label} from {first} to {last}"
