"""Copying works before any training, and shapes without room for the circuit are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from flyball.errors import ConfigError
from flyball.models import load
from flyball.models.load import load_model, new_tiny_model
from flyball.models.planted import hold_planted
from flyball.models.tiny import TinyConfig

VOCAB, LENGTH, GAP = 400, 24, 40
SMALL = TinyConfig(vocab_size=VOCAB, hidden_size=96, intermediate_size=64, num_layers=2, head_dim=32)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


class Tokens(SimpleNamespace):
    """What a new model asks of its tokenizer."""

    def __len__(self) -> int:
        return VOCAB


def new_model(config: TinyConfig, seed: int) -> Any:
    return new_tiny_model(config, Tokens(eos_token_id=0, pad_token_id=1), seed).eval()


def copying(config: TinyConfig, seeds: int = 5) -> float:
    """Share of tokens predicted when a random stretch comes again after a gap, its first two tokens given."""
    right = 0
    for seed in range(seeds):
        draw = torch.Generator().manual_seed(seed)
        stretch, gap = (
            torch.randint(8, VOCAB, (LENGTH,), generator=draw),
            torch.randint(8, VOCAB, (GAP,), generator=draw),
        )
        with torch.no_grad():
            predicted = new_model(config, seed)(torch.cat([stretch, gap, stretch])[None]).logits[0].argmax(-1)
        at = LENGTH + GAP
        right += int((predicted[at + 1 : -1] == stretch[2:]).sum())
    return right / (seeds * (LENGTH - 2))


def test_a_stretch_is_copied_before_any_training() -> None:
    assert copying(replace(TinyConfig(), vocab_size=VOCAB)) > 0.8


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"num_heads": 4},  # two query heads share keys and values
        {"num_heads": 6, "num_kv_heads": 3},
        {"num_layers": 4},
        {"hidden_size": 99, "num_heads": 3, "num_kv_heads": 3},
        {"head_dim": 64, "hidden_size": 160},
    ],
    ids=str,
)
def test_other_shapes_copy_too(change: dict[str, int]) -> None:
    assert copying(replace(SMALL, **change)) > 0.5


def test_without_the_circuit_nothing_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "plant_copying", lambda model, seed: None)
    assert copying(SMALL) < 0.05


def test_the_same_seed_gives_the_same_weights() -> None:
    first, again, other = (new_model(SMALL, seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not torch.equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


def test_later_heads_name_what_they_look_at() -> None:
    """A head that attends to one token alone adds that token's code: here by hand, through the weights of layer 1."""
    model = new_model(SMALL, 0)
    attention, dim = model.model.layers[1].self_attn, SMALL.head_dim
    codes = model.model.embed_tokens.weight[:, :dim]
    for head in range(1, SMALL.num_heads):
        written = attention.o_proj.weight[:, head * dim : (head + 1) * dim]
        moved = written @ attention.v_proj.weight[head * dim : (head + 1) * dim, :dim] @ codes.T  # [C, V]
        assert bool((torch.nn.functional.cosine_similarity(moved[:dim], codes.T, dim=0) > 0.99).all())
        assert not moved[dim:].any()


def test_training_leaves_the_circuit_and_moves_the_rest() -> None:
    model = new_model(SMALL, 0)
    hold_planted(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tokens = torch.randint(8, VOCAB, (1, 40), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    dim = SMALL.head_dim
    for layer in (0, 1):
        for name, axis in (("q_proj", 0), ("k_proj", 0), ("v_proj", 0), ("o_proj", 1)):
            key = f"model.layers.{layer}.self_attn.{name}.weight"
            moved = (model.state_dict()[key] - before[key]).abs().transpose(0, axis)
            assert not moved[:dim].any() and moved[dim:].any(), key


def test_a_model_that_was_not_planted_stays_free(tmp_path: Path) -> None:
    model = new_model(SMALL, 0)
    model.config.flyball_planted = False
    hold_planted(model)
    model(input_ids=torch.tensor([[9, 10, 9]]), labels=torch.tensor([[9, 10, 9]])).loss.backward()
    assert model.model.layers[1].self_attn.v_proj.weight.grad[: SMALL.head_dim].any()


def test_the_mark_is_in_the_folder(tmp_path: Path) -> None:
    new_model(SMALL, 0).save_pretrained(tmp_path)
    assert load_model(tmp_path).config.flyball_planted is True


def test_everything_can_be_trained() -> None:
    """The circuit is where weights start, not a wall: a gradient reaches every matrix."""
    model = new_model(SMALL, 0)
    tokens = torch.randint(8, VOCAB, (1, 40), generator=torch.Generator().manual_seed(0))
    for _ in range(2):  # the silenced output projections need one step before anything behind them hears of it
        model(input_ids=tokens, labels=tokens).loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad
    assert all(bool(parameter.grad.any()) for parameter in model.parameters())


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"num_layers": 1}, "num_layers 1 must be at least 2"),
        ({"head_dim": 22}, "head_dim 22 must be even and at least 24"),
        ({"hidden_size": 128, "head_dim": 64}, "hidden_size 128 must be at least 129 for a head_dim of 64"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_a_shape_without_room_is_refused(change: dict[str, int], rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        new_model(replace(SMALL, **change), 0)


@pytest.mark.parametrize(("width", "dim"), [(50, 24), (130, 64), (114, 56)])
def test_the_smallest_shapes_that_are_taken_can_be_built(width: int, dim: int) -> None:
    assert new_model(replace(SMALL, hidden_size=width, head_dim=dim), 0).config.head_dim == dim
