"""The gate on protected slices: a bad fixture release is refused, a good one passes, nothing declared is no pass."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flyball.release.evidence import Evidence
from flyball.release.gates import gate
from flyball.release.slices import SLICES_GATE, with_slices
from tests.evals.desk import result, run

MARGINS = {"french": 0.05}


def evidence(french_after: float, margins: dict[str, float] | None = None, n: int = 300) -> Evidence:
    """`n` French tasks of 2 n, all solved before, a share of them after; the others gain."""
    slices = {"french": tuple(f"t{i:03}" for i in range(n))}
    before = [result(f"t{i:03}", i < n or i % 2 == 0) for i in range(2 * n)]
    after = [result(f"t{i:03}", i < n * french_after or i >= n) for i in range(2 * n)]
    arms = [replace(run(arm, name), slices=slices) for arm, name in ((before, "b"), (after, "c"))]
    return Evidence.from_runs(arms[:1], arms[1:], slice_margins=MARGINS if margins is None else margins)


@pytest.mark.parametrize(
    ("given", "state", "says"),
    [
        (evidence(1.0), "pass", "test/french: +0.0 points"),
        (evidence(0.7), "fail", "margin 5"),
        (evidence(0.95), "inconclusive", "n=300"),
        (evidence(1.0, {}), "not_evaluable", "no slice is protected"),
        (evidence(1.0, {"french": 0.05, "german": 0.05}), "not_evaluable", "no suite has a task of slice german"),
        (evidence(1.0, {"german": 0.05}), "not_evaluable", "'french' has no margin"),
    ],
)
def test_the_gate_follows_the_worst_slice(given: Evidence, state: str, says: str) -> None:
    found = gate(SLICES_GATE).evaluate(given)
    assert (found.state, says in found.reason) == (state, True), found.reason


def test_it_is_asked_wherever_slices_are_declared() -> None:
    assert with_slices(["missing_rate"], {}) == ("missing_rate",)
    assert with_slices(["missing_rate"], MARGINS) == ("missing_rate", SLICES_GATE)
    assert with_slices([SLICES_GATE], MARGINS) == (SLICES_GATE,)
