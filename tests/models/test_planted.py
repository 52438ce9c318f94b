"""Copying works before any training, and shapes without room for the circuit are refused."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from flyball.errors import ConfigError
from flyball.models import load
from flyball.models.load import new_tiny_model
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
        ({"num_heads": 2, "num_kv_heads": 1}, "num_kv_heads 1 must be at least 2"),
        ({"head_dim": 22}, "head_dim 22 must be even and at least 24"),
        ({"hidden_size": 64, "head_dim": 64}, "hidden_size 64 must be at least 65 for a head_dim of 64"),
        ({"hidden_size": 16, "head_dim": 24}, "hidden_size 16 must be at least 25 for a head_dim of 24"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_a_shape_without_room_is_refused(change: dict[str, int], rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        new_model(replace(SMALL, **change), 0)


@pytest.mark.parametrize(("width", "dim"), [(26, 24), (66, 64), (58, 56)])
def test_the_smallest_shapes_that_are_taken_can_be_built(width: int, dim: int) -> None:
    assert new_model(replace(SMALL, hidden_size=width, head_dim=dim), 0).config.head_dim == dim
