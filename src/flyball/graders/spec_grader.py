"""A grader made of a spec: its name, its version by content, and a score for every attempt whatever goes wrong."""

from __future__ import annotations

import asyncio
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeVar

import orjson

from flyball.graders.flags import PASSED, NotGraded
from flyball.graders.row import Row
from flyball.graders.spec import GraderSpec
from flyball.tools.user_code import explain
from flyball.types import Attempt, AttemptGroup, Score

S = TypeVar("S", bound=GraderSpec)
UNIT = (0.0, 1.0)


class SpecGrader(ABC, Generic[S]):
    """Judges by a spec. `revision` goes up when the code below would judge otherwise: it is part of the version."""

    revision: ClassVar[int] = 1
    decides: bool = False
    """whether every score is 0 or 1"""
    version_mark: ClassVar[str] = ""

    raw_range: tuple[float, float] = UNIT

    def __init__(self, spec: S) -> None:
        self.spec = spec
        self.name = spec.name

    @cached_property
    def version(self) -> str:
        """Digest of the spec and of what it is judged with."""
        text = "\n".join([self.spec.type, str(self.revision), self.spec.digest, *self._made_of()])
        return self.version_mark + hashlib.sha256(text.encode()).hexdigest()

    @property
    def parts(self) -> tuple[SpecGrader[Any], ...]:
        """The graders that this one asks."""
        return ()

    @property
    def ranks(self) -> bool:
        """Whether it, or one that it asks, judges an attempt beside those of its group."""
        return any(part.ranks for part in self.parts)

    def _made_of(self) -> list[str]:
        """What else the judgement depends on: versions of libraries, the judge's address, the parts."""
        return []

    @abstractmethod
    async def judge(self, row: Row) -> Score:
        """Return the score of a row. Raises NotGraded when there is none."""

    async def grade(self, attempt: Attempt, hidden: Mapping[str, Any]) -> Score:
        """Return a score, Missing with its cause when there is none. Never raises."""
        row = Row(attempt, hidden)
        return (await self._reported([row], self._judge_one(row)))[0]

    async def grade_group(self, group: AttemptGroup) -> list[Score]:
        """Return a score for each attempt, in order. Never raises."""
        rows = [Row(attempt, group.task.hidden) for attempt in group.attempts]
        return await self._reported(rows, self.judge_group(rows))

    async def judge_group(self, rows: Sequence[Row]) -> list[Score]:
        """Return the scores of attempts at one task, here each for itself. Raises NotGraded for all of them."""
        return await asyncio.gather(*(self.grade(row.attempt, row.hidden) for row in rows))

    async def _judge_one(self, row: Row) -> list[Score]:
        return [await self.judge(row)]

    async def _reported(self, rows: Sequence[Row], judging: Awaitable[list[Score]]) -> list[Score]:
        """The scores with remarks, name and version, whatever becomes of the judging."""
        try:
            scores = await judging
        except NotGraded as why:
            scores = [why.score(self.raw_range)] * len(rows)
        except Exception as error:  # a mistake in a grader costs its score, not the run
            raised = NotGraded("other_error", f"grader {self.name!r} raised {explain(error)}")
            scores = [raised.score(self.raw_range)] * len(rows)
        return [
            replace(
                score, parts={**score.parts, **self._remarks(score, row)}, grader=self.name, grader_version=self.version
            )
            for score, row in zip(scores, rows, strict=True)
        ]

    def _remarks(self, score: Score, row: Row) -> dict[str, float]:
        remarks = {"truncated_observation_error": 1.0} if row.truncated else {}
        if self.spec.pass_threshold is not None and score.raw is not None and not score.missing:
            remarks[PASSED] = float(score.raw >= self.spec.pass_threshold)
        return remarks


class Decision:
    """A grader with a `pass_threshold` as one that answers yes or no."""

    def __init__(self, grader: SpecGrader[Any]) -> None:
        self.grader = grader
        self.name = grader.name

    @property
    def version(self) -> str:
        return self.grader.version

    async def grade(self, attempt: Attempt, hidden: Mapping[str, Any]) -> Score:
        """Return 1 where the threshold was reached, 0 where not, Missing as it was."""
        score = await self.grader.grade(attempt, hidden)
        return score if score.missing else replace(score, value=score.parts[PASSED])


def rules_of(grader: Any) -> set[str]:
    """Return digests of what a grader and all it asks judge by, whatever they are called."""
    if isinstance(grader, Decision):
        grader = grader.grader
    if not isinstance(grader, SpecGrader):
        return {grader.version}
    written = grader.spec.model_dump(mode="json", exclude_none=True, exclude={"name", "pass_threshold"})
    return {orjson.dumps(written, option=orjson.OPT_SORT_KEYS).hex()}.union(*map(rules_of, grader.parts))


def unit_score(raw: float, explanation: str = "", parts: Mapping[str, float] | None = None) -> Score:
    """Return a score whose number means what it says in [0, 1] and is cut there; a reward reads the uncut `raw`."""
    value = min(1.0, max(0.0, raw))
    if value != raw:
        explanation = f"{raw:g} is outside 0 to 1 and reported as {value:g}. {explanation}".rstrip()
    return Score(value, raw, UNIT, dict(parts or {}), explanation)
