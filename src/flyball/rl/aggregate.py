"""From an aggregation mode to `loss_weights`, over the whole optimizer-step batch, before anything is cut or packed.

The learner only sums weight x loss (invariant 3), so micro-batches, packing and ranks cannot change the objective.
Symbols: B sequences that train at least one token, m loss mask [T], H a constant horizon in tokens. A sequence is one
attempt with all its branches: an attempt whose context was rewritten on the way counts as often as any other.

    mode                     weight of token t of sequence i      used by
    token-mean               m / sum over the batch of m          DAPO, arXiv 2503.14476
    seq-mean-token-mean      m / (B sum_t m_i)                    GRPO, arXiv 2402.03300
    seq-mean-token-sum       m / B                                plain policy gradient
    seq-mean-token-sum-norm  m / (B H)                            Dr. GRPO, arXiv 2503.20783
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence

import numpy as np
import numpy.typing as npt

from flyball.errors import ConfigError, nearest
from flyball.types import TrainingSample

MODES = ("token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm")
Mask = npt.NDArray[np.bool_]


def sequences_of(samples: Sequence[TrainingSample]) -> list[Hashable]:
    """What each sample is part of: its attempt; a sample without one (a demonstration) is a sequence of its own."""
    return [sample.attempt_id or i for i, sample in enumerate(samples)]


def loss_weights(
    masks: Sequence[Mask], mode: str, horizon: int | None = None, sequences: Sequence[Hashable] | None = None
) -> list[npt.NDArray[np.float32]]:
    """Weights [T] for each mask [T]; fully masked sequences get zeros and are left out of B.

    `sequences` says which masks are parts of one sequence (`sequences_of`); None: each is one of its own. Raises
    ConfigError for an unknown mode, and for `seq-mean-token-sum-norm` without a horizon.
    """
    if mode not in MODES:
        raise ConfigError(f"loss aggregation {mode!r} is unknown{nearest(mode, MODES)}")
    if (mode == "seq-mean-token-sum-norm") != (horizon is not None):
        raise ConfigError(f"a horizon goes with 'seq-mean-token-sum-norm' and only with it; got {mode!r}, {horizon}")
    keys = range(len(masks)) if sequences is None else sequences
    lengths: Counter[Hashable] = Counter()
    for key, mask in zip(keys, masks, strict=True):
        lengths[key] += int(mask.sum())
    total, trained = sum(lengths.values()), sum(n > 0 for n in lengths.values())
    if total == 0:
        return [np.zeros(len(m), np.float32) for m in masks]
    divisors: dict[str, Callable[[int], int]] = {
        "token-mean": lambda n: total,
        "seq-mean-token-mean": lambda n: trained * n,
        "seq-mean-token-sum": lambda n: trained,
        "seq-mean-token-sum-norm": lambda n: trained * (horizon or 1),
    }
    divisor = divisors[mode]
    return [(m / max(divisor(lengths[key]), 1)).astype(np.float32) for key, m in zip(keys, masks, strict=True)]
