"""A learner so small that a step takes milliseconds, and ways to die."""

from __future__ import annotations

from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from flyball.models.tiny import train_tokenizer
from flyball.train.learner import LocalLearner, OptimizerConfig
from flyball.types import Estimate

VOCAB = 300
TOKENIZER = train_tokenizer(["desk"], VOCAB)


class Killed(BaseException):
    """The process ends here: nothing after this line happens, nothing catches it."""


def small_learner(seed: int = 0, lr: float = 1e-2) -> LocalLearner:
    """Equal seeds give equal weights."""
    torch.manual_seed(seed)
    shape: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "initializer_range": 0.1}
    config = LlamaConfig(vocab_size=VOCAB, **shape, **heads, max_position_embeddings=64, tie_word_embeddings=True)
    return LocalLearner(LlamaForCausalLM(config), TOKENIZER, OptimizerConfig(lr=lr))


def validated(share: float) -> Estimate:
    """A validation that found this share."""
    return Estimate(share, share, share, 1)


def same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
