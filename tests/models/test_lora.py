"""Adapters: no change at first, only they learn, and what they compute is what the merged model computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import LlamaConfig, LlamaForCausalLM

from flyball.errors import ConfigError, TrainError
from flyball.models.load import load_model
from flyball.models.lora import ADAPTER, add_lora, merged_state
from flyball.models.tiny import train_tokenizer
from flyball.rl.samples import weighted
from flyball.train.learner import LocalLearner, LossSpec, OptimizerConfig
from flyball.types import TrainingSample

VOCAB = 300


def llama() -> Any:
    torch.manual_seed(0)
    shape: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCAB, **shape, **heads, tie_word_embeddings=True))


def learner(targets: tuple[str, ...] = (), rank: int = 4) -> LocalLearner:
    model = llama()
    add_lora(model, rank, 8.0, targets, seed=1)
    return LocalLearner(model, train_tokenizer(["desk"], VOCAB), OptimizerConfig(lr=1e-2))


def batch() -> list[TrainingSample]:
    rng = np.random.default_rng(0)
    zeros = np.zeros(20, np.float32)
    rows = [rng.integers(0, VOCAB, 20) for _ in range(3)]
    return weighted([TrainingSample(r, np.arange(20) > 8, zeros, zeros, zeros) for r in rows], "token-mean")


def steps(one: LocalLearner, n: int) -> list[float]:
    losses = []
    for _ in range(n):
        losses.append(one.forward_backward(batch(), LossSpec("sft"))["loss"])
        one.optim_step()
    return losses


TOKENS = torch.arange(30)[None]


def test_an_adapter_changes_nothing_at_first_and_only_it_learns() -> None:
    one, plain = learner(), llama()
    torch.testing.assert_close(one.weights(), plain.state_dict())
    losses = steps(one, 5)
    assert losses[-1] < losses[0] - 0.1
    after = one.weights()
    changed = {k.rsplit(".", 2)[-2] for k, v in plain.state_dict().items() if not torch.equal(v, after[k])}
    assert changed == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_only_the_named_layers_have_one() -> None:
    one = learner(("q_proj", "down_proj"))
    assert {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in one.snapshot()} == {"q_proj", "down_proj"}


def test_the_merged_folder_and_the_adapter_compute_what_the_learner_does(tmp_path: Path) -> None:
    one = learner()
    steps(one, 3)
    one.publish(tmp_path)
    merged = load_model(tmp_path)
    with_adapter = PeftModel.from_pretrained(llama(), tmp_path / ADAPTER)
    with torch.no_grad():
        base, expected = llama()(TOKENS).logits, merged(TOKENS).logits
        torch.testing.assert_close(with_adapter(TOKENS).logits, expected, rtol=1e-4, atol=1e-4)
    assert (expected - base).abs().max() > 0.1
    for name, value in merged_state(one.model).items():
        torch.testing.assert_close(merged.state_dict()[name], value)


def test_saved_and_loaded_it_goes_on_bit_for_bit(tmp_path: Path) -> None:
    unbroken, first, second = learner(), learner(), learner()
    steps(unbroken, 4)
    steps(first, 2)
    first.save(tmp_path)
    assert all(".lora_" in name for name in torch.load(tmp_path / "learner.pt", weights_only=True)["model"])
    second.load(tmp_path)
    steps(second, 2)
    assert all(torch.equal(v, unbroken.snapshot()[k]) for k, v in second.snapshot().items())


def test_a_checkpoint_of_full_training_is_refused(tmp_path: Path) -> None:
    LocalLearner(llama(), None, OptimizerConfig()).save(tmp_path)
    with pytest.raises(TrainError, match="of another model or adapter"):
        learner().load(tmp_path)


def test_a_target_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no linear layer 'q_porj'.*did you mean 'q_proj'"):
        learner(("q_porj",))
    with pytest.raises(ConfigError, match="no linear layer 'lm_head'"):
        learner(("lm_head",))
