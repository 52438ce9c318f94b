"""Rewards on turns: a function says what each model call of an attempt was worth, for presets that tell turns apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import numpy as np

from flyball.errors import Fault
from flyball.tools.source import source_digest
from flyball.tools.user_code import explain, run_user_code
from flyball.types import Attempt, Missing


class TurnGrader:
    """A function `(attempt, hidden)` that returns one finite number per call of `attempt.trajectory.calls`, in order.

    Its version is the digest of its source. What it returns otherwise, or raises, is the grader's fault: `Missing`.
    """

    def __init__(self, fn: Callable[..., Any], name: str = "turn_reward", *, timeout_seconds: float = 60.0) -> None:
        self.name = name
        self.version = source_digest(fn)
        self._fn = fn
        self._timeout_seconds = timeout_seconds

    async def measure(self, attempt: Attempt, hidden: Mapping[str, Any]) -> tuple[float, ...] | Missing:
        """The rewards, one per call, or Missing with its cause."""
        finished = await run_user_code(self._fn, {}, self._timeout_seconds, attempt, hidden)
        if finished.timed_out:
            return self._missing(f"did not return within {self._timeout_seconds:g} s", attempt)
        if finished.error is not None:
            return self._missing(f"raised {explain(finished.error)}", attempt)
        said, calls = finished.value, len(attempt.trajectory.calls)
        if not isinstance(said, (list, tuple, np.ndarray)) or len(said) != calls:
            what = f"{len(said)} values" if isinstance(said, (list, tuple, np.ndarray)) else type(said).__name__
            return self._missing(f"returned {what} for {calls} calls; return a list with one number per call", attempt)
        for value in said:
            if not isinstance(value, (Real, np.bool_)) or not math.isfinite(float(value)):
                return self._missing(f"returned {str(value)[:40]!r}; a reward is a finite number", attempt)
        return tuple(float(value) for value in said)

    def _missing(self, what: str, attempt: Attempt) -> Missing:
        return Missing(f"grader {self.name!r} {what}, on attempt {attempt.attempt_id}", Fault.GRADER)
