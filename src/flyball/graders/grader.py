"""A grader reports on an attempt; when it cannot, that is the grader's fault and the score is Missing.

A function is enough: `fn(attempt, hidden) -> bool | float | None | Score`, sync or async. None, an exception, NaN, a
number outside the range or any other type is never a zero: it is `Missing` with the grader at fault (invariant 2).
Functions must not change what they are given: the same task is graded many times.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from numbers import Real
from typing import Any, Protocol, TypeGuard

import numpy as np

from flyball.errors import Fault
from flyball.tools.source import source_digest
from flyball.tools.user_code import explain, run_user_code
from flyball.types import Attempt, AttemptGroup, Missing, Score

Verdict = bool | float | None | Score
GraderFunction = Callable[[Attempt, Any], Verdict] | Callable[[Attempt, Any], Awaitable[Verdict]]
UNIT = (0.0, 1.0)
ANY_FINITE = (-math.inf, math.inf)


class Grader(Protocol):
    """What judges attempts. `version` changes whenever its judgement may (invariant 11)."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    async def grade(self, attempt: Attempt, hidden: Mapping[str, Any]) -> Score:
        """Return a score, Missing with its cause when there is none. Never raises for what the grader did."""
        ...


class GroupGrader(Grader, Protocol):
    """What may judge attempts at one task beside each other. `ranks`: whether it does."""

    @property
    def ranks(self) -> bool: ...

    async def grade_group(self, group: AttemptGroup) -> list[Score]:
        """Return a score for each attempt, in order; Missing for all of them when there is no ranking. Never raises."""
        ...


def ranks(grader: Grader | None) -> TypeGuard[GroupGrader]:
    """Whether a grader judges an attempt beside those of its group."""
    return bool(getattr(grader, "ranks", False))


class FunctionGrader:
    """A grader made of a function; its version is the digest of the function's source."""

    def __init__(self, fn: GraderFunction, name: str, *, timeout_seconds: float = 60.0) -> None:
        self.name = name
        self.version = source_digest(fn)
        self._fn = fn
        self._timeout_seconds = timeout_seconds

    async def grade(self, attempt: Attempt, hidden: Mapping[str, Any]) -> Score:
        """Return a score in [0, 1]."""
        value = await self.measure(attempt, hidden, UNIT)
        if isinstance(value, Score):
            return value
        raw = None if isinstance(value, Missing) else value
        return Score(value, raw, UNIT, grader=self.name, grader_version=self.version)

    async def measure(
        self, attempt: Attempt, hidden: Mapping[str, Any], raw_range: tuple[float, float]
    ) -> float | Missing | Score:
        """Return what the function said: a number within `raw_range` (ends included), Missing, or its own Score."""
        finished = await run_user_code(self._fn, {}, self._timeout_seconds, attempt, hidden)
        if finished.timed_out:
            return self._missing(f"did not return within {self._timeout_seconds:g} s", attempt)
        if finished.error is not None:
            return self._missing(f"raised {explain(finished.error)}", attempt)
        return self._read(finished.value, attempt, raw_range)

    def _read(self, said: Any, attempt: Attempt, raw_range: tuple[float, float]) -> float | Missing | Score:
        if isinstance(said, Score):
            return replace(said, value=self._checked(said, attempt), grader=self.name, grader_version=self.version)
        if said is None:
            return self._missing("returned None: no judgement", attempt)
        return self._number(said, attempt, raw_range)

    def _checked(self, score: Score, attempt: Attempt) -> float | Missing:
        """Return the value of the function's own Score, or Missing for the first number in it that is not one."""
        if isinstance(score.value, Missing):
            return score.value
        value = self._number(score.value, attempt, UNIT)
        others = [*([] if score.raw is None else [score.raw]), *score.parts.values()]
        wrong = [n for n in (self._number(other, attempt, ANY_FINITE) for other in others) if isinstance(n, Missing)]
        return wrong[0] if wrong else value

    def _number(self, said: Any, attempt: Attempt, raw_range: tuple[float, float]) -> float | Missing:
        if not isinstance(said, (Real, np.bool_)):
            return self._missing(
                f"returned {type(said).__name__} {str(said)[:40]!r}; return bool, float or Score", attempt
            )
        value, (low, high) = float(said), raw_range
        if not math.isfinite(value):
            return self._missing(f"returned {value}; a score is a finite number", attempt)
        if not low <= value <= high:
            return self._missing(f"returned {value:g}, outside {low:g} to {high:g}", attempt)
        return value

    def _missing(self, what: str, attempt: Attempt) -> Missing:
        return Missing(f"grader {self.name!r} {what}, on attempt {attempt.attempt_id}", Fault.GRADER)
