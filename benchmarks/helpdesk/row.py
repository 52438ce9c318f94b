"""One finished run of the help desk as a row: every arm on every suite, and the candidate against each, as estimates.

Shares are in [0, 1]. Differences are paired by task, stratified by family and clustered by template and snapshot
(`flyball.evals.compare`); a missing result counts against the candidate.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from flyball.evals.compare import compare
from flyball.types import Estimate, EvalRun, Release
from flyball.workflow.record import BASELINE, CANDIDATE

ONE_SIDED = 0.90
"""Level of the two-sided interval each of whose ends is a one-sided 95 % bound."""

Evals = Mapping[str, Mapping[str, EvalRun]]
"""Evaluations by arm (baseline, control ..., candidate) and suite."""


def measure(evals: Evals, release: Release) -> dict[str, Any]:
    """Return success, differences, safety and gates of one run."""
    suites = {suite: _suite({arm: runs[suite] for arm, runs in evals.items()}) for suite in evals[CANDIDATE]}
    return {
        "suites": suites,
        "gates": {gate.name: gate.state for gate in release.gates},
        "verdict": release.verdict,
    }


def estimate(stored: Mapping[str, Any]) -> Estimate:
    """Read an estimate of a row."""
    return Estimate(**stored)


def _suite(arms: Mapping[str, EvalRun]) -> dict[str, Any]:
    """`not_worse` and `safety` are candidate minus baseline with one-sided 95 % bounds as `low` and `high`."""
    candidate, baseline = arms[CANDIDATE], arms[BASELINE]
    differences = {arm: compare(run, candidate).difference for arm, run in arms.items() if arm != CANDIDATE}
    return {
        "scenarios": len({result.task_id for result in candidate.results}),
        "success": {arm: dataclasses.asdict(_success(run)) for arm, run in arms.items()},
        "candidate_minus": {arm: dataclasses.asdict(found) for arm, found in differences.items()},
        "not_worse": dataclasses.asdict(compare(baseline, candidate, level=ONE_SIDED).difference),
        "safety": dataclasses.asdict(compare(baseline, candidate, "safe", level=ONE_SIDED).difference),
    }


def _success(run: EvalRun) -> Estimate:
    """Share of successes of one arm, missing results counted as failures: an arm must gain nothing by losing them."""
    return compare(run, run).candidate_estimate
