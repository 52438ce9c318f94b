"""A trained reward model as a grader: the probability that it gives an attempt, calibrated on tasks held out.

    {"type": "reward_model", "path": "folder of the model"}        what the stage `reward_model` leaves

torch and the model come in when a grader is made, not when this module is. The version is the digest of the folder, so
a model that was trained anew is another grader (invariant 11).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from flyball.errors import ConfigError, ModelError
from flyball.graders.flags import NotGraded
from flyball.graders.row import Row
from flyball.graders.spec import GraderSpec
from flyball.graders.spec_grader import SpecGrader
from flyball.store.artifacts import tree_digest
from flyball.types import Score


class RewardModelSpec(GraderSpec):
    """`turns`: what the turns of an attempt make together, for a model of steps; one of outcomes reads the last."""

    type: Literal["reward_model"]
    path: str = Field(min_length=1, description="folder of a reward model")
    turns: Literal["last", "mean", "min"] = Field(default="last", description="which turns count: last, mean or min")


class RewardModelGrader(SpecGrader[RewardModelSpec]):
    """Raises ConfigError when the folder holds no reward model or the extra `train` is not installed."""

    def __init__(self, spec: RewardModelSpec) -> None:
        super().__init__(spec)
        try:
            from flyball.models.reward_head import load_reward_model
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"grader {spec.name!r} runs a model, which needs {error.name}; pip install 'flyball[train]'"
            ) from error
        folder = Path(spec.path)
        try:
            self._scorer: Any = load_reward_model(folder)
        except ModelError as error:
            raise ConfigError(f"grader {spec.name!r}: {error.args[0]}") from error
        self._digest = tree_digest(folder)

    def _made_of(self) -> list[str]:
        return [self._digest]

    async def judge(self, row: Row) -> Score:
        """The probability of the attempt; `parts` hold that of each turn."""
        try:
            scores = self._scorer.scores(row.attempt.messages)
        except ModelError as error:
            raise NotGraded("other_error", f"grader {self.name!r}: {error.args[0]}") from error
        if not scores:
            raise NotGraded("other_error", "the assistant never spoke, so there is nothing to score")
        each = [self._scorer.probability(score) for score in scores]
        value = {"last": each[-1], "mean": sum(each) / len(each), "min": min(each)}[self.spec.turns]
        return Score(value, value, parts={f"turn_{i}": p for i, p in enumerate(each)})
