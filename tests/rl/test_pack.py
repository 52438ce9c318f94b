"""Packs: every sample once, whole, over a tree in which what is shared is stored once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyball.rl.pack import MIN_SHARED, Pack, packs
from flyball.types import TrainingSample


def sample(tokens: list[int], first_trained: int = 1) -> TrainingSample:
    n = len(tokens)
    zeros = np.zeros(n, np.float32)
    return TrainingSample(np.array(tokens, np.int64), np.arange(n) >= first_trained, zeros, zeros, zeros)


def num_tokens(pack: Pack) -> int:
    return sum(len(piece.tokens) for piece in pack.pieces)


ROOTS = [[5] * 70, [5] * 20 + [6] * 60, [7] * 40]


@st.composite
def batches(draw: st.DrawFn) -> list[TrainingSample]:
    rows = []
    for _ in range(draw(st.integers(1, 24))):
        root = draw(st.sampled_from(ROOTS))
        tokens = root[: draw(st.integers(1, len(root)))] + draw(st.lists(st.integers(0, 9), max_size=30))
        rows.append(sample(tokens, draw(st.integers(1, len(tokens)))))
    return rows


@settings(max_examples=100, deadline=None)
@given(batches(), st.sampled_from([1, 60, 400, 100_000]))
def test_any_batch_is_packed_whole(samples: list[TrainingSample], max_tokens: int) -> None:
    made = packs(samples, max_tokens)
    assert sorted(row for pack in made for row in pack.rows) == list(range(len(samples)))
    for pack in made:
        tokens = np.concatenate([piece.tokens for piece in pack.pieces])
        positions = np.concatenate(
            [np.arange(len(p.tokens)) + sum(len(pack.pieces[i].tokens) for i in p.path) for p in pack.pieces]
        )
        for row, places in zip(pack.rows, pack.places, strict=True):
            assert tokens[places].tolist() == samples[row].token_ids.tolist()
            assert positions[places].tolist() == list(range(len(places)))
        assert num_tokens(pack) <= sum(len(samples[row].token_ids) for row in pack.rows)


def test_what_is_shared_is_stored_once_at_every_level() -> None:
    """Worked by hand: 50 of all, 12 of either ticket, 4 + 5 + 6 + 7 of the attempts' own: 50 + 24 + 22 tokens."""
    tickets = [[1] * 50 + [2 + i] * 12 for i in range(2)]
    samples = [sample(tickets[i // 2] + [20 + i] * (4 + i)) for i in range(4)]
    (pack,) = packs(samples, 10_000)
    assert [(len(p.tokens), p.path) for p in pack.pieces] == [
        (50, ()), (12, (0,)), (4, (0, 1)), (5, (0, 1)), (12, (0,)), (6, (0, 4)), (7, (0, 4)),
    ]  # fmt: skip
    assert num_tokens(pack) == 96


def test_equal_samples_are_one_piece() -> None:
    (pack,) = packs([sample([3] * 20)] * 3, 10_000)
    assert [len(piece.tokens) for piece in pack.pieces] == [20] and len(pack.places) == 3


def test_too_little_to_share_is_computed_twice() -> None:
    few = [sample([1] * (MIN_SHARED - 1) + [5 + i] * 3) for i in range(2)]
    (pack,) = packs(few, 10_000)
    assert [piece.path for piece in pack.pieces] == [(), ()]


def test_packs_are_filled_up_to_their_tokens() -> None:
    """A beginning of 40 and ten own tokens each: 40 + 6 x 10 = 100 fit, so 13 samples make packs of 6, 6 and 1."""
    samples = [sample([1] * 40 + [5 + i] * 10) for i in range(13)]
    made = packs(samples, 100)
    assert [len(pack.rows) for pack in made] == [6, 6, 1]
    assert [num_tokens(pack) for pack in made] == [100, 100, 50]


@pytest.mark.parametrize("samples", [[], [sample([1, 2, 3], 3)]])
def test_nothing_to_train_is_no_trouble(samples: list[TrainingSample]) -> None:
    assert sum(len(pack.rows) for pack in packs(samples, 10)) == len(samples)
