"""A registered policy as the frozen reference that live tokens are scored by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from flyball.models.hf_chat import load_chat
from flyball.models.load import load_model, pays_bfloat16
from flyball.models.planted import hold_planted
from flyball.train.learner import LocalLearner, OptimizerConfig
from flyball.types import TrainingSample

PACK_TOKENS = 4096


def frozen_reference(folder: Path) -> Callable[[Sequence[TrainingSample]], list[npt.NDArray[np.float32]]]:
    """Load the weights of a folder; what comes back gives the logprobs [T] of sampled tokens under them.

    Each sample is scored at the one temperature it was drawn at. Raises ModelError for a folder without a model, and
    TrainError for a draw from a cut distribution whose support was not kept.
    """
    model = load_model(folder)
    hold_planted(model)
    learner = LocalLearner(
        model, load_chat(folder).tokenizer, OptimizerConfig(), max_tokens=PACK_TOKENS, bf16=pays_bfloat16(model)
    )

    def score(samples: Sequence[TrainingSample]) -> list[npt.NDArray[np.float32]]:
        found = []
        for sample in samples:
            (learner.temperature,) = sample.temperatures
            found += learner.forward([sample])
        return found

    return score
