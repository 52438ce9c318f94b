"""`stop`: the attempt ended when the work was done, not before and not long after."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from flyball.graders.row import Row
from flyball.graders.spec import GraderSpec
from flyball.graders.spec_grader import SpecGrader
from flyball.graders.steps import steps_of
from flyball.graders.value import Value
from flyball.types import Score, StopReason


class Stop(GraderSpec):
    """0 when it ended before every tool of `needed` had done its work, or ran into a limit or a loop.

    Each call after the work was done, beyond `max_after`, takes off an equal share of the calls that were needed.
    `needed`: a list of tools, or a template of one; a tool that is named twice has to be called twice.
    """

    type: Literal["stop"]
    needed: Any
    max_after: int = Field(default=1, ge=0, description="calls that may follow to verify, 0 or more")


class StopGrader(SpecGrader[Stop]):
    """Parts: `too_early`, `too_late` (1 when it was)."""

    def __init__(self, spec: Stop) -> None:
        super().__init__(spec)
        self._needed = Value(spec.needed, f"grader {spec.name!r}, needed")

    async def judge(self, row: Row) -> Score:
        """Find where the work was done. Raises NotGraded."""
        open_work = self._needed.texts(row, "needed")
        wanted, after = max(1, len(open_work)), 0
        for step in steps_of(row.attempt):
            if not open_work:
                after += 1
            elif step.done and step.name in open_work:
                open_work.remove(step.name)
        limit = row.attempt.stop is not StopReason.ANSWERED
        if open_work:
            said = f"it ended ({row.attempt.stop}) before {', '.join(open_work)}"
            return Score(0.0, 0.0, parts={"too_early": 1.0, "too_late": float(limit)}, explanation=said)
        excess = max(0, after - self.spec.max_after)
        value = 0.0 if limit else max(0.0, 1.0 - excess / wanted)
        said = f"{after} calls after the work was done; it ended as {row.attempt.stop}" if excess or limit else ""
        return Score(value, value, parts={"too_early": 0.0, "too_late": float(value < 1.0)}, explanation=said)
