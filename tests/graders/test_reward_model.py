"""A reward model as a grader: its probability, its version, and what it says when there is no model."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from flyball.capture.best_of import ranked_by
from flyball.errors import ConfigError, ModelError
from flyball.graders.make import grader_from
from flyball.models.reward_head import Facts, RewardModel, save_reward_model
from flyball.models.tiny import train_tokenizer
from tests.graders.rows import attempt, score_of

TOKENIZER = train_tokenizer(["please done"], 300)


def write(folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=300, **shape, num_key_value_heads=2, max_position_embeddings=64)  # type: ignore[arg-type]
    model = RewardModel(LlamaForCausalLM(config), Facts("process", temperature=0.5, centre=0.1))
    model.head.weight.data.normal_()
    save_reward_model(model, TOKENIZER, folder)
    return folder


def test_every_turn_has_a_probability(tmp_path: Path) -> None:
    spec = {"type": "reward_model", "name": "g", "path": str(write(tmp_path / "model"))}
    talk = attempt("done", "user: please", "please done")
    by = {turns: score_of({**spec, "turns": turns}, talk) for turns in ("last", "mean", "min")}
    first, last = by["last"].parts["turn_0"], by["last"].parts["turn_1"]
    assert 0 < first < 1 and first != last
    assert by["last"].value == last and by["min"].value == min(first, last)
    assert by["mean"].value == pytest.approx((first + last) / 2)


def test_a_model_trained_anew_is_another_grader(tmp_path: Path) -> None:
    one, same, other = (write(tmp_path / name, seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    versions = [grader_from({"type": "reward_model", "name": "g", "path": str(p)}).version for p in (one, one, other)]
    assert versions[0] == versions[1] != versions[2]
    assert same != one


def test_a_talk_longer_than_the_model_reads_is_missing(tmp_path: Path) -> None:
    spec = {"type": "reward_model", "path": str(write(tmp_path / "model"))}
    found = score_of(spec, attempt("done " * 200))
    assert found.missing and "can read 64" in found.explanation + str(found.value)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no reward model"):
        grader_from({"type": "reward_model", "name": "g", "path": str(tmp_path)})


def test_it_ranks_the_answers_of_a_turn(tmp_path: Path) -> None:
    chosen = ranked_by(write(tmp_path / "model"), 2)
    asked = [{"role": "user", "content": "please"}]
    answers = [{"role": "assistant", "content": text} for text in ("done", "please", "please done done")]
    scores = [chosen.score([*asked, answer]) for answer in answers]
    assert len(set(scores)) == 3
    assert scores.index(max(scores)) == asyncio.run(chosen.choose(asked, answers))
    assert chosen.name != ranked_by(write(tmp_path / "other", 1), 2).name
    with pytest.raises(ModelError, match="holds no reward model"):
        ranked_by(tmp_path, 2)
