"""Numbers as people read them, always with n and interval, and the grids that put policies side by side.

    62.5 % [56.1, 68.4], n=240        +21.3 points [+14.8, +27.9], n=240        $0.00021 [0.00019, 0.00024], n=240

Pure text: rounding happens here and nowhere else, so every page shows the same number the same way.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from flyball.evals.summary import By, Row
from flyball.types import Estimate

MINUS = "−"
NO_VALUE = "—"
SHARES = frozenset({"share", "score", "relative"})
WRITTEN_UNITS = SHARES | {"USD"}

Summaries = Mapping[str, Mapping[str, Sequence[Row]]]
"""Policy label -> suite -> the rows of `evals.summary.summarise`; the baseline comes first."""


@dataclass(frozen=True)
class Shown:
    """An estimate in three parts, for pages that set them apart."""

    value: str
    bounds: str
    n: str

    def __str__(self) -> str:
        return f"{self.value} {self.bounds}, {self.n}"


def shown(estimate: Estimate, *, signed: bool = False) -> Shown:
    """Round and name the unit. `signed`: it is a difference, so shares become points and a plus is written."""
    unit = estimate.unit
    if unit in SHARES:
        word = " points" if signed and unit != "relative" else " %"
        sign = "+" if signed or unit == "relative" else ""
        return _parts(estimate, lambda x: _number(f"{100 * x:{sign}.1f}", x), "", word)
    sign = "+" if signed else ""
    if unit == "USD":
        return _parts(estimate, lambda x: _number(significant(x, sign), x), "$", "")
    return _parts(estimate, lambda x: _number(significant(x, sign), x), "", f" {unit}" if unit else "")


def format_estimate(estimate: Estimate, *, signed: bool = False) -> str:
    """One line of `shown`."""
    return str(shown(estimate, signed=signed))


def significant(value: float, sign: str = "") -> str:
    """Three significant digits, or all digits before the point; never in powers of ten."""
    if value == 0 or not math.isfinite(value):
        return f"{value:{sign}g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:{sign}.{digits}f}"


def with_minus(text: str) -> str:
    """Hyphens before digits as minus signs; names with hyphens and dates stay."""
    return re.sub(r"(?<![\w.])-(?=\d)", MINUS, text)


def _number(text: str, value: float) -> str:
    if math.isinf(value):
        return "unbounded"
    return NO_VALUE if math.isnan(value) else with_minus(text)


def _parts(estimate: Estimate, write: Callable[[float], str], before: str, after: str) -> Shown:
    value, low, high = write(estimate.value), write(estimate.low), write(estimate.high)
    sign = value[0] if value[0] in f"+{MINUS}" else ""
    whole = f"{sign}{before}{value.removeprefix(sign)}{after}" if math.isfinite(estimate.value) else value
    return Shown(whole, f"[{low}, {high}]", f"n={estimate.n}")


# --- grids -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Grid:
    """A table of estimates: one column per policy, one row per suite, family, stage or metric.

    A cell is an Estimate, a text, or None where there is no value. `signed` marks columns that hold differences.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Estimate | str | None, ...]], ...]
    note: str = ""
    signed: frozenset[int] = frozenset()


def suite_grid(summaries: Summaries, metric: str = "success", title: str = "Success by suite") -> Grid:
    """One metric: suites down, policies across."""
    suites = list(dict.fromkeys(suite for by_suite in summaries.values() for suite in by_suite))
    rows = tuple(
        (suite, tuple(_find(by_suite.get(suite, ()), "all", "all", metric) for by_suite in summaries.values()))
        for suite in suites
    )
    note = "Value: a missing result counts as failure. Interval: 95 %, with missing results counted both ways."
    return Grid(title, tuple(summaries), rows, note)


def group_grid(summaries: Summaries, suite: str, by: By, metric: str = "success", title: str = "") -> Grid:
    """One metric on one suite: families (or stages, splits) down, policies across."""
    tables = [by_suite.get(suite, ()) for by_suite in summaries.values()]
    groups = list(dict.fromkeys(row.group for rows in tables for row in rows if row.by == by))
    rows = tuple((group, tuple(_find(found, by, group, metric) for found in tables)) for group in groups)
    return Grid(title or f"{metric.capitalize()} by {by}, suite {suite}", tuple(summaries), rows)


def metric_grid(summaries: Summaries, suite: str, title: str = "") -> Grid:
    """All metrics of one suite down, policies across."""
    tables = [by_suite.get(suite, ()) for by_suite in summaries.values()]
    metrics = list(dict.fromkeys(name for rows in tables for row in rows if row.by == "all" for name in row.numbers))
    rows = tuple(_metric_row(name, [_find(found, "all", "all", name) for found in tables]) for name in metrics)
    return Grid(title or f"All metrics, suite {suite}", tuple(summaries), rows)


def _metric_row(name: str, cells: Sequence[Estimate | None]) -> tuple[str, tuple[Estimate | None, ...]]:
    """The unit moves from the cells to the label, unless it is part of how the number is written."""
    units = {cell.unit for cell in cells if cell is not None}
    if units & WRITTEN_UNITS or units <= {""}:
        return name, tuple(cells)
    bare = tuple(None if cell is None else replace(cell, unit="") for cell in cells)
    return f"{name}, {' or '.join(sorted(units))}", bare


def _find(rows: Sequence[Row], by: By, group: str, metric: str) -> Estimate | None:
    return next((row.numbers.get(metric) for row in rows if (row.by, row.group) == (by, group)), None)
