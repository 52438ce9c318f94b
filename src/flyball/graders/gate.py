"""`gate`: 0 unless every condition holds, else what the rest says. What must never be traded for points goes here."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from flyball.graders.flags import PASSED
from flyball.graders.row import Row
from flyball.graders.spec import GraderSpec
from flyball.graders.spec_grader import SpecGrader
from flyball.types import AttemptGroup, Missing, Score


class Gate(GraderSpec):
    """`require`: name -> grader that has to give 1, or reach its own `pass_threshold`. `then`: the grader of the rest.

    A condition without a grade leaves the whole without one. `then` is asked only when the gate is open, so a judge
    there costs nothing on attempts that fail a rule.
    """

    type: Literal["gate"]
    require: Mapping[str, Mapping[str, Any]] = Field(min_length=1, description="a map of a name to a grader")
    then: Mapping[str, Any]


class GateGrader(SpecGrader[Gate]):
    """Parts: each condition as 0 or 1, what it remarked as `condition/remark`, and the parts of the rest."""

    def __init__(self, spec: Gate, require: Mapping[str, SpecGrader[Any]], then: SpecGrader[Any]) -> None:
        super().__init__(spec)
        self._require, self._then = require, then
        self.raw_range = then.raw_range
        self.decides = then.decides

    @property
    def parts(self) -> tuple[SpecGrader[Any], ...]:
        return (*self._require.values(), self._then)

    def _made_of(self) -> list[str]:
        return [*(f"{name} {grader.version}" for name, grader in sorted(self._require.items())), self._then.version]

    async def judge(self, row: Row) -> Score:
        """Ask the conditions at the same time, then the rest."""
        held = await self._conditions(row)
        return held if held.value != 1.0 else _behind(held, await self._then.grade(row.attempt, row.hidden))

    async def judge_group(self, rows: Sequence[Row]) -> list[Score]:
        """Judge those for which the gate is open beside each other."""
        held = await asyncio.gather(*map(self._conditions, rows))
        through = [i for i, score in enumerate(held) if score.value == 1.0]
        if through:
            passed = AttemptGroup(rows[0].attempt.task, tuple(rows[i].attempt for i in through))
            for i, rest in zip(through, await self._then.grade_group(passed), strict=True):
                held[i] = _behind(held[i], rest)
        return held

    async def _conditions(self, row: Row) -> Score:
        """1 where the gate is open, 0 where it is closed."""
        asked = (grader.grade(row.attempt, row.hidden) for grader in self._require.values())
        scores = dict(zip(self._require, await asyncio.gather(*asked), strict=True))
        parts = {f"{name}/{what}": value for name, score in scores.items() for what, value in score.parts.items()}
        for name, score in scores.items():
            if isinstance(score.value, Missing):
                return Score(Missing(f"{name}: {score.value.cause}", score.value.fault), parts=parts)
        held = {name: score.parts.get(PASSED, float(score.value == 1.0)) for name, score in scores.items()}
        parts = {**held, **parts}
        if closed := [name for name, holds in held.items() if not holds]:
            why = "; ".join(f"{name}: {scores[name].explanation or 'does not hold'}" for name in closed)
            return Score(0.0, 0.0, self.raw_range, parts, f"the gate is closed: {why}")
        return Score(1.0, parts=parts)


def _behind(held: Score, rest: Score) -> Score:
    """What the rest says, with the parts of the conditions."""
    return Score(rest.value, rest.raw, rest.raw_range, {**rest.parts, **held.parts}, rest.explanation)
