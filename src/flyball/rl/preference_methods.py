"""The table of preference methods: which tokens of a pair count, by which weights, and the loss of the two scores.

A score is sum_t w_t (log pi(t) - log pi_ref(t)), without the reference where a method has none. A row says the scope,
the weights w, and the loss; formulae are those of `preference.py`. Deviations: `step_dpo` and `segment_dpo` take the
first turn in which a better and a worse attempt part, where the paper looks for the first wrong step with a judge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from flyball.errors import ConfigError, nearest
from flyball.rl.pairs import Answer, Scope
from flyball.rl.preference import Pairs, dpo, simpo, turn_weights

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PreferenceMethod:
    """One row. `reads`: the settings that act, with their defaults. `loss` None: KTO, which looks at single answers."""

    name: str
    source: str
    scope: Scope
    weights: Literal["sum", "mean", "turns"]
    reference: bool
    reads: Mapping[str, float]
    loss: Callable[..., Pairs] | None
    tier: Literal["exact", "experimental"] = "exact"

    def loss_of(self, chosen: Floats, rejected: Floats, params: Mapping[str, float]) -> Pairs:
        """Loss [P] and its derivative by each score. The discount of turns is in the scores already."""
        assert self.loss is not None
        return self.loss(chosen, rejected, **{k: v for k, v in params.items() if k in ("beta", "gamma")})

    def settings(self, chosen: Mapping[str, float | None]) -> dict[str, float]:
        """The row's defaults with what was chosen. Raises ConfigError for a setting that the row does not read."""
        given = {name: value for name, value in chosen.items() if value is not None}
        if strangers := sorted(given.keys() - self.reads.keys()):
            raise ConfigError(f"{strangers[0]} would be ignored: {self.name} reads {', '.join(self.reads)}; remove it")
        return {**self.reads, **given}


METHODS: Mapping[str, PreferenceMethod] = {
    row.name: row
    for row in (
        PreferenceMethod("dpo", "2305.18290, eq. 7", "all", "sum", True, {"beta": 0.1}, dpo),
        PreferenceMethod("simpo", "2405.14734, eq. 6", "all", "mean", False, {"beta": 2.5, "gamma": 1.375}, simpo),
        PreferenceMethod(
            "kto", "2402.01306, eq. 8", "all", "sum", True, {"beta": 0.1, "desirable": 1.0, "undesirable": 1.0}, None
        ),
        PreferenceMethod("dmpo", "2406.14868, eq. 12", "all", "turns", True, {"beta": 0.1, "discount": 0.7}, dpo),
        PreferenceMethod("step_dpo", "2406.18629, eq. 2", "step", "sum", True, {"beta": 0.4}, dpo),
        PreferenceMethod(
            "segment_dpo", "DPO on a segment of turns", "segment", "sum", True, {"beta": 0.1}, dpo, "experimental"
        ),
    )
}
"""Rows by name; `training.preference.method` names one."""
METHOD_SETTINGS = tuple(sorted({name for row in METHODS.values() for name in row.reads}))
"""All settings that some row reads."""


def preference_method(name: str) -> PreferenceMethod:
    """Return a row. Raises ConfigError for an unknown name."""
    if name not in METHODS:
        raise ConfigError(f"preference method {name!r} is unknown{nearest(name, METHODS)}")
    return METHODS[name]


def score_weights(answer: Answer, method: PreferenceMethod, params: Mapping[str, Any]) -> list[npt.NDArray[np.float32]]:
    """The weight w_t [T] of every token in the score of an answer, for each of its samples.

    sum: 1; mean: 1 / |y|; turns: phi(t, T) of the token's turn, with T the turns of this answer.
    """
    masks = [s.loss_mask for s in answer.samples]
    if method.weights == "turns":
        phi = turn_weights(answer.num_turns, params["discount"])
        return [np.where(m, phi[t], 0).astype(np.float32) for m, t in zip(masks, answer.turns, strict=True)]
    each = 1.0 if method.weights == "sum" else 1.0 / max(sum(int(m.sum()) for m in masks), 1)
    return [(m * each).astype(np.float32) for m in masks]
