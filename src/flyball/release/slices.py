"""`protected_slices_not_worse`: no group that was named beforehand pays for what the others gain.

It is asked wherever slices are declared (`with_slices`), whether the list of gates names it or not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from flyball.errors import EvalError
from flyball.evals.slices import compare_slices, decisive
from flyball.release.evidence import Evidence
from flyball.release.gate import Finding, Gate, not_evaluable, worst_of
from flyball.types import Comparison, GateState

SLICES_GATE = "protected_slices_not_worse"
_STATES: Mapping[str, GateState] = {"accept": "pass", "reject": "fail", "inconclusive": "inconclusive"}


def with_slices(
    names: Iterable[str | Mapping[str, Any]], slice_margins: Mapping[str, float]
) -> tuple[str | Mapping[str, Any], ...]:
    """The gates to ask: the named ones, and that on slices where any is protected."""
    asked = tuple(names)
    return asked if not slice_margins or SLICES_GATE in asked else (*asked, SLICES_GATE)


def _judge(evidence: Evidence) -> Finding:
    if problem := evidence.problem():
        return not_evaluable(problem)
    if not evidence.slice_margins:
        return not_evaluable("no slice is protected; name the groups that must not lose in evaluation.slices")
    try:
        found = {
            suite: compare_slices(pair.baseline, pair.candidate, evidence.slice_margins)
            for suite, pair in evidence.suites.items()
        }
    except EvalError as error:
        return not_evaluable(error.args[0])
    met = {name for pair in evidence.suites.values() for name in pair.baseline.slices}
    if absent := [name for name in evidence.slice_margins if name not in met]:
        return not_evaluable(f"no suite has a task of slice {', '.join(absent)}")
    return worst_of({one.suite: _finding(one) for one in decisive(found)})


def _finding(one: Comparison) -> Finding:
    difference, margin = one.difference, one.margin
    said = (
        f"{100 * difference.value:+.1f} points [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}], "
        f"n={difference.n}, margin {100 * margin:g}"
    )
    facts = {"difference": difference, "margin": margin}
    return Finding(_STATES[one.verdict], said, facts, one.more_needed, difference.low + margin)


PROTECTED_SLICES = Gate(
    name=SLICES_GATE,
    metric="success on each protected slice, candidate minus baseline, paired by task",
    rule="every slice above minus its own margin (95 % interval) on the first suite that has tasks of it, and shown to "
    "lose more on no other (5 % over all slices of a suite together)",
    margin=0.0,
    owner="Product",
    evidence="evaluation",
    judge=_judge,
)
"""`margin` 0: each slice has its own, which the reason names."""
