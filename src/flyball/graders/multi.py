"""`multi`: several graders and a formula over their scores (openai-rft 3.7)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from flyball.errors import ConfigError
from flyball.graders.flags import ERROR_FLAGS, PASSED, NotGraded
from flyball.graders.formula import FUNCTIONS, Formula
from flyball.graders.row import Row
from flyball.graders.spec import Multi
from flyball.graders.spec_grader import SpecGrader, unit_score
from flyball.types import AttemptGroup, Missing, Score


class MultiGrader(SpecGrader[Multi]):
    """The formula's number. Its parts are the variables, and what each grader remarked as `variable/remark`.

    A part without a grade counts as `invalid_grade` where the spec gives one. Where it does not, the whole has no
    grade: OpenAI would count 0, which cannot be told from a bad answer.
    """

    def __init__(self, spec: Multi, graders: Mapping[str, SpecGrader[Any]]) -> None:
        super().__init__(spec)
        if taken := {*FUNCTIONS, *ERROR_FLAGS, PASSED} & set(graders):
            raise ConfigError(f"grader {spec.name!r}: a variable cannot be called {sorted(taken)[0]!r}; rename it")
        self._graders = graders
        self._formula = Formula(spec.calculate_output, list(graders), f"grader {spec.name!r}")

    @property
    def parts(self) -> tuple[SpecGrader[Any], ...]:
        return tuple(self._graders.values())

    def _made_of(self) -> list[str]:
        return [f"{variable} {grader.version}" for variable, grader in sorted(self._graders.items())]

    async def judge(self, row: Row) -> Score:
        """Ask every grader at the same time and work out the formula. Raises NotGraded."""
        asked = (grader.grade(row.attempt, row.hidden) for grader in self._graders.values())
        return self._combined(dict(zip(self._graders, await asyncio.gather(*asked), strict=True)))

    async def judge_group(self, rows: Sequence[Row]) -> list[Score]:
        """Ask every grader about all attempts beside each other. Raises NotGraded for all of them."""
        group = AttemptGroup(rows[0].attempt.task, tuple(row.attempt for row in rows))
        asked = await asyncio.gather(*(grader.grade_group(group) for grader in self._graders.values()))
        return [self._combined_or_none(dict(zip(self._graders, one, strict=True))) for one in zip(*asked, strict=True)]

    def _combined_or_none(self, scores: Mapping[str, Score]) -> Score:
        """A formula that does not evaluate for one attempt costs that one its grade."""
        try:
            return self._combined(scores)
        except NotGraded as why:
            return why.score(self.raw_range)

    def _combined(self, scores: Mapping[str, Score]) -> Score:
        remarks = {f"{name}/{remark}": value for name, score in scores.items() for remark, value in score.parts.items()}
        values = {name: self._value(score) for name, score in scores.items()}
        given = {name: value for name, value in values.items() if value is not None}
        if len(given) < len(values):
            return Score(_first_missing(scores), parts={**given, **remarks})
        result = self._formula.value(given)
        explanation = "; ".join(f"{name}: {score.explanation}" for name, score in scores.items() if score.explanation)
        return unit_score(result, explanation, {**given, **remarks})

    def _value(self, score: Score) -> float | None:
        """What a part counts for, None for a missing one that nothing stands in for."""
        if not isinstance(score.value, Missing):
            return score.value if score.raw is None else score.raw
        return self.spec.invalid_grade


def _first_missing(scores: Mapping[str, Score]) -> Missing:
    for name, score in scores.items():
        if isinstance(score.value, Missing):
            return Missing(f"{name}: {score.value.cause}", score.value.fault)
    raise AssertionError("called only when a part is missing")
