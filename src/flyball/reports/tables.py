"""The grids that put policies side by side, each cell with n and interval (`stats.written`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from flyball.evals.summary import By, Row
from flyball.stats.written import WRITTEN_UNITS
from flyball.types import Estimate

Summaries = Mapping[str, Mapping[str, Sequence[Row]]]
"""Policy label -> suite -> the rows of `evals.summary.summarise`; the baseline comes first."""


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
