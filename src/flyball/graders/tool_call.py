"""`tool_call`: the call that was needed was made, with the right arguments, and what it gave was used.

Arguments are compared after normalising (lists sorted, numbers written as text read as numbers, empty ones dropped),
which removes verdicts on spelling; a soft match of k of n expected arguments scores 0.5 + 0.5 k / n.
Source: iterative reward calibration, arXiv 2604.02869.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import islice
from typing import Any, Literal

from pydantic import Field

from flyball.graders.flags import NotGraded
from flyball.graders.row import Row
from flyball.graders.spec import GraderSpec
from flyball.graders.spec_grader import SpecGrader
from flyball.graders.steps import Step, leaves, occurs, steps_of
from flyball.graders.value import Value
from flyball.types import Attempt, Score

NAME_ALONE = 0.5
MOST_VALUES = 2000
"""Values of a result that are looked for."""
SHORTEST_USED = 3
"""Characters: a shorter value is found in any text by chance."""


class ToolCallSpec(GraderSpec):
    """The best call of `tool` in the attempt, against `arguments`.

    `match`: `subset` (the expected ones are there, others may be), `exact` (no others), `soft` (a share of them).
    `result_used`: something that the call returned has to appear in what the policy wrote or called afterwards.
    """

    type: Literal["tool_call"]
    tool: str = Field(min_length=1)
    arguments: Mapping[str, Any] = Field(default_factory=dict)
    match: Literal["subset", "exact", "soft"] = "subset"
    result_used: bool = False


class ToolCallGrader(SpecGrader[ToolCallSpec]):
    """Parts: `name` (it was called and did its work), `arguments` (share that is right), `result_used`."""

    def __init__(self, spec: ToolCallSpec) -> None:
        super().__init__(spec)
        self._tool = Value(spec.tool, f"grader {spec.name!r}, tool")
        self._arguments = Value(spec.arguments, f"grader {spec.name!r}, arguments")

    async def judge(self, row: Row) -> Score:
        """Take the best call of the tool. Raises NotGraded."""
        tool, expected = self._tool.of(row), self._arguments.of(row)
        if not isinstance(tool, str):
            raise NotGraded("invalid_variable_error", f"tool is {str(tool)[:60]!r}; it is the name of a tool")
        calls = [step for step in steps_of(row.attempt) if step.name == tool and _counts(step)]
        if not calls:
            return Score(0.0, 0.0, parts={"name": 0.0}, explanation=f"{tool} was never called with success")
        scored = [(self._match(step.arguments, expected), step) for step in calls]
        share, best = max(scored, key=lambda pair: pair[0])
        value = {"soft": NAME_ALONE + (1 - NAME_ALONE) * share}.get(self.spec.match, float(share == 1.0))
        parts = {"name": 1.0, "arguments": share}
        if self.spec.result_used:
            parts["result_used"] = float(any(result_used(row.attempt, step) for s, step in scored if s == share))
            value *= parts["result_used"]
        said = "" if share == 1.0 else f"{tool} was called with {best.call.arguments[:120]}"
        return Score(value, value, parts=parts, explanation=said)

    def _match(self, has: Mapping[str, Any], expected: Mapping[str, Any]) -> float:
        """Share of the expected arguments that are right; 0 for `exact` when there are others."""
        mine, wanted = normal(has), normal(expected)
        if self.spec.match == "exact" and mine.keys() - wanted.keys():
            return 0.0
        if not wanted:
            return 1.0
        return sum(bool(key in mine and mine[key] == value) for key, value in wanted.items()) / len(wanted)


def _counts(step: Step) -> bool:
    """A call that the row's API never executes has no result and is graded as it was written."""
    return step.result is None or step.done


def result_used(attempt: Attempt, step: Step) -> bool:
    """Whether something that a step returned is in what the policy wrote or called after it."""
    try:
        shown = json.loads(step.shown)
    except (ValueError, RecursionError):
        shown = step.shown.split()
    values = dict.fromkeys(leaf for leaf in islice(leaves(shown), MOST_VALUES) if len(leaf) >= SHORTEST_USED)
    later = [call for turn, call in enumerate(attempt.trajectory.calls) if turn > step.turn]
    text = "\n".join([str(call.message.get("content") or "") for call in later] or [""])
    text += "\n".join(made.arguments for call in later for made in call.tool_calls)
    given = step.call.arguments
    return any(occurs(value, text) for value in values if not occurs(value, given))


def normal(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments for comparison: empty ones dropped, numbers in text read, lists sorted, all the way down."""
    made = {key: _normal(value) for key, value in arguments.items()}
    return {key: value for key, value in made.items() if value not in (None, "", [], {})}


def _normal(value: Any) -> Any:
    if isinstance(value, Mapping):
        return normal(value)
    if isinstance(value, (list, tuple)):
        return sorted((_normal(one) for one in value), key=repr)
    if isinstance(value, str):
        text = value.strip()
        try:
            return float(text) if text.replace(".", "", 1).lstrip("+-").isdecimal() else text.casefold()
        except ValueError:
            return text.casefold()
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
