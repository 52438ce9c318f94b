"""`efficiency`: what an attempt used against a budget. It rewards doing nothing: put it behind a `gate`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from flyball.graders.row import Row
from flyball.graders.spec import GraderSpec
from flyball.graders.spec_grader import SpecGrader
from flyball.types import Attempt, Score


class Efficiency(GraderSpec):
    """1 inside every budget; above one, `over_budget_penalty` is taken off per budget's worth of excess, down to 0.

    `max_tokens` counts what the policy wrote, `max_seconds` the waiting for model and tools.
    """

    type: Literal["efficiency"]
    max_tool_calls: int | None = Field(default=None, ge=1, description="1 or more")
    max_tokens: int | None = Field(default=None, ge=1, description="1 or more")
    max_seconds: float | None = Field(default=None, gt=0, description="above 0")
    over_budget_penalty: float = Field(default=1.0, gt=0, description="above 0; 1 = twice the budget scores 0")

    @model_validator(mode="after")
    def _bounds(self) -> Efficiency:
        if self.max_tool_calls is None and self.max_tokens is None and self.max_seconds is None:
            raise ValueError("it has no budget; give max_tool_calls, max_tokens or max_seconds")
        return self


class EfficiencyGrader(SpecGrader[Efficiency]):
    """The value of the budget that is worst kept; the parts are those of each."""

    async def judge(self, row: Row) -> Score:
        """Compare what was used with the budgets."""
        used = _used(row.attempt)
        budgets = {name: getattr(self.spec, f"max_{name}") for name in used}
        parts = {name: self._kept(used[name], budget) for name, budget in budgets.items() if budget is not None}
        value = min(parts.values())
        over = [f"{name} {used[name]:g} of {budgets[name]:g}" for name, kept in parts.items() if kept < 1.0]
        return Score(value, value, parts=parts, explanation=", ".join(over))

    def _kept(self, used: float, budget: float) -> float:
        excess = max(0.0, used / budget - 1.0)
        return max(0.0, 1.0 - self.spec.over_budget_penalty * excess)


def _used(attempt: Attempt) -> dict[str, float]:
    usage = attempt.usage
    return {
        "tool_calls": float(attempt.num_tool_calls),
        "tokens": float(usage.tokens_out),
        "seconds": usage.model_seconds + usage.tool_seconds,
    }
