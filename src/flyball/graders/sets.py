"""`f1`: how much of a set was found, and how much of what was named belongs to it (files to edit, facts to tell)."""

from __future__ import annotations

from typing import Any, Literal

from flyball.errors import Fault
from flyball.graders.flags import NotGraded
from flyball.graders.row import Row
from flyball.graders.spec import GraderSpec
from flyball.graders.spec_grader import SpecGrader
from flyball.graders.steps import occurs
from flyball.graders.value import Value
from flyball.types import Score


class SetOverlap(GraderSpec):
    """F1, precision or recall of `predicted` against `expected`, both lists.

    With `recall` alone `predicted` may be text, and an expected entry counts as found when the text names it. Recall
    does not punish naming everything: bound it with a `gate`, or take f1.
    """

    type: Literal["f1"]
    predicted: Any
    expected: Any
    measure: Literal["f1", "precision", "recall"] = "f1"


class SetOverlapGrader(SpecGrader[SetOverlap]):
    """Compares entries by their text, trimmed and without case; entries that are named twice count once."""

    def __init__(self, spec: SetOverlap) -> None:
        super().__init__(spec)
        self._predicted = Value(spec.predicted, f"grader {spec.name!r}, predicted")
        self._expected = Value(spec.expected, f"grader {spec.name!r}, expected")

    async def judge(self, row: Row) -> Score:
        """Compare the sets. Raises NotGraded: an expected set that is no list or empty is the row's fault."""
        expected = _as_set(self._expected.of(row))
        if not expected:
            raise NotGraded("invalid_variable_error", "expected is not a list with at least one entry")
        predicted = self._predicted.of(row)
        if isinstance(predicted, str) and self.spec.measure == "recall":
            found = {entry for entry in expected if occurs(entry, predicted)}
            return self._score(len(found), len(found), len(expected), expected - found)
        named = _as_set(predicted)
        if named is None:
            cause = f"the output has {str(predicted)[:80]!r} where a list belongs"
            raise NotGraded("sample_parse_error", cause, Fault.POLICY)
        return self._score(len(named & expected), len(named), len(expected), expected - named)

    def _score(self, hits: int, named: int, expected: int, missed: set[str]) -> Score:
        precision, recall = hits / named if named else 0.0, hits / expected
        both = precision + recall
        parts = {"precision": precision, "recall": recall, "f1": 2 * precision * recall / both if both else 0.0}
        value = parts[self.spec.measure]
        said = f"not named: {', '.join(sorted(missed)[:8])}" if missed else ""
        return Score(value, value, parts=parts, explanation=said)


def _as_set(value: Any) -> set[str] | None:
    """Return the entries as text, None when there is no list of plain values."""
    if not isinstance(value, (list, tuple)) or any(isinstance(entry, (list, tuple, dict)) for entry in value):
        return None
    return {str(entry).strip().casefold() for entry in value if str(entry).strip()}
