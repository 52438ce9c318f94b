"""The ratio of two ways that were timed in the same rounds, and the work that the trainer's benchmarks share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

import numpy as np

from flyball.errors import EvalError

IDS = (1000, 40_000)
"""Tokens of prompts are drawn from these ids: ordinary words of SmolLM2's vocabulary, no special tokens."""


def median_ratio(rows: Sequence[Mapping[str, float]], over: str, under: str) -> tuple[float, tuple[float, float], int]:
    """Median over rounds of `over` / `under`, its 95 % bootstrap interval, and the number of rounds that have both."""
    ratios = np.array([row[over] / row[under] for row in rows if over in row and under in row])
    if not len(ratios):
        raise EvalError(f"no round has both {over!r} and {under!r}; run the benchmark with --fresh")
    draws = np.random.default_rng(0).choice(ratios, (10_000, len(ratios)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    return median(ratios.tolist()), (float(low), float(high)), len(ratios)
