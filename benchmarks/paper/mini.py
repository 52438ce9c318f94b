"""Miniatures of published mechanisms: arms x seeds on simulated worlds, and what a paired comparison says of them.

A row runs an arm for all its missing seeds at once (arrays over seeds) and gives one dict of metrics per seed. Rows lie
in benchmarks/results/paper/NAME.rows.jsonl, one line per (arm, seed); a line made by other code is run again. Seeds are
shared by the arms, so differences are paired.

Budgets. `@samples`: after the same number of attempts. `@cost`: after the same cost by the price list below, because
seconds of a simulation say nothing about a model's. A sampled token (or model call) costs 1, a token trained in one
update 0.5, whatever else a row charges is said there.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from benchmarks.result import RESULTS, Finding, append_row, bounds, read_rows, rows_file
from flyball.stats.intervals import mean_interval
from flyball.stats.paired import paired_difference

Floats = npt.NDArray[np.float64]
Metrics = dict[str, float]

FOLDER = RESULTS / "paper"
TRAIN_PRICE = 0.5
SHARED = ("mini", "table", "tokens")
FIRST_SEED = 2000
"""Worlds, rates and claims were chosen on seeds below; from here on the first run of a seed is the one that counts."""


@dataclass(frozen=True)
class Check:
    """One claim of a row: candidate - baseline of a metric over the seeds (without a baseline: the metric itself).

    `wanted`: the interval lies above 0, below 0, or above -`margin` (kept). `times`: candidate / baseline instead, the
    interval of the mean log ratio, and 1 in place of 0.
    """

    id: str
    claim: str
    metric: str
    candidate: str
    baseline: str = ""
    wanted: Literal["higher", "lower", "kept"] = "higher"
    margin: float = 0.0
    times: bool = False

    @property
    def target(self) -> str:
        what = f"{self.metric} of {self.candidate}"
        if self.baseline:
            what += f" {'over' if self.times else 'less'} that of {self.baseline}, same seeds"
        edge = 1 if self.times else -self.margin if self.wanted == "kept" else 0
        return f"{what}; holds when the 95 % t interval is {'below' if self.wanted == 'lower' else 'above'} {edge:g}"


@dataclass(frozen=True)
class Row:
    """One mechanism. `run(arm, draws)` returns metrics per seed; `paper`: what the paper reports, with its number."""

    name: str
    title: str
    paper: str
    policy: str
    arms: tuple[str, ...]
    run: Callable[[str, Draws], Sequence[Metrics]]
    checks: tuple[Check, ...]
    seeds: int = 20

    @property
    def seed_range(self) -> range:
        return range(FIRST_SEED, FIRST_SEED + self.seeds)


class Draws:
    """Random numbers of several seeds at once: each has its own stream, so which seeds run together changes nothing."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self.seeds = tuple(seeds)
        self._streams = [np.random.default_rng(seed) for seed in seeds]

    def uniform(self, *shape: int) -> Floats:
        """[S, *shape] in [0, 1)."""
        return np.stack([stream.random(shape) for stream in self._streams])

    def normal(self, *shape: int) -> Floats:
        """[S, *shape], standard normal."""
        return np.stack([stream.standard_normal(shape) for stream in self._streams])

    def choose(self, probabilities: Floats) -> npt.NDArray[np.int64]:
        """One index per distribution: [S, *shape, A] -> [S, *shape]."""
        ends = probabilities.cumsum(-1)
        drawn = self.uniform(*probabilities.shape[1:-1])[..., None] * ends[..., -1:]
        chosen: npt.NDArray[np.int64] = (ends <= drawn).sum(-1).clip(0, probabilities.shape[-1] - 1)
        return chosen


class Curve:
    """What was reached after how many attempts and at what cost, [S] each, and the value at a budget."""

    def __init__(self) -> None:
        self._points: list[tuple[Floats, Floats, Floats]] = []

    def add(self, samples: Floats | float, cost: Floats | float, value: Floats) -> None:
        spread = np.ones(len(value))
        self._points.append((samples * spread, cost * spread, value))

    def at(self, *, samples: float = np.inf, cost: float = np.inf) -> Floats:
        """The last value inside the budget, [S]. Raises ValueError where an arm ended before the budget did."""
        n, c, v = (np.stack(column) for column in zip(*self._points, strict=True))
        if (np.isfinite(samples) and (n[-1] < samples).any()) or (np.isfinite(cost) and (c[-1] < cost).any()):
            raise ValueError(f"an arm ended after {n[-1].min():g} attempts at cost {c[-1].min():g}; run it longer")
        inside = ((n <= samples) & (c <= cost)).sum(0) - 1
        found: Floats = v[inside.clip(0), np.arange(v.shape[1])]
        return found


def per_seed(**metrics: Floats) -> list[Metrics]:
    """Arrays over seeds -> one dict per seed."""
    return [dict(zip(metrics, map(float, values), strict=True)) for values in zip(*metrics.values(), strict=True)]


# --- running ---------------------------------------------------------------------------------------------------------


def code_of(row: Row) -> str:
    """A digest of the row's own code and of what the rows share; layout and comments do not count."""
    own = sys.modules[row.run.__module__]
    texts = [inspect.getsource(own), *(Path(__file__).with_name(f"{name}.py").read_text() for name in SHARED)]
    return hashlib.sha256("".join(ast.dump(ast.parse(text)) for text in texts).encode()).hexdigest()[:16]


def finished(row: Row, folder: Path = FOLDER) -> list[dict[str, Any]]:
    """The lines of a row that this code made, one per (arm, seed)."""
    code = code_of(row)
    return [line for line in read_rows(rows_file(row.name, folder)) if line["code"] == code]


def complete(row: Row, folder: Path = FOLDER) -> list[dict[str, Any]]:
    """Run what is missing of a row, an arm at a time, and return all its lines."""
    kept, file = finished(row, folder), rows_file(row.name, folder)
    if kept != read_rows(file):
        file.unlink()
        for line in kept:
            append_row(file, line)
    for arm in row.arms:
        have = {line["seed"] for line in kept if line["arm"] == arm}
        if missing := [seed for seed in row.seed_range if seed not in have]:
            started = time.process_time()
            made = row.run(arm, Draws(missing))
            cpu = (time.process_time() - started) / len(missing)
            for seed, metrics in zip(missing, made, strict=True):
                append_row(file, {"arm": arm, "seed": seed, "code": code_of(row), "cpu_seconds": cpu, **metrics})
    return finished(row, folder)


# --- what the rows say -----------------------------------------------------------------------------------------------


def values(lines: Sequence[dict[str, Any]], arm: str, metric: str) -> Floats:
    """A metric of an arm in the order of seeds."""
    mine = sorted((line for line in lines if line["arm"] == arm), key=lambda line: line["seed"])
    return np.array([line[metric] for line in mine], np.float64)


def findings(row: Row, lines: Sequence[dict[str, Any]]) -> list[Finding]:
    """Every check of a row as a finding."""
    cpu = sum(line["cpu_seconds"] for line in lines)
    return [_finding(row, check, lines, cpu) for check in row.checks]


def _finding(row: Row, check: Check, lines: Sequence[dict[str, Any]], cpu: float) -> Finding:
    own = values(lines, check.candidate, check.metric)
    change = np.log if check.times else np.asarray
    if check.baseline:
        estimate = paired_difference(change(own), change(values(lines, check.baseline, check.metric)))
    else:
        estimate = mean_interval(own)
    value, (low, high) = estimate.value, bounds(estimate)
    assert low is not None and high is not None, "two seeds or more"
    holds = {"higher": low > 0, "lower": high < 0, "kept": low > -check.margin}[check.wanted]
    if check.times:
        value, low, high = (float(np.exp(x)) for x in (value, low, high))
    arms = {arm: float(values(lines, arm, check.metric).mean()) for arm in row.arms if _has(lines, arm, check.metric)}
    return Finding(
        id=f"{row.name}.{check.id}",
        claim=check.claim,
        target=check.target,
        value=value,
        interval=(low, high),
        n=estimate.n,
        unit="times" if check.times else check.metric,
        holds=holds,
        details={"paper": row.paper, "policy": row.policy, "means": arms, "cpu_seconds_of_the_row": round(cpu, 1)},
    )


def _has(lines: Sequence[dict[str, Any]], arm: str, metric: str) -> bool:
    return any(metric in line for line in lines if line["arm"] == arm)
