"""Live tokens scored by the weights of a folder: at the temperature they were drawn at, against torch by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from flyball.errors import ModelError
from flyball.models.load import load_model, new_tiny_model, save_model
from flyball.models.tiny import TinyConfig, train_tokenizer
from flyball.types import TrainingSample
from flyball.workflow.frozen_reference import frozen_reference

TOKENIZER = train_tokenizer(["count the bolts again"], 300)
SHAPE = TinyConfig(300, hidden_size=56, intermediate_size=32, num_layers=2, head_dim=24, max_context=256)


def sample(temperature: float) -> TrainingSample:
    ids = np.array([1, 5, 9, 4, 7])
    mask = np.array([False, False, True, True, True])
    zeros = np.zeros(5, np.float32)
    return TrainingSample(ids, mask, zeros, zeros, zeros, temperatures=(temperature,))


def test_each_sample_is_scored_at_its_own_temperature(tmp_path: Path) -> None:
    save_model(new_tiny_model(SHAPE, TOKENIZER, 0), TOKENIZER, tmp_path)
    score = frozen_reference(tmp_path)
    samples = [sample(1.0), sample(0.5)]
    with torch.no_grad():
        logits = load_model(tmp_path)(input_ids=torch.tensor(samples[0].token_ids)[None]).logits[0]
    for one, found in zip(samples, score(samples), strict=True):
        logprobs = torch.log_softmax(logits / one.temperatures[0], -1)
        expected = [float(logprobs[i - 1, one.token_ids[i]]) for i in (2, 3, 4)]
        assert found[2:] == pytest.approx(expected, abs=1e-4) and not found[:2].any()


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is no model folder"):
        frozen_reference(tmp_path)
