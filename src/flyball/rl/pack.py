"""Which samples share a forward pass: equal beginnings computed once, similar lengths together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flyball.types import TrainingSample

PREFIX_STEP = 16
MIN_SHARING = 4


@dataclass(frozen=True)
class MicroBatch:
    """Rows (indices into the batch) whose first `prefix` tokens are equal and hold no trained token."""

    rows: tuple[int, ...]
    prefix: int


def micro_batches(samples: Sequence[TrainingSample], max_tokens: int) -> list[MicroBatch]:
    """Group rows by their longest shared beginning, then fill batches of at most `max_tokens` padded own tokens.

    A shared beginning stops one token before the first trained one, which is predicted from the token before it. Rows
    that share with fewer than `MIN_SHARING` others go without.
    """
    batches: list[MicroBatch] = []
    for prefix, rows in _by_prefix(samples):
        rows.sort(key=lambda i: len(samples[i].token_ids))
        current: list[int] = []
        for i in rows:
            width = len(samples[i].token_ids) - prefix
            if current and width * (len(current) + 1) > max_tokens:
                batches.append(MicroBatch(tuple(current), prefix))
                current = []
            current.append(i)
        batches.append(MicroBatch(tuple(current), prefix))
    return batches


def _by_prefix(samples: Sequence[TrainingSample]) -> list[tuple[int, list[int]]]:
    shareable = [max(int(np.argmax(s.loss_mask)) - 1, 0) if s.loss_mask.any() else 0 for s in samples]
    left = set(range(len(samples)))
    groups: list[tuple[int, list[int]]] = []
    longest = max(shareable, default=0) // PREFIX_STEP * PREFIX_STEP
    for prefix in range(longest, 0, -PREFIX_STEP):
        same: dict[bytes, list[int]] = defaultdict(list)
        for i in sorted(left):
            if shareable[i] >= prefix:
                same[samples[i].token_ids[:prefix].tobytes()].append(i)
        for rows in same.values():
            if len(rows) >= MIN_SHARING:
                groups.append((prefix, rows))
                left.difference_update(rows)
    if left:
        groups.append((0, sorted(left)))
    return groups
