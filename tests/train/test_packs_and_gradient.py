"""Any split of a batch into packs has the gradient of one pack, for every aggregation, however uneven the lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from flyball.rl.aggregate import MODES
from flyball.rl.algorithms import algorithm
from flyball.rl.samples import weighted
from flyball.train import learner as learner_module
from flyball.train.learner import LocalLearner, LossSpec, OptimizerConfig
from flyball.types import TrainingSample

VOCAB = 17
POLICY = LossSpec("policy", algorithm("rloo").loss_params(kl_coef=0.0))
ROOTS = [[3] * 30, [3] * 12 + [4] * 11]


def new_learner() -> LocalLearner:
    torch.manual_seed(0)
    shape: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2}
    config = LlamaConfig(vocab_size=VOCAB, **shape, **heads, max_position_embeddings=64, tie_word_embeddings=True)
    return LocalLearner(LlamaForCausalLM(config), None, OptimizerConfig())


LEARNER = new_learner()


@st.composite
def batches(draw: st.DrawFn) -> list[TrainingSample]:
    """Rows of 2 to 50 tokens that share beginnings or do not; some train nothing, some a single token."""
    rows = []
    for i in range(draw(st.integers(2, 7))):
        root = draw(st.sampled_from(ROOTS))[: draw(st.integers(1, 30))]
        tokens = np.array([*root, *draw(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=20))], np.int64)
        rng = np.random.default_rng(i)
        mask = np.zeros(len(tokens), np.bool_)
        mask[1:] = rng.random(len(tokens) - 1) < draw(st.sampled_from([0.0, 0.2, 1.0]))
        numbers = [rng.normal(-2, 1, len(tokens)).astype(np.float32) for _ in range(3)]
        rows.append(TrainingSample(tokens, mask, *numbers))
    return rows


def gradient(parts: Sequence[Sequence[TrainingSample]], max_tokens: int) -> torch.Tensor:
    """Of the parts, one after the other, each cut into packs of `max_tokens`."""
    LEARNER.max_tokens = max_tokens
    for parameter in LEARNER.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for part in parts:
        LEARNER.forward_backward(part, POLICY)
    return torch.cat([p.grad.flatten() for p in LEARNER.model.parameters()])


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=25, deadline=None)
@given(batches(), st.integers(1, 120), st.integers(1, 6), st.integers(VOCAB, 9 * VOCAB))
def test_any_split_has_the_gradient_of_one_pack(
    mode: str, samples: list[TrainingSample], max_tokens: int, first_part: int, logits: int
) -> None:
    samples = weighted(samples, mode, 64 if mode == "seq-mean-token-sum-norm" else None)
    whole = gradient([samples], 100_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learner_module, "LOGIT_BYTES", 4 * logits)
        cut = gradient([samples[:first_part], samples[first_part:]], max_tokens)
    torch.testing.assert_close(cut, whole, rtol=1e-4, atol=1e-5 * max(1.0, float(whole.abs().max())))


@pytest.mark.parametrize("mode", MODES)
def test_weights_made_after_the_cut_would_be_another_gradient(mode: str) -> None:
    """What the property would catch: each part with weights of its own (invariant 3)."""
    rng = np.random.default_rng(0)
    samples = []
    for n in (3, 40):
        numbers = [rng.normal(-2, 1, n).astype(np.float32) for _ in range(3)]
        samples.append(TrainingSample(rng.integers(0, VOCAB, n), np.arange(n) > 0, *numbers))
    horizon = 64 if mode == "seq-mean-token-sum-norm" else None
    exact = gradient([weighted(samples, mode, horizon)], 100_000)
    parts = [weighted([sample], mode, horizon) for sample in samples]
    assert not torch.allclose(gradient(parts, 100_000), exact, rtol=1e-2)
    halved = [[replace(s, loss_weights=s.loss_weights / 2) for s in part] for part in parts]
    assert torch.allclose(gradient(halved, 100_000), exact, rtol=1e-3) == (mode != "token-mean")
