"""Micro-batches: every row once, and a shared beginning that is equal and holds nothing trained."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyball.rl.pack import MIN_SHARING, PREFIX_STEP, micro_batches
from flyball.types import TrainingSample


def sample(tokens: list[int], first_trained: int) -> TrainingSample:
    n = len(tokens)
    zeros = np.zeros(n, np.float32)
    return TrainingSample(np.array(tokens, np.int64), np.arange(n) >= first_trained, zeros, zeros, zeros)


ROOTS = [[5] * 70, [5] * 20 + [6] * 60, [7] * 40]


@st.composite
def batches(draw: st.DrawFn) -> list[TrainingSample]:
    rows = []
    for _ in range(draw(st.integers(1, 24))):
        root = draw(st.sampled_from(ROOTS))
        tokens = root[: draw(st.integers(1, len(root)))] + draw(st.lists(st.integers(0, 9), min_size=1, max_size=30))
        rows.append(sample(tokens, draw(st.integers(1, len(tokens)))))
    return rows


@settings(max_examples=100, deadline=None)
@given(batches(), st.sampled_from([1, 60, 400, 100_000]))
def test_any_batch_is_cut_lawfully(samples: list[TrainingSample], max_tokens: int) -> None:
    cut = micro_batches(samples, max_tokens)
    assert sorted(row for batch in cut for row in batch.rows) == list(range(len(samples)))
    for batch in cut:
        beginnings = {samples[i].token_ids[: batch.prefix].tobytes() for i in batch.rows}
        assert len(beginnings) == 1
        for i in batch.rows:
            trained = np.flatnonzero(samples[i].loss_mask)
            assert batch.prefix == 0 or batch.prefix < trained[0]  # the token before the first trained one is own
        width = max(len(samples[i].token_ids) for i in batch.rows) - batch.prefix
        assert len(batch.rows) == 1 or width * len(batch.rows) <= max_tokens


def test_a_common_beginning_is_shared_as_far_as_it_is_common() -> None:
    group = [sample([1] * 50 + [10 + i] * 8, 52) for i in range(MIN_SHARING)]
    alone = sample([2] * 60, 30)
    cut = {batch.rows: batch.prefix for batch in micro_batches([*group, alone], 10_000)}
    assert cut == {tuple(range(MIN_SHARING)): 50 // PREFIX_STEP * PREFIX_STEP, (MIN_SHARING,): 0}


@pytest.mark.parametrize("samples", [[], [sample([1, 2, 3], 3)]])
def test_nothing_to_train_is_no_trouble(samples: list[TrainingSample]) -> None:
    assert sum(len(batch.rows) for batch in micro_batches(samples, 10)) == len(samples)
