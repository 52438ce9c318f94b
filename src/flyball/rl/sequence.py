"""Rules about whole sequences, put into the samples before an update.

The learner may see a sequence in pieces, so what depends on all of it becomes a constant of each token first: a weight
and an entropy bonus go into the advantage (every surrogate is linear in a factor of A that is not negative), and the
sequence ratio of GSPO into the old logprobs. Here a sequence is one branch of an attempt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from flyball.rl.aggregate import loss_weights, sequences_of
from flyball.rl.algorithms import Algorithm
from flyball.rl.correction import by_length, correction, log_gap
from flyball.rl.ratio import as_sequence_ratio
from flyball.types import TrainingSample

Floats = npt.NDArray[np.float64]


def entropy_controlled(advantages: Floats, entropies: Floats, weight: float, threshold: float | None) -> Floats:
    """delta (A - gamma <H>), delta 0 where the mean entropy <H> is above the threshold.  GTPO, 2508.03772."""
    mean = float(entropies.mean())
    if threshold is not None and mean > threshold:
        return np.zeros(len(advantages))
    return advantages - weight * mean


def with_sequence_terms(
    sample: TrainingSample, logprobs: npt.ArrayLike, entropies: npt.ArrayLike, algorithm: Algorithm
) -> tuple[TrainingSample, dict[str, float]]:
    """The sample with its sequence terms, given the logprobs and entropies [T] of the policy now; and what was kept.

    Sums of `tis_capped`, `logprob_gap`, `tokens@CLASS`, `kept@CLASS` over its tokens.
    """
    mask = sample.loss_mask
    now, mu = np.asarray(logprobs, np.float64)[mask], sample.sampling_logprobs[mask].astype(np.float64)
    old = now if sample.old_logprobs is None else sample.old_logprobs[mask].astype(np.float64)
    old = mu if algorithm.proximal == "sampler" else old
    advantages = sample.advantages[mask].astype(np.float64)
    if algorithm.entropy_weight or algorithm.entropy_threshold is not None:
        h = np.asarray(entropies, np.float64)[mask]
        advantages = entropy_controlled(advantages, h, algorithm.entropy_weight, algorithm.entropy_threshold)
    weights, kept = correction(algorithm.correction).weights(
        log_gap(old, mu), algorithm.correction_low, algorithm.correction_high
    )
    found = {"tis_capped": ~kept, "logprob_gap": np.abs(log_gap(old, mu))}
    found |= by_length(kept, np.full(len(kept), len(kept)))
    old = as_sequence_ratio(now, old) if algorithm.sequence_ratio else old
    put = replace(sample, advantages=_at(mask, advantages * weights), old_logprobs=_at(mask, old))
    return put, {name: float(values.sum()) for name, values in found.items()}


def renormalised(samples: Sequence[TrainingSample], algorithm: Algorithm, horizon: int | None) -> list[TrainingSample]:
    """Loss weights of the accepted tokens alone, rejected ones 0: `correction_normalizer: accepted`.

    The samples carry `old_logprobs`. Factors that a preset put on the weights are kept.
    """
    chosen = correction(algorithm.correction)
    accepted = []
    for sample in samples:
        mask = sample.loss_mask.copy()
        assert sample.old_logprobs is not None
        log_rho = log_gap(
            sample.old_logprobs[mask].astype(np.float64), sample.sampling_logprobs[mask].astype(np.float64)
        )
        mask[mask] = chosen.weights(log_rho, algorithm.correction_low, algorithm.correction_high)[1]
        accepted.append(mask)
    parts = sequences_of(samples)
    before = loss_weights([s.loss_mask for s in samples], algorithm.loss_agg_mode, horizon, parts)
    after = loss_weights(accepted, algorithm.loss_agg_mode, horizon, parts)
    return [
        replace(s, loss_weights=np.divide(s.loss_weights * a, b, out=np.zeros_like(b), where=b > 0))
        for s, a, b in zip(samples, after, before, strict=True)
    ]


def _at(mask: npt.NDArray[np.bool_], values: Floats) -> npt.NDArray[np.float32]:
    out = np.zeros(len(mask), np.float32)
    out[mask] = values
    return out
