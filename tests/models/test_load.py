"""Model folders: what is saved comes back, and what cannot be used is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from flyball.errors import ModelError, StoreError
from flyball.models.hf_chat import load_chat
from flyball.models.load import load_model, new_tiny_model, save_model
from flyball.models.tiny import TinyConfig, train_tokenizer
from flyball.store.artifacts import tree_digest

SHAPE = TinyConfig(vocab_size=300, hidden_size=56, intermediate_size=24, num_layers=2, num_heads=2, head_dim=24)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(["You are the desk."], 300)


def test_a_folder_comes_back_as_it_was_saved(tokenizer: Any, tmp_path: Path) -> None:
    model = new_tiny_model(SHAPE, tokenizer, seed=1)
    digest = save_model(model, tokenizer, tmp_path)
    again = load_model(tmp_path)
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    talk = [{"role": "user", "content": "desk"}]
    assert load_chat(tmp_path).tokenizer.decode(load_chat(tmp_path).render(talk, [])) == (
        "<|system|><|end|><|user|>desk<|end|><|assistant|>"
    )
    assert tree_digest(tmp_path) == digest


def test_the_same_seed_gives_the_same_model_and_digest(tokenizer: Any, tmp_path: Path) -> None:
    digests = [
        save_model(new_tiny_model(SHAPE, tokenizer, s), tokenizer, tmp_path / str(i)) for i, s in enumerate([1, 1, 2])
    ]
    assert digests[0] == digests[1] != digests[2]


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config.json is missing; give a Hugging Face causal-LM folder"):
        load_model(tmp_path)
    with pytest.raises(ModelError, match="has no tokenizer"):
        load_chat(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match=r"the tokenizer in .* cannot be read \(.*\); copy tokenizer\.json"):
        load_chat(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(StoreError, match="holds no file"):
        tree_digest(tmp_path)


def test_broken_weights_are_named(tokenizer: Any, tmp_path: Path) -> None:
    save_model(new_tiny_model(SHAPE, tokenizer, 1), tokenizer, tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ModelError, match="cannot load the model"):
        load_model(tmp_path)


@pytest.mark.parametrize("config", ["{", json.dumps({"model_type": "no-such-architecture"})])
def test_a_malformed_config_is_named(tokenizer: Any, tmp_path: Path, config: str) -> None:
    save_model(new_tiny_model(SHAPE, tokenizer, 1), tokenizer, tmp_path)
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ModelError, match="cannot load the model"):
        load_model(tmp_path)


def test_weights_that_are_not_there_are_not_made_up(tokenizer: Any, tmp_path: Path) -> None:
    save_model(new_tiny_model(SHAPE, tokenizer, 1), tokenizer, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lack \['model.norm.weight'\]"):
        load_model(tmp_path)
